"""Which checkpoint to fine-tune: the last one, or with a budget successive halving of real fine-tunings.

A fine-tuning sees all folds but one and is measured on that one; checkpoints share fold, order, head and
augmentation. Half of the checkpoints are dropped after each round (`ckptbench.agreement.procedures.Halving`);
the finalists and the last one are measured anew on folds that no round has seen, and only of those is
anything said.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptbench.agreement.procedures import Cells, Halving, Request, drive
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.text import counted, duration
from ckptbench.base.types import Array, Cell, Checkpoint, Examples, Float, Key
from ckptbench.networks.extract import Recipe
from ckptbench.networks.hardware import machine, resolve_precision
from ckptbench.pipeline.progress import Reporter
from ckptbench.plugins import load_plugins
from ckptbench.ranking.answer import Ranking
from ckptbench.ranking.checkpoints import Brought
from ckptbench.ranking.examples import Labelled
from ckptbench.ranking.finetuned import FINALISTS, FRESH, Decision, decided, least_runs
from ckptbench.ranking.options import parse_budget
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
        assert result.correct is not None
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
        from ckptbench.ranking.measure import cell_of, run_here

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
    budget: str | float,
    workers: int | None,
    used: dict[str, str],
    notes: Sequence[str],
    reporter: Reporter,
) -> Ranking:
    """The answer for fine-tuning within a budget.

    Raises
    ------
    InputError
        If the budget cannot be read, or a fine-tuning fails.
    """
    if brought.networks:
        raise InputError("fine-tuning within a budget needs checkpoints in files, not networks in memory")
    live = _Live(brought, labelled, recipe, store, workers, reporter)
    last = len(brought.checkpoints) - 1
    seconds, runs = parse_budget(budget)
    if runs is None:
        (first,) = live.measure([live.task(last, 0)], "forecast")
        assert seconds is not None
        runs = max(1, int(seconds / max(first.seconds, 1e-3)))
        reporter.say(
            f"one fine-tuning takes {duration(first.seconds)}: {counted(runs, 'run')} fit the budget"
        )
    least = least_runs(last + 1)
    if runs < least:
        raise InputError(
            f"a budget of {counted(runs, 'fine-tuning')} is too small: halving {last + 1} checkpoints takes "
            f"at least {least}; give more time, or fewer checkpoints"
        )
    procedure = Halving(PROTOCOL.name, PROTOCOL.name, budget=runs, finalists=FINALISTS, fresh=FRESH)
    pick = drive(procedure, last + 1, live)
    final = live.asked[-1]
    rows = np.concatenate([np.flatnonzero(live.held(fold)) for fold in final.folds])
    decision = Decision(
        checkpoints=brought.checkpoints,
        pick=pick,
        places=list(final.checkpoints),
        correct=np.array(
            [
                np.concatenate([live.correct(place, fold) for fold in final.folds])
                for place in final.checkpoints
            ]
        ),
        groups=rows if labelled.groups is None else labelled.groups[rows],
        times=len(final.folds),
        spent=sum(len(request.checkpoints) * len(request.folds) for request in live.asked),
        budget=runs,
    )
    return decided(decision, labelled, used, notes)
