"""``--dry-run``: how many cells a suite has, how many are there, and how long the rest would take.

The hours are the cells to do times the median seconds of measured cells of one worker: of the row's own, else
of its stage's, else of the results folder that this suite has. Their range is that of the quartiles; where
nothing was measured they are unknown. Nothing is downloaded and nothing is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ckptbench.base.errors import InputError
from ckptbench.base.types import Key
from ckptbench.networks.runs import read_record
from ckptbench.pipeline.plan import Plan, SourceRun
from ckptbench.pipeline.stages import fe_tasks, ft_tasks, probe_folds, score_tasks, tuning_folds
from ckptbench.results import Results, find_results
from ckptbench.suites import FE, FT, Source, Suite
from ckptbench.truth.validation import FT_FOLDS, PROBE, ProbeFold, TuningFold, lengths

COUNTS = ["wanted", "cached", "to do"]
HOURS = ["hours", "low", "high"]
Seconds = dict[tuple[str, str], list[float]]
"""Of cells, by stage and what the row is of."""
Row = tuple[str, str, int, str]
"""Stage, what, cells wanted, note."""


def forecast(plan: Plan, validation: bool = False) -> pd.DataFrame:
    """A row per stage and source run, target or protocol: columns stage, what, ``COUNTS``, ``HOURS``, note.

    ``hours`` are those that one worker takes for the cells to do, NaN where nothing like them was measured;
    ``low`` and ``high`` are what they would be at the quartiles of the measured cells.

    Parameters
    ----------
    plan : resolved with ``missing="skip"``
    validation : count what selection procedures read in place of scores and truth

    Raises
    ------
    InputError
        If a folder of checkpoints is not there, and the suite does not say which epochs to judge.
    """
    trained = [source for source in plan.sources if _has_checkpoints(source)]
    measured, recorded = _measured(plan, trained), _recorded(plan)
    wanted = list(_rows(plan, {source.name: source for source in trained}, validation))
    by_stage: Seconds = defaultdict(list)
    for stage, what, *_ in wanted:
        by_stage[stage, ""] += measured[stage, what]
    rows = []
    for stage, what, count, note in wanted:
        cached = min(len(measured[stage, what]), count)
        left, how, hours = count - cached, "", [0.0, 0.0, 0.0]
        if left:
            known = {
                "measured": measured[stage, what],
                "measured on the stage's other cells": by_stage[stage, ""],
                "recorded in the suite's results": recorded[stage, what],
                "never measured": [np.nan],
            }
            how = next(how for how, seconds in known.items() if seconds)
            hours = (left * np.quantile(known[how], [0.5, 0.25, 0.75]) / 3600).tolist()
        rows.append((stage, what, count, cached, left, *hours, ", ".join(filter(None, [how, note]))))
    return pd.DataFrame(rows, columns=["stage", "what", *COUNTS, *HOURS, "note"])


def totals(table: pd.DataFrame) -> pd.DataFrame:
    """The sums of each stage and of all; hours are NaN where those of a row are."""
    parts = [(stage, table[table["stage"] == stage]) for stage in table["stage"].unique()]
    rows = [
        {"stage": stage, **part[[*COUNTS, *HOURS]].sum(skipna=False)}
        for stage, part in [*parts, ("all", table)]
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(COUNTS, int))


def _rows(plan: Plan, trained: dict[str, SourceRun], validation: bool) -> Iterator[Row]:
    suite, options = plan.suite, plan.options
    sources = [
        source for source in suite.sources if options.sources is None or source.name in options.sources
    ]
    epochs = {source.name: _epochs(source, trained.get(source.name)) for source in sources}
    every, has_test = sum(map(len, epochs.values())), bool(suite.fe)
    for source in sources:
        brought = source.checkpoints is not None
        note = f"brought, not trained: {source.checkpoints}" if brought else plan.skipped.get(source.name, "")
        yield ("pretrain", source.name, 0 if brought else (source.epochs or 0) + 1, note)
    for source in sources:
        if source.data is not None:
            yield ("extract", _extracted(source.name, "source"), len(epochs[source.name]), "")
    for spec in suite.targets:
        splits = 1 + has_test * (1 + (spec.data.pool_per_class is not None))
        yield ("extract", spec.name, splits * every, plan.skipped.get(spec.name, ""))
    if validation:
        yield from _validation_rows(suite, [epoch for own in epochs.values() for epoch in own])
        return
    repeats = sum(suite.repeats if spec.random else 1 for spec in plan.specs)
    yield ("score", f"{len(plan.specs)} selectors", repeats * every * len(suite.targets), "")
    follows = {ft.name: ft for ft in suite.ft}
    for protocol in suite.protocols:
        judged: FE | FT = protocol  # whose seeds, checkpoints and targets
        if isinstance(protocol, FE) and protocol.after is not None:
            judged = follows[protocol.after]
        targets = len(suite.targets if judged.targets is None else judged.targets)
        cells = sum(judged.judges(epoch) for own in epochs.values() for epoch in own)
        stage = "FT" if isinstance(protocol, FT) else "FE"
        yield (stage, protocol.name, cells * targets * judged.seeds, "")


def _validation_rows(suite: Suite, epochs: list[int]) -> Iterator[Row]:
    protocols: tuple[FE | FT, ...] = (*suite.fe[:1], *suite.ft[:1])
    for protocol in protocols:
        targets = len(suite.targets if protocol.targets is None else protocol.targets)
        cells = targets * sum(protocol.judges(epoch) for epoch in epochs)
        if isinstance(protocol, FE):
            yield ("validation", PROBE, cells, "")
        else:
            yield from (("validation", one.name, FT_FOLDS * cells, "") for one in lengths(protocol))


def _extracted(name: str, split: str) -> str:
    """What a row of extraction is of: a target, or the rows of the source set."""
    return f"{name} (source rows)" if split == "source" else name


def _epochs(source: Source, trained: SourceRun | None) -> list[int]:
    if trained is not None:
        return [checkpoint.epoch for checkpoint in trained.checkpoints]
    if source.judge is None and source.epochs is None:
        raise InputError(
            f"source {source.name}: {source.checkpoints} is not there, and the suite does not say which "
            "epochs to judge: there is nothing to count"
        )
    return list(source.judge or range((source.epochs or 0) + 1))


def _has_checkpoints(source: SourceRun) -> bool:
    try:
        return bool(source.checkpoints)
    except InputError:
        return False


def _measured(plan: Plan, trained: list[SourceRun]) -> Seconds:
    """Seconds of the cells that the store has."""
    found: Seconds = defaultdict(list)
    for source in plan.sources:
        if source.spec.checkpoints is None:
            rows = read_record(source.folder).get("checkpoints", ())
            found["pretrain", source.name] += [float(row["seconds"]) for row in rows]
    here = plan.with_sources(trained)
    for source in trained:
        for target, split, examples in plan.splits(source):
            for checkpoint in source.checkpoints:
                facts = plan.store.features_facts(source.recipe.key(checkpoint, examples))
                if facts is not None:
                    found["extract", _extracted(target, split)].append(facts["seconds"])

    def look(stage: str, what: str, key: Key) -> None:
        cell = plan.store.read_cell(key)
        if cell is not None and cell.status == "ok":
            found[stage, what].append(cell.seconds)

    for scored in score_tasks(here):
        for key in scored.cell_keys():
            look("score", f"{len(plan.specs)} selectors", key)
    for stage, tasks in (("FE", fe_tasks(here)), ("FT", ft_tasks(here))):
        for task in tasks:
            for key, protocol in zip(task.cell_keys(), task.protocols, strict=True):
                look("FE" if isinstance(protocol, FE) else stage, protocol.name, key)
    folds: list[ProbeFold | TuningFold] = [*probe_folds(here), *tuning_folds(here)]
    for fold in folds:
        look("validation", fold.protocol_name, fold.cell_keys()[0])
    return found


def _recorded(plan: Plan) -> Seconds:
    """Seconds of the cells in the suite's results folder, where it has one that can be read."""
    found: Seconds = defaultdict(list)
    try:
        results = Results.read(find_results(plan.suite.name, plan.store.root)[0])
    except InputError:
        return found
    found["score", f"{len(plan.specs)} selectors"] = results.scores["seconds"].dropna().tolist()
    for row in results.extraction.dropna(subset="seconds").to_dict("records"):
        found["extract", _extracted(row["target"], row["split"])].append(row["seconds"])
    for protocol, rows in results.truth.groupby("protocol"):
        stage = "FT" if (rows["goal"] == "ft").all() else "FE"
        found[stage, str(protocol)] = rows["seconds"].dropna().tolist()
    if results.validation is not None:
        for protocol, rows in results.validation.groupby("protocol"):
            found["validation", str(protocol)] = rows["seconds"].dropna().tolist()
    return found
