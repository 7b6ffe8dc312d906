"""``ckptbench study``: a measurement of one of the papers, on a suite."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ckptbench.cli import options as opt


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a study's name: see ckptbench list studies")],
    suite: Annotated[str, typer.Option("--suite", help="a suite's name, or the path of a TOML file")],
    source: Annotated[list[str] | None, typer.Option("--source", help="a source run; repeatable")] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="a target; repeatable")] = None,
    epoch: Annotated[int | None, typer.Option("--epoch", help="the checkpoint; the last by default")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="repeats of what is random")] = 3,
    full: Annotated[bool, typer.Option("--full", help="the paper's own sizes")] = False,
    store: opt.StorePath = None,
    device: opt.Device = "auto",
    plugins: opt.Plugins = None,
    publish: opt.Publish = False,
) -> None:
    """Repeat a measurement of a paper: a table, a figure, and whether it agrees here.

    Studies on tables take all sources and targets by default, studies that run networks the first.
    """
    from ckptbench.base.store import Store
    from ckptbench.pipeline.provenance import versions
    from ckptbench.results import local_root
    from ckptbench.studies.base import Case, write
    from ckptbench.studies.catalogue import find_study
    from ckptbench.suites import load_suite

    chosen = find_study(name)
    case = Case(
        suite=load_suite(suite), store=Store(store), sources=tuple(source or ()), targets=tuple(target or ()),
        epoch=epoch, seeds=seeds, full=full, device=device, plugins=tuple(plugins or ()),
    )  # fmt: skip
    root = opt.PUBLISHED if publish else local_root(case.store.root)
    folder = root / case.suite.name / "studies" / name
    outcome = write(chosen, case, folder, versions())
    print(outcome.figure.title)
    print(outcome.sentence)
    print(f"table.csv and figure.svg are in {folder}", file=sys.stderr)
