"""Fine-tuning as a study looks at it: from a checkpoint and from scratch, on the suite's own protocol.

The harness's fine-tuning runs as it does for truth, with the same draws; a `Watch` among its penalties adds
nothing to the loss and looks at the network on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.types import Checkpoint, Examples, Float, Target
from ckptbench.networks.architectures import Architecture
from ckptbench.networks.training import one_thread, steps_per_epoch
from ckptbench.pipeline.plan import SourceRun
from ckptbench.studies.base import Case
from ckptbench.suites import FT
from ckptbench.truth.finetune import finetune, predict
from ckptbench.truth.penalty import FineTuning, Penalty

PRETRAINED, SCRATCH = "pre-trained", "from scratch"
LOOKS = 6  # on the way
FIXED, FEWER = 256, 64  # examples on which a loss is one function: as in the paper, and where those are dear
Row = dict[str, Any]
Look = Callable[[int, FineTuning], Iterable[Row]]


class Watch(Penalty):
    """Keeps the rows of ``look(step, run)`` before the steps ``at``, the network in evaluation mode."""

    name: ClassVar[str] = "watch"

    def __init__(self, look: Look, at: Sequence[int]) -> None:
        self.look, self.at, self.step = look, set(at), 0
        self.rows: list[Row] = []

    def start(self, run: FineTuning) -> None:
        self.run = run

    def gradients(self) -> None:
        if self.step in self.at:
            self.now()
            self.run.network.train()
        self.step += 1

    def now(self) -> None:
        self.run.network.eval()
        self.rows += [{"step": self.step, **row} for row in self.look(self.step, self.run)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A source run and a target, decoded once, to fine-tune any checkpoint on."""

    case: Case
    source: SourceRun
    target: Target

    @cached_property
    def protocol(self) -> FT:
        """The suite's first FT protocol, by plain weight decay."""
        if not self.case.suite.ft:
            raise InputError(f"suite {self.case.suite.name} has no FT protocol, which this study follows")
        return self.case.suite.ft[0].model_copy(update={"penalties": ("l2",)})

    @property
    def architecture(self) -> Architecture:
        return self.source.recipe.architecture

    @property
    def facts(self) -> Row:
        """The columns that name it."""
        return {"source": self.source.name, "target": self.target.name}

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        return self._tensors(self.target.train)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        return self._tensors(self.target.test)

    def _tensors(self, split: Examples) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(split.images(slice(None)))
        device = self.source.recipe.device
        return images.to(device), torch.tensor(split.labels, device=device)

    @cached_property
    def _network(self) -> tuple[nn.Module, str]:
        network = self.load(self.case.initialisation(self.source))
        return network, self.architecture.head_name(network)

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        """The network of a checkpoint, with its source head, in evaluation mode."""
        if checkpoint.path is None:
            raise InputError(f"checkpoint {checkpoint.run} epoch {checkpoint.epoch} has no file")
        return self.architecture.load(checkpoint.path)[0]

    def finetune(
        self,
        checkpoint: Checkpoint,
        seed: int,
        look: Look,
        at: Sequence[int] = (),
        protocol: FT | None = None,
        penalties: Sequence[Penalty] = (),
    ) -> list[Row]:
        """Fine-tune, and look before the steps ``at`` and at the end."""
        protocol = protocol or self.protocol
        watch = Watch(look, at)
        network, head = self._network
        mean, std = self.source.recipe.normalisation
        device = self.source.recipe.device
        with one_thread(device):
            finetune(
                network,
                head,
                self.load(checkpoint).state_dict(),
                *self.train,
                *self.test,
                n_classes=len(self.target.classes),
                protocol=protocol,
                penalties=[*penalties, watch],
                seed=derive_seed("ft", self.target.name, seed),
                mean=mean,
                std=std,
                device=device,
            )
            watch.now()
        return watch.rows

    def steps(self, looks: int) -> list[int]:
        """So many steps of the protocol, evenly from the first one on."""
        epoch = steps_per_epoch(len(self.target.train), self.protocol.training.batch)
        steps = self.protocol.iterations or (self.protocol.epochs or 0) * epoch
        return [int(step) for step in np.linspace(0, steps, looks, endpoint=False)]

    def accuracy(self, run: FineTuning) -> float:
        """On the test split, as it is now."""
        predicted = predict(model_of(run), self.test[0], run.mean, run.std, self.protocol).argmax(1)
        return float((predicted == self.test[1]).double().mean())


