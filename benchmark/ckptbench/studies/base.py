"""What all studies share: what they are run on, what they give, and how that is written.

A study is a module of this folder with a function ``measure(case) -> Outcome``. Where it only looks at
trainings it has, instead, a ``SURVEY`` of them and a function ``conclude(case, table) -> Outcome``: such
studies share their trainings.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import MaxNLocator

from ckptbench.agreement.inference import across_runs
from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic, write_json, write_text
from ckptbench.base.folders import commit
from ckptbench.base.store import Store
from ckptbench.base.text import compact, counted, nearest
from ckptbench.base.types import Array
from ckptbench.pages.figures.base import (
    COLOURS,
    DASHES,
    INK,
    WIDTH,
    Figure,
    drawn,
    finish,
    legend,
    log_axis,
    look,
)  # fmt: skip
from ckptbench.results import Results, find_results
from ckptbench.suites import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ckptbench.base.types import Checkpoint
    from ckptbench.pipeline.plan import Plan, SourceRun


@dataclass(frozen=True)
class Outcome:
    """A tidy table, a figure whose title is the finding, and whether that agrees with the paper.

    ``examples`` is a PNG of images that may not be ours to publish: it stays in the store.
    """

    table: pd.DataFrame
    figure: Figure
    sentence: str
    examples: bytes = b""


@dataclass(frozen=True)
class Study:
    """A measurement of a paper; by the module of its name."""

    name: str
    measures: str
    paper: str
    cost: str

    @property
    def module(self) -> Any:
        return importlib.import_module(f"ckptbench.studies.{self.name.replace('-', '_')}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What a study is run on.

    Attributes
    ----------
    sources, targets : names in the suite. Where none is given, a study on tables takes all, a study that
        runs networks the first.
    epoch : the checkpoint that stands against the initialisation; the last where None
    seeds : how many heads, orders and draws
    full : the paper's own sizes
    weights, texts : a folder or a name on the hub, and a folder: for the study of texts alone
    """

    suite: Suite
    store: Store = field(default_factory=Store)
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    epoch: int | None = None
    seeds: int = 3
    full: bool = False
    weights: str = "google-bert/bert-base-uncased"
    texts: str = ""
    device: str = "auto"
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("source", self.sources, [source.name for source in self.suite.sources]),
            ("target", self.targets, [target.name for target in self.suite.targets]),
        ):
            for name in names:
                if name not in known:
                    raise InputError(
                        f"suite {self.suite.name} has no {kind} {name!r}: {nearest(name, known)}"
                    )

    @cached_property
    def results(self) -> Results:
        """The suite's tables, of the chosen sources and targets.

        Raises
        ------
        InputError
            If there are none, or they are of another version of the suite.
        """
        folder, _ = find_results(self.suite.name, self.store.root)
        results = Results.read(folder)
        if results.suite.digest != self.suite.digest:
            raise InputError(f"the results in {folder} are of another version of suite {self.suite.name}")
        truth = results.truth
        chosen = truth["source"].isin(self.sources or truth["source"])
        chosen &= truth["target"].isin(self.targets or truth["target"])
        return replace(results, truth=truth[chosen])

    @cached_property
    def plan(self) -> Plan:
        """The suite resolved for the chosen sources and targets."""
        from ckptbench.pipeline.plan import Options, resolve

        sources = self.sources or (self.suite.sources[0].name,)
        targets = self.targets or (self.suite.targets[0].name,)
        chosen = tuple(target for target in self.suite.targets if target.name in targets)
        options = Options(device=self.device, plugins=self.plugins, sources=sources)
        return resolve(self.suite.model_copy(update={"targets": chosen}), options, self.store)

    def checkpoint(self, source: SourceRun) -> Checkpoint:
        """The checkpoint of ``epoch``, or the last.

        Raises
        ------
        InputError
            If the run has no such checkpoint.
        """
        if self.epoch is None:
            return source.checkpoints[-1]
        found = [checkpoint for checkpoint in source.checkpoints if checkpoint.epoch == self.epoch]
        if not found:
            raise InputError(f"source {source.name} has no checkpoint of epoch {self.epoch} in this suite")
        return found[0]

    def initialisation(self, source: SourceRun) -> Checkpoint:
        """The checkpoint of epoch 0: fine-tuning from it is training from scratch.

        Raises
        ------
        InputError
            If the run has none.
        """
        first = source.checkpoints[0]
        if first.epoch != 0:
            raise InputError(f"source {source.name} has no checkpoint of epoch 0 to train from scratch")
        return first


def measure(studies: Sequence[Study], case: Case) -> Iterator[tuple[Study, Outcome, float]]:
    """Run studies, those on trainings together; with the seconds that each would have taken alone."""
    surveys = [study for study in studies if hasattr(study.module, "SURVEY")]
    if surveys:
        from ckptbench.studies.finetuned import survey

        found = survey(case, [study.module.SURVEY for study in surveys])
        for study, (table, seconds) in zip(surveys, found, strict=True):
            yield study, study.module.conclude(case, table), seconds
    for study in studies:
        if study not in surveys:
            started = time.perf_counter()
            outcome = study.module.measure(case)
            yield study, outcome, time.perf_counter() - started


