"""Commands on plugins: list what there is, write a new one, check it, put a selector on a board."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ckptbench.cli import options as opt

if TYPE_CHECKING:
    from ckptbench.plugins import PluginSpec

PluginFile = Annotated[Path, typer.Argument(metavar="FILE", help="a plugin file")]
Listed = Literal["suites", "targets", "selectors", "extractors", "penalties", "studies"]


def list_(
    what: Annotated[Listed, typer.Argument(help="the kind of thing to list")],
    plugins: opt.Plugins = None,
    json_: opt.Json = False,
) -> None:
    """List suites, targets, selectors, extractors, penalties or studies."""
    import pandas as pd

    if what == "suites":
        from ckptbench.suites import known_suites, load_suite

        suites = [load_suite(name) for name in known_suites()]
        rows = [
            {"suite": s.name, "source runs": len(s.sources), "targets": len(s.targets),
             "FE protocols": len(s.fe), "FT protocols": len(s.ft), "title": s.title}
            for s in suites
        ]  # fmt: skip
    elif what == "targets":
        from ckptbench.data.names import known_sets

        rows = [{"data set": name, "what it is": about} for name, about in known_sets()]
    elif what == "studies":
        from ckptbench.studies.catalogue import STUDIES

        rows = [{"study": name} | vars(study) for name, study in STUDIES.items()]
        for row in rows:
            del row["name"]
    else:
        rows = _plugin_rows(what, plugins or [], whole=json_)
    opt.print_frame(pd.DataFrame(rows), json_)


def _plugin_rows(
    what: Literal["selectors", "extractors", "penalties"], plugins: list[str], whole: bool
) -> list[dict[str, Any]]:
    """A row a plugin; those that cannot be loaded are named on standard error. ``whole``: for a machine."""
    from ckptbench.plugins import PLURALS, load_plugins

    registry = load_plugins(next(kind for kind, plural in PLURALS.items() if plural == what), plugins)
    for where, message in registry.broken.items():
        print(f"ckptbench: plugin {where} cannot be loaded: {message}", file=sys.stderr)
    rows = []
    for spec in registry.specs.values():
        row: dict[str, Any] = {spec.kind: spec.name}
        parameters = ",".join(f"{key}={value}" for key, value in spec.defaults.items())
        paper = str(getattr(spec.plugin, "paper", ""))
        if what == "selectors":
            row |= {"needs": _needs(spec), "paper": paper if whole else paper.partition(",")[0]}
            row |= {"published direction": getattr(spec.plugin, "published", "higher")}
            row |= {"parameters": parameters} if whole else {}
        elif what == "extractors":
            row |= {"architectures": ", ".join(spec.make().architectures())}
        else:
            row |= {"parameters": parameters, "paper": paper}
        rows.append(row | {"origin": spec.origin})
    return rows


def _needs(spec: PluginSpec) -> str:
    """What a selector needs beside features and labels; ``pool`` where it scores whole trajectories."""
    beside = {
        "source_probs": "source head",
        "source_logits": "source head",
        "source": "source rows",
        "source_images": "source images",
        "target_images": "target images",
    }
    needs = [beside.get(need, need) for need in spec.needs if need not in ("features", "labels")]
    if "labels" not in spec.needs:
        needs.append("no labels" if "features" in spec.needs else "nothing")
    return ", ".join([*needs, *(["pool"] if spec.pool else [])])


def new(
    what: Annotated[Literal["selector", "extractor", "penalty"], typer.Argument(help="the kind of plugin")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="lower-case words with hyphens: my-score")],
    out: Annotated[Path, typer.Option("--out", help="the folder for the file")] = Path(),
    plugins: opt.Plugins = None,
) -> None:
    """Write a commented plugin that already runs."""
    from ckptbench.scores.template import new as write_template

    print(f"wrote {write_template(what, name, out, plugins or ())}")


def check(file: PluginFile, plugins: opt.Plugins = None, json_: opt.Json = False) -> None:
    """Run the conformance tests on every plugin of a file; exits with 1 where one fails."""
    import pandas as pd

    from ckptbench.pipeline.check import check_file

    found = check_file(file, plugins or ())
    if json_:
        opt.print_json({name: [vars(f) for f in findings] for name, findings in found.items()})
    else:
        words = {True: "passed", False: "FAILED", None: "exempt"}
        for name, findings in found.items():
            rows = [(f.test, words[f.passed], f"{f.seconds:.2f}", f.message) for f in findings]
            heads = [name, "result", "seconds", "what was found"]
            opt.print_frame(pd.DataFrame(rows, columns=heads), False)
    if any(f.passed is False for findings in found.values() for f in findings):
        raise typer.Exit(1)


def judge_selector(
    file: PluginFile,
    suite: Annotated[str, typer.Option("--suite", help="a suite with a frozen bundle")],
    plugins: opt.Plugins = None,
    store: opt.StorePath = None,
    workers: opt.Workers = None,
    json_: opt.Json = False,
) -> None:
    """Put a new selector on a published leaderboard: seconds, no data, no training."""
    from ckptbench.pipeline.bundle import frozen_folder
    from ckptbench.pipeline.judge_selector import judge_selector as judge_file

    judged = judge_file(file, frozen_folder(suite), plugins=plugins or (), store=store, workers=workers)
    if json_:
        opt.print_json({"selectors": judged.selectors, **json.loads(judged.boards.json())})
    else:
        print(judged.boards.terminal())
        print("\n".join(judged.sentences()))
