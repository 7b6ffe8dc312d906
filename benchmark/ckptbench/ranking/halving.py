"""Which checkpoint to fine-tune: the last one, or with a budget successive halving of real fine-tunings.

A fine-tuning sees all folds but one and is measured on that one; checkpoints share fold, order, head and
augmentation. Half of the checkpoints are dropped after each round (`ckptbench.agreement.procedures.Halving`);
the finalists and the last one are measured anew on folds that no round has seen, and only of those is
anything said.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ckptbench.agreement.certainty import differences, simultaneous_intervals, tied_set
from ckptbench.agreement.procedures import Cells, Halving, Request, drive
from ckptbench.agreement.record import in_words, published_record
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.text import counted, duration, number
from ckptbench.base.types import Array, Cell, Checkpoint, Examples, Float, Key
from ckptbench.networks.extract import Recipe
from ckptbench.networks.hardware import machine, resolve_precision
from ckptbench.pipeline.progress import Reporter
from ckptbench.plugins import load_plugins
from ckptbench.ranking.answer import Ranking, against, epochs_in_words, name_of, percent_of
from ckptbench.ranking.checkpoints import Brought
from ckptbench.ranking.examples import Labelled
from ckptbench.suites import FT
from ckptbench.truth.crossval import make_folds
from ckptbench.truth.tasks import pack, protocol_key, unpack

PROTOCOL = FT.model_validate(
    {
        "name": "rank",
        "epochs": 10,
        "training": {"lr": 0.01, "batch": 64, "warmup": 1, "augment": "flip"},
        "head_multiplier": 10,
    }
)
FINALISTS, FRESH = 2, 2
FOLDS = 5  # of one repeat; fold 5 is the first of the second


@dataclass(frozen=True, kw_only=True)
class FoldTask(CellTask):
    """One fine-tuning: a checkpoint, trained on all folds of a repeat but one and measured on that."""

    checkpoint: Checkpoint
    examples: Examples
    n_classes: int
    held: NDArray[np.bool_]
    fold: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"fine-tune epoch {self.checkpoint.epoch} fold {self.fold}"

    @property
    def key(self) -> Key:
        return {
            "what": "ft-fold/1",
            "features": self.recipe.key(self.checkpoint, self.examples),
            "protocol": protocol_key(PROTOCOL),
            "precision": resolve_precision(PROTOCOL.training.precision, self.recipe.device),
            "held": pack(self.held),
            "fold": self.fold,
        }

    def cell_keys(self) -> list[Key]:
        return [self.key]

    def lock_key(self) -> Key:
        return self.key

    def machine(self) -> dict[str, str]:
        precision = resolve_precision(PROTOCOL.training.precision, self.recipe.device)
        return {**machine(self.recipe.device), "precision": precision}

    def compute(self, store: Store, missing: Sequence[Key]) -> list[Cell]:
        import torch

        from ckptbench.truth.finetune import finetune

        assert self.checkpoint.path is not None
        began = time.perf_counter()
        architecture, device = self.recipe.architecture, self.recipe.device
        network, _ = architecture.load(self.checkpoint.path)
        images = torch.from_numpy(self.examples.images(slice(None)))
        labels, held = torch.from_numpy(self.examples.labels.copy()), torch.from_numpy(self.held)
        result = finetune(
            network,
            architecture.head_name(network),
            dict(network.state_dict()),
            images[~held],
            labels[~held],
            images[held],
            labels[held],
            n_classes=self.n_classes,
            protocol=PROTOCOL,
            penalties=[load_plugins("penalty")[label].make() for label in PROTOCOL.penalties],
            seed=derive_seed("rank ft", self.examples.digest, self.fold),
            mean=self.recipe.normalisation[0],
            std=self.recipe.normalisation[1],
            device=device,
        )
        seconds = time.perf_counter() - began
        return [
            Cell(self.key, "ok", result.accuracy, result.note, seconds, {"correct": pack(result.correct)})
        ]


class _Live:
    """Answers a procedure's requests by fine-tuning."""

    def __init__(
        self,
        brought: Brought,
        labelled: Labelled,
        recipe: Recipe,
        store: Store,
        workers: int | None,
        reporter: Reporter,
    ) -> None:
        assert labelled.examples is not None
        self.checkpoints, self.labelled, self.recipe = brought.checkpoints, labelled, recipe
        self.examples, self.store, self.workers, self.reporter = labelled.examples, store, workers, reporter
        self._folds: dict[int, NDArray[np.int64]] = {}
        self.asked: list[Cells] = []

    def held(self, fold: int) -> NDArray[np.bool_]:
        repeat = fold // FOLDS
        if repeat not in self._folds:
            name = f"{self.labelled.digest}/ft/{repeat}"
            self._folds[repeat] = make_folds(self.labelled.labels, self.labelled.groups, name)[0]
        count = int(self._folds[repeat].max()) + 1
        return np.asarray(self._folds[repeat] == fold % FOLDS % count)

    def task(self, place: int, fold: int) -> FoldTask:
        return FoldTask(
            store=self.store.root, checkpoint=self.checkpoints[place], examples=self.examples,
            n_classes=len(self.labelled.classes), held=self.held(fold), fold=fold, recipe=self.recipe,
        )  # fmt: skip

    def correct(self, place: int, fold: int) -> Array:
        """Of each example that the fold holds."""
        cell = self.store.read_cell(self.task(place, fold).key)
        if cell is None:
            raise InputError("a fine-tuning is gone from the store: run it again")
        return unpack(cell.extra["correct"], int(self.held(fold).sum()))

    def measure(self, tasks: Sequence[FoldTask], name: str) -> list[Cell]:
        from ckptbench.ranking.run import cell_of, run_here

        run_here(tasks, self.store, name, self.workers or 1, self.reporter, str(self.recipe.device))
        return [cell_of(self.store, task) for task in tasks]

    def __call__(self, request: Request) -> Float:
        assert isinstance(request, Cells)
        self.asked.append(request)
        tasks = [self.task(place, fold) for place in request.checkpoints for fold in request.folds]
        name = f"round {len(self.asked)}"
        values = [cell.value for cell in self.measure(tasks, name)]
        return np.array(values, dtype=np.float64).reshape(len(request.checkpoints), len(request.folds))


