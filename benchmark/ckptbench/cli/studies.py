"""``ckptbench study``: a measurement of one of the papers, on a suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ckptbench.cli import options as opt


def study(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="see ckptbench list studies")],
    suite: Annotated[str, typer.Option("--suite", help="a suite's name, or the path of a TOML file")],
    source: Annotated[list[str] | None, typer.Option("--source", help="a source run; repeatable")] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="a target; repeatable")] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", help="the checkpoint; the last by default")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="repeats of what is random")] = 3,
    full: Annotated[bool, typer.Option("--full", help="the paper's own sizes")] = False,
    weights: Annotated[
        str, typer.Option("--weights", help="bert: a saved model's folder, or its name on the hub")
    ] = "google-bert/bert-base-uncased",
    texts: Annotated[
        str, typer.Option("--texts", help="bert: a folder of TASK/train.csv and dev.csv; else the hub")
    ] = "",
    store: opt.StorePath = None,
    device: opt.Device = "auto",
    plugins: opt.Plugins = None,
    publish: opt.Publish = False,
) -> None:
    """Repeat measurements of the papers: a table, a figure, and whether it agrees here.

    Studies that look at trainings, named together, share them.
    Studies on tables take all sources and targets by default, studies that run networks the first.
    """
    from ckptbench.base.store import Store
    from ckptbench.pipeline.provenance import versions
    from ckptbench.results import local_root
    from ckptbench.studies.base import Case, measure, write
    from ckptbench.studies.catalogue import find_study
    from ckptbench.suites import load_suite

    studies = [find_study(name) for name in dict.fromkeys(names)]
    case = Case(
        suite=load_suite(suite), store=Store(store), sources=tuple(source or ()), targets=tuple(target or ()),
        epoch=epoch, seeds=seeds, full=full, weights=weights, texts=texts, device=device,
        plugins=tuple(plugins or ()),
    )  # fmt: skip
    root = opt.PUBLISHED if publish else local_root(case.store.root)
    for one, outcome, seconds in measure(studies, case):
        folder = root / case.suite.name / "studies" / one.name
        write(one, case, outcome, seconds, folder, versions())
        print(outcome.figure.title)
        print(outcome.sentence)
        print(f"table.csv and figure.svg are in {folder}", file=sys.stderr)


def interference(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="images to check")],
    suite: Annotated[str, typer.Option("--suite", help="a suite's name, or the path of a TOML file")],
    source: Annotated[str | None, typer.Option("--source", help="a source run; the first by default")] = None,
    target: Annotated[str | None, typer.Option("--target", help="a target; the first by default")] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", help="the checkpoint; the last by default")] = None,
    store: opt.StorePath = None,
    device: opt.Device = "auto",
    plugins: opt.Plugins = None,
    json: opt.Json = False,
) -> None:
    """Which images of a folder show source classes that linger in a fine-tuned network.

    Fine-tunes the checkpoint on the target by the suite's first FT protocol, as the study interference does.
    """
    from ckptbench.base.store import Store
    from ckptbench.studies.base import Case
    from ckptbench.studies.interference import check_folder
    from ckptbench.suites import load_suite

    case = Case(
        suite=load_suite(suite),
        store=Store(store),
        sources=(source,) if source else (),
        targets=(target,) if target else (),
        epoch=epoch,
        device=device,
        plugins=tuple(plugins or ()),
    )
    opt.print_frame(check_folder(case, folder), json)
