"""Commands on plugins: list what there is, write a new one, check it, put a selector on a board."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptbench.cli.options import Json, PluginFile, Plugins, StorePath, Workers, print_frame

if TYPE_CHECKING:
    import pandas as pd

    from ckptbench.plugins import Kind, PluginSpec


class Listed(StrEnum):
    suites = "suites"
    targets = "targets"
    selectors = "selectors"
    extractors = "extractors"
    penalties = "penalties"
    studies = "studies"


class New(StrEnum):
    selector = "selector"
    extractor = "extractor"
    penalty = "penalty"


def list_(
    what: Annotated[Listed, typer.Argument(help="the kind of thing to list")],
    plugins: Plugins = None,
    json_: Json = False,
) -> None:
    """List suites, targets, selectors, extractors, penalties or studies."""
    import pandas as pd

    if what is Listed.suites:
        from ckptbench.suites import known_suites, load_suite

        suites = [load_suite(name) for name in known_suites()]
        frame = pd.DataFrame(
            {
                "suite": s.name,
                "source runs": len(s.sources),
                "targets": len(s.targets),
                "FE protocols": len(s.fe),
                "FT protocols": len(s.ft),
                "title": s.title,
            }
            for s in suites
        )
    elif what is Listed.targets:
        from ckptbench.data.names import known_sets

        frame = pd.DataFrame(known_sets(), columns=["data set", "what it is"])
    elif what is Listed.selectors:
        frame = _selectors(plugins or [])
        if not json_:
            frame = frame.drop(columns="parameters").assign(
                paper=[paper.partition(",")[0] for paper in frame["paper"]]
            )
    elif what is Listed.extractors:
        frame = pd.DataFrame(
            {
                "extractor": spec.name,
                "architectures": ", ".join(spec.make().architectures()),
                "origin": spec.origin,
            }
            for spec in _found("extractor", plugins or [])
        )
    elif what is Listed.studies:
        from ckptbench.studies.catalogue import STUDIES

        frame = pd.DataFrame({"study": name, **vars(study)} for name, study in STUDIES.items()).drop(
            columns="name"
        )
    else:
        frame = pd.DataFrame(
            {
                "penalty": spec.name,
                "parameters": _parameters(spec),
                "paper": getattr(spec.plugin, "paper", ""),
                "origin": spec.origin,
            }
            for spec in _found("penalty", plugins or [])
        )
    print_frame(frame, json_)


def _found(kind: Kind, plugins: list[str]) -> list[PluginSpec]:
    """The plugins of a kind; those that cannot be loaded are named on standard error."""
    from ckptbench.plugins import load_plugins

    registry = load_plugins(kind, plugins)
    for where, message in registry.broken.items():
        print(f"ckptbench: plugin {where} cannot be loaded: {message}", file=sys.stderr)
    return list(registry.specs.values())


def _selectors(plugins: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "selector": spec.name,
            "needs": _needs(spec),
            "paper": str(getattr(spec.plugin, "paper", "")),
            "published direction": getattr(spec.plugin, "published", "higher"),
            "parameters": _parameters(spec),
            "origin": spec.origin,
        }
        for spec in _found("selector", plugins)
    )


def _parameters(spec: PluginSpec) -> str:
    return ",".join(f"{key}={value}" for key, value in spec.defaults.items())


def _needs(spec: PluginSpec) -> str:
    """What a selector needs beside features and labels; ``pool`` where it scores whole trajectories."""
    beside = {
        "source_probs": "source head",
        "source_logits": "source head",
        "source": "source rows",
        "source_images": "source images",
    }
    needs = [beside.get(need, need) for need in spec.needs if need not in ("features", "labels")]
    if "labels" not in spec.needs:
        needs.append("no labels" if "features" in spec.needs else "nothing")
    return ", ".join([*needs, *(["pool"] if spec.pool else [])])


def new(
    what: Annotated[New, typer.Argument(help="the kind of plugin")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="lower-case words with hyphens: my-score")],
    out: Annotated[Path, typer.Option("--out", help="the folder for the file")] = Path(),
    plugins: Plugins = None,
) -> None:
    """Write a commented plugin that already runs."""
    from ckptbench.scores.template import new as write_template

    print(f"wrote {write_template(what.value, name, out, plugins or ())}")


def check(file: PluginFile, plugins: Plugins = None, json_: Json = False) -> None:
    """Run the conformance tests on every plugin of a file; exits with 1 where one fails."""
    import pandas as pd

    from ckptbench.pipeline.check import check_file

    found = check_file(file, plugins or ())
    if json_:
        print(json.dumps({name: [vars(f) for f in findings] for name, findings in found.items()}, indent=1))
    else:
        words = {True: "passed", False: "FAILED", None: "exempt"}
        for name, findings in found.items():
            rows = [
                {
                    name: f.test,
                    "result": words[f.passed],
                    "seconds": f"{f.seconds:.2f}",
                    "what was found": f.message,
                }
                for f in findings
            ]
            print_frame(pd.DataFrame(rows), False)
    if any(f.passed is False for findings in found.values() for f in findings):
        raise typer.Exit(1)


def judge_selector(
    file: PluginFile,
    suite: Annotated[str, typer.Option("--suite", help="a suite with a frozen bundle")],
    plugins: Plugins = None,
    store: StorePath = None,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Put a new selector on a published leaderboard: seconds, no data, no training."""
    from ckptbench.pipeline.bundle import frozen_folder
    from ckptbench.pipeline.judge_selector import judge_selector as judge_file

    judged = judge_file(file, frozen_folder(suite), plugins=plugins or (), store=store, workers=workers)
    if json_:
        content = json.loads(judged.boards.json())
        print(json.dumps({"selectors": judged.selectors, **content}, indent=1, ensure_ascii=False))
        return
    print(judged.boards.terminal())
    for line in judged.sentences():
        print(line)