def fine_tuned(
    brought: Brought,
    labelled: Labelled,
    recipe: Recipe,
    store: Store,
    budget: str | float | None,
    workers: int | None,
    used: dict[str, str],
    notes: Sequence[str],
    reporter: Reporter,
) -> Ranking:
    """The answer for fine-tuning.

    Raises
    ------
    InputError
        If the budget cannot be read, or a fine-tuning fails.
    """
    if budget is None:
        return _untried(brought, labelled, used, notes)
    if brought.networks:
        raise InputError("fine-tuning within a budget needs checkpoints in files, not networks in memory")
    live = _Live(brought, labelled, recipe, store, workers, reporter)
    last = len(brought.checkpoints) - 1
    seconds, runs = _budget(budget)
    if runs is None:
        (first,) = live.measure([live.task(last, 0)], "forecast")
        assert seconds is not None
        runs = max(1, int(seconds / max(first.seconds, 1e-3)))
        reporter.say(
            f"one fine-tuning takes {duration(first.seconds)}: {counted(runs, 'run')} fit the budget"
        )
    least = _least(last + 1)
    if runs < least:
        raise InputError(
            f"a budget of {counted(runs, 'fine-tuning')} is too small: halving {last + 1} checkpoints takes "
            f"at least {least}; give more time, or fewer checkpoints"
        )
    procedure = Halving(PROTOCOL.name, PROTOCOL.name, budget=runs, finalists=FINALISTS, fresh=FRESH)
    pick = drive(procedure, last + 1, live)
    return _decided(live, pick, runs, used, notes)


def _least(checkpoints: int) -> int:
    """Fine-tunings for one round of all checkpoints, smaller ones, and the last comparison."""
    return 2 * checkpoints + (FINALISTS + 1) * FRESH


def _budget(budget: str | float) -> tuple[float | None, int | None]:
    """(seconds, number of fine-tunings), one of them None."""
    text = str(budget).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|runs?|)", text)
    if not found or float(found[1]) <= 0:
        raise InputError(f"a budget of {budget!r} cannot be read: 10m, 2h, 90s or '30 runs' can")
    if found[2].startswith("run"):
        return None, int(float(found[1]))
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[found[2]], None


def _untried(brought: Brought, labelled: Labelled, used: dict[str, str], notes: Sequence[str]) -> Ranking:
    checkpoints = brought.checkpoints
    last, count = checkpoints[-1], len(checkpoints)
    verdict = {
        "Take": f"epoch {last.epoch} ({name_of(last)}), the last, for fine-tuning: nothing was measured.",
        "Why": in_words(published_record(), "ft"),
        "To know more": (
            f"--budget 10m fine-tunes all {counted(count, 'checkpoint')} on folds of your data and drops the "
            f"worse half, again and again. That takes at least {_least(count)} short fine-tunings, and says "
            "how much the winner differs from the last."
        ),
    }
    if notes:
        verdict["Note"] = " ".join(notes)
    table = _table(checkpoints, len(checkpoints) - 1, {}, {})
    return Ranking(
        table=table, pick=last, tied=(last,), measured=np.empty((0, len(labelled.labels))), verdict=verdict,
        used=used, facts={"goal": "ft", "examples": len(labelled.labels), "fine_tunings": 0},
    )  # fmt: skip