@dataclass(frozen=True, eq=False)
class Trial:
    """One start of one pair and seed."""

    bench: Bench
    start: str
    checkpoint: Checkpoint
    seed: int
    accuracies: dict[int, float] = field(default_factory=dict)

    def accuracy(self, step: int, run: FineTuning) -> float:
        """On the test split before this step, measured once for all studies."""
        if step not in self.accuracies:
            self.accuracies[step] = self.bench.accuracy(run)
        return self.accuracies[step]

    @cached_property
    def first(self) -> nn.Module:
        """The network that training starts from."""
        return self.bench.load(self.checkpoint)

    @property
    def facts(self) -> Row:
        """The columns that name it."""
        return {
            **self.bench.facts, "start": self.start, "epoch": self.checkpoint.epoch, "seed": self.seed,
        }  # fmt: skip


def benches(case: Case) -> Iterator[Bench]:
    """Every chosen pair of the case."""
    for source in case.plan.sources:
        for name, target in case.plan.targets.items():
            yield Bench(case=case, source=source, target=replace(target, name=name))


def trials(case: Case, of: Sequence[str] = (PRETRAINED, SCRATCH)) -> Iterator[Trial]:
    """Every pair and seed of a case, from the checkpoint and from scratch."""
    for bench in benches(case):
        starts = {PRETRAINED: case.checkpoint(bench.source), SCRATCH: case.initialisation(bench.source)}
        for seed in range(case.seeds):
            for start in of:
                yield Trial(bench, start, starts[start], seed)


@dataclass(frozen=True)
class Survey:
    """What a study sees of each training: at the end and at so many steps on the way, from these starts."""

    look: Callable[[Trial, int, FineTuning], Iterable[Row]]
    looks: int = 0
    starts: tuple[str, ...] = (PRETRAINED, SCRATCH)


def survey(case: Case, surveys: Sequence[Survey]) -> list[tuple[pd.DataFrame, float]]:
    """What each survey sees in the trainings of a case, and the seconds that it would have taken alone.

    Surveys share their trainings: looking leaves a training as it is.
    """
    rows: list[list[Row]] = [[] for _ in surveys]
    seconds = np.zeros(len(surveys))
    starts = [start for start in (PRETRAINED, SCRATCH) if any(start in one.starts for one in surveys)]
    for trial in trials(case, starts):
        own = {i: trial.bench.steps(one.looks) for i, one in enumerate(surveys) if trial.start in one.starts}
        steps = set().union(*own.values())
        looking = np.zeros(len(surveys))

        def look(
            step: int,
            run: FineTuning,
            trial: Trial = trial,
            own: dict[int, list[int]] = own,
            steps: set[int] = steps,
            looking: Float = looking,
        ) -> Iterator[Row]:
            for i, at in own.items():
                if step in at or step not in steps:  # one of its own, or the end
                    started = time.perf_counter()
                    seen = surveys[i].look(trial, step, run)
                    rows[i] += [{**trial.facts, "step": step, **row} for row in seen]
                    looking[i] += time.perf_counter() - started
            return iter(())

        started = time.perf_counter()
        trial.bench.finetune(trial.checkpoint, trial.seed, look, sorted(steps))
        training = time.perf_counter() - started - looking.sum()
        seconds += [training + looking[i] if i in own else 0.0 for i in range(len(surveys))]
    return [(pd.DataFrame(found), float(taken)) for found, taken in zip(rows, seconds, strict=True)]


def model_of(run: FineTuning) -> nn.Module:
    """Network and head as one module that gives logits."""
    return nn.Sequential(run.network, run.head)


def fixed_examples(run: FineTuning, count: int = FIXED) -> tuple[Tensor, Tensor]:
    """Inputs and labels of the same training examples for every start of a pair and seed."""
    order = np.random.default_rng(derive_seed("fixed", run.seed)).permutation(len(run.images))[:count]
    rows = torch.from_numpy(order).to(run.images.device)
    return run.inputs(rows), run.labels[rows]
