"""A whole suite from Python: ``ckptbench.run`` and ``ckptbench.leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptbench.base.store import Store
from ckptbench.pages import leaderboard as boards
from ckptbench.pages.leaderboard import Leaderboards
from ckptbench.pipeline import stages
from ckptbench.pipeline.plan import Options, resolve
from ckptbench.pipeline.progress import Reporter
from ckptbench.pipeline.provenance import collect
from ckptbench.results import find_results, local_root
from ckptbench.suites import load_suite


def run(
    suite: str | Path,
    *,
    store: str | Path | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Path:
    """Every stage of a suite, then its tables and leaderboards; returns the results folder.

    Parameters
    ----------
    suite : a suite's name, or the path of a TOML file
    store : the cache; ``CKPTBENCH_STORE``, else ``.ckptbench``
    out : the folder for ``<suite>/``; ``results`` in the store by default
    options : fields of `ckptbench.pipeline.plan.Options`

    Raises
    ------
    InputError
        If anything that the suite names is missing or does not fit.
    """
    plan = resolve(load_suite(suite), Options(**options), Store(store))
    stages.run(plan, reporter=reporter)
    folder = Path(out or local_root(store)) / plan.suite.name
    collect(plan).write(folder)
    boards.write(folder)
    return folder


def leaderboard(suite: str, from_: str | Path | None = None) -> Leaderboards:
    """A suite's leaderboards, from its tables alone.

    Parameters
    ----------
    from_ : the folder that holds ``<suite>/``; by default that of a local run, else the published results

    Raises
    ------
    InputError
        If there are no such results, or they were damaged.
    """
    folder = Path(from_) / suite if from_ is not None else find_results(suite)[0]
    return boards.read(folder)[1]