def _decided(live: _Live, pick: int, runs: int, used: dict[str, str], notes: Sequence[str]) -> Ranking:
    """Finalists and the last on the fresh folds, compared in pairs on the same examples."""
    final = live.asked[-1]
    places = list(final.checkpoints)
    rows = [np.flatnonzero(live.held(fold)) for fold in final.folds]
    correct = np.array([np.concatenate([live.correct(at, fold) for fold in final.folds]) for at in places])
    examples = np.concatenate(rows)
    groups: Array = examples if live.labelled.groups is None else live.labelled.groups[examples]
    found = differences(correct, groups)
    at = places.index(pick)
    ties = tied_set(found)
    low, high = simultaneous_intervals(found, at)
    checkpoints = live.checkpoints
    best, last = checkpoints[pick], checkpoints[-1]
    tied = tuple(checkpoints[place] for place, tie in zip(places, ties, strict=True) if tie)
    spread = 1.96 * float(found.noise[:, at].std())
    mean = float(found.accuracy[at])
    share = live.labelled.counts.max() / len(live.labelled.labels)
    spent = sum(len(request.checkpoints) * len(request.folds) for request in live.asked)
    verdict = {
        "Take": (
            f"epoch {best.epoch} ({name_of(best)}), for fine-tuning: first of "
            f"{counted(len(places), 'finalist')} on folds that no round had seen."
        ),
        "Expect": (
            f"accuracy {percent_of(mean)} ({percent_of(mean - spread)} to {percent_of(mean + spread)}) "
            f"after a short fine-tuning; always answering the largest class gives {percent_of(share)}."
        ),
    }
    if last is not best:
        other = places.index(len(checkpoints) - 1)
        verdict["The last checkpoint"] = against(last.epoch, low[other], high[other], found, at, other)
    if len(tied) > 1:
        verdict["Tied"] = (
            f"these data cannot tell {epochs_in_words([c.epoch for c in tied])} apart; differences above "
            f"{number(100 * float(np.max(-low[ties])), 1)} points are excluded, as far as test examples go: "
            f"each was fine-tuned {counted(len(final.folds), 'time')}."
        )
    verdict["Measured"] = (
        f"{spent} fine-tunings of {counted(len(checkpoints), 'checkpoint')}; nothing is claimed of the "
        f"{len(checkpoints) - len(places)} that were dropped on the way."
    )
    if notes:
        verdict["Note"] = " ".join(notes)
    values = dict(zip(places, found.accuracy.tolist(), strict=True))
    sides = dict(zip(places, (1.96 * found.noise.std(axis=0)).tolist(), strict=True))
    table = _table(checkpoints, pick, values, sides)
    places_of = {checkpoints[place].epoch: i for i, place in enumerate(places)}
    for name, ends in (("below_low", -high), ("below_high", -low)):
        table[name] = [ends[places_of[e]] if e in places_of else np.nan for e in table["epoch"]]
    table["tied"] = [epoch in {c.epoch for c in tied} for epoch in table["epoch"]]
    facts = {"goal": "ft", "examples": len(live.labelled.labels), "fine_tunings": spent, "budget_runs": runs}
    return Ranking(
        table=table, pick=best, tied=tied, measured=correct, verdict=verdict, used=used, facts=facts
    )


def _table(
    checkpoints: Sequence[Checkpoint], pick: int, values: Mapping[int, float], sides: Mapping[int, float]
) -> pd.DataFrame:
    """Measured ones first, then the others from the last backwards."""
    order = sorted(
        range(len(checkpoints)), key=lambda place: (place != pick, -values.get(place, -1.0), -place)
    )
    measured = np.array([values.get(place, np.nan) for place in order])
    side = np.array([sides.get(place, np.nan) for place in order])
    best = values.get(pick, np.nan)
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "epoch": [checkpoints[place].epoch for place in order],
            "checkpoint": [name_of(checkpoints[place]) for place in order],
            "measured": measured,
            "measured_low": measured - side,
            "measured_high": measured + side,
            "tied": [place == pick for place in order],
            "below": best - measured,
            "below_low": np.nan,
            "below_high": np.nan,
        }
    )