def write(
    study: Study, case: Case, outcome: Outcome, seconds: float, folder: Path, versions: dict[str, str]
) -> None:
    """Write ``table.csv``, ``figure.svg`` and ``study.json`` (provenance) into a folder."""
    files = {
        "table.csv": outcome.table.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        "figure.svg": outcome.figure.file(),
    }
    for name, content in files.items():
        write_text(folder / name, content)
    if outcome.examples:
        with atomic(case.store.root / "examples" / case.suite.name / f"{study.name}.png") as file:
            file.write(outcome.examples)
    chosen = ("sources", "targets", "epoch", "seeds", "full")
    head, changed = commit()
    write_json(
        folder / "study.json",
        {
            "study": study.name,
            "paper": study.paper,
            "suite": case.suite.name,
            "suite_digest": case.suite.digest,
            "options": {name: getattr(case, name) for name in chosen},
            "finding": outcome.figure.title,
            "sentence": outcome.sentence,
            "seconds": round(seconds, 1),
            "commit": head + ("-dirty" if changed else ""),
            "versions": versions,
            "machine": _machine(case),
            "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        },
    )


def _machine(case: Case) -> dict[str, str]:
    """Where networks ran; nothing for a study on tables, whose own provenance says it."""
    if "results" in vars(case):
        return {}
    from ckptbench.networks.hardware import machine, pick_device

    return machine(pick_device(case.device))


# ----------------------------------------------------------------------------------------- sentences


def verdict(claim: str, values: pd.Series, unit: str, what: str, digits: int = 2) -> str:
    """Whether values are above 0, as the paper claims, by Student's 95 % interval.

    Parameters
    ----------
    claim : completes "the paper says that ..."
    values : where the index has a level ``source`` with several runs, their means are the sample; else the
        values are, and ``unit`` (in the singular) says of what
    what : the quantity, with its unit
    """
    known = values.dropna()
    sample, over, of = known, unit, ""
    if "source" in known.index.names:
        runs = known.groupby(level="source").mean()
        sample, over, of = (runs, "run", "") if len(runs) > 1 else (known, unit, " of one run")
    low, high = (float(end[0]) for end in across_runs(sample.to_numpy()[:, None]))
    where = counted(len(sample), over) + of
    return settled(claim, float(sample.mean()), low, high, what, where, digits)


def settled(claim: str, mean: float, low: float, high: float, what: str, over: str, digits: int = 2) -> str:
    """The sentence that a study ends in, from a mean and its 95 % interval."""
    if not np.isfinite(low):
        return f"Does not settle whether {claim}: {what} is {mean:.{digits}f} on {over}, without an interval."
    found = (
        f"Agrees with the paper that {claim}"
        if low > 0
        else f"Contradicts the paper that {claim}"
        if high < 0
        else f"Does not settle whether {claim}"
    )
    interval = f"95 % interval {low:.{digits}f} to {high:.{digits}f}"
    return f"{found}: {what} is {mean:.{digits}f}, {interval}, over {over}."


# ------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Panel:
    """Lines over one axis: label -> (x, y), or (x, y, low, high)."""

    x: str
    y: str
    series: dict[str, tuple[Array, ...]]
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[float] = ()


@drawn
def line_figure(name: str, title: str, alt: str, note: str, panels: Sequence[Panel]) -> Figure:
    """Panels of lines below each other; a label keeps its colour in all."""
    labels = list(dict.fromkeys(label for panel in panels for label in panel.series))
    columns = max(1, min(3, 54 // (6 + max(map(len, labels)))))
    sheet = Sheet(figsize=(WIDTH, 2.2 * len(panels) + 0.2 + 0.17 * (len(labels) // columns)))
    rows: Any = sheet.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        for label, (x, y, *band) in panel.series.items():
            i = labels.index(label)
            dashes = DASHES[(i + i // len(COLOURS)) % len(DASHES)]  # the seventh line is not the first again
            axes.plot(x, y, label=label, linestyle=dashes, **look(i, "marker"))
            if band:
                axes.fill_between(x, *band, color=look(i)["color"], alpha=0.16, linewidth=0)
        for mark in panel.marks:
            axes.axvline(mark, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        axes.set(xlabel=panel.x, ylabel=panel.y)
        _scale_axes(axes, panel)
    if len(labels) > 1:
        legend(rows[0], columns)
    return finish(sheet, name, title, alt, note)


def _scale_axes(axes: Axes, panel: Panel) -> None:
    """Logarithmic where that is asked for and there are decades to show; whole numbers as ticks for steps."""
    steps = np.concatenate([line[0] for line in panel.series.values()])
    values = np.concatenate([line[1] for line in panel.series.values()])
    if panel.log_x:
        axes.set_xscale("log")
        log_axis(axes.xaxis)
    elif np.issubdtype(steps.dtype, np.integer):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.log_y and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
        log_axis(axes.yaxis)


def lines(table: pd.DataFrame, by: str, x: str, y: str) -> dict[str, tuple[Array, ...]]:
    """A line for each value of ``by``: the mean of y at each x, with its least and greatest value."""
    found = {}
    for name, part in table.groupby(by, sort=False):
        at = part.groupby(x)[y].agg(["mean", "min", "max"])
        found[str(name)] = (at.index.to_numpy(), *(at[column].to_numpy() for column in at))
    return found


def times(ratio: float) -> str:
    """'3.2 times'."""
    return f"{compact(ratio)} times"
