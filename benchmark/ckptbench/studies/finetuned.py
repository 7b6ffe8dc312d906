"""Fine-tuning as a study looks at it: from a checkpoint and from scratch, on the suite's own protocol.

The harness's fine-tuning runs as it does for truth, with the same draws; a `Watch` among its penalties adds
nothing to the loss and looks at the network on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.types import Checkpoint, Examples, Target
from ckptbench.networks.architectures import Architecture
from ckptbench.networks.training import one_thread, predict, steps_per_epoch
from ckptbench.pipeline.plan import SourceRun
from ckptbench.studies.base import Case
from ckptbench.suites import FT
from ckptbench.truth.finetune import finetune
from ckptbench.truth.penalty import FineTuning, Penalty

PRETRAINED, SCRATCH = "pre-trained", "from scratch"
LOOKS = 12  # on the way, by default
FIXED = 256  # examples on which a loss is one function, as in the paper
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
        looks: int = 0,
        protocol: FT | None = None,
        penalties: Sequence[Penalty] = (),
    ) -> list[Row]:
        """Fine-tune, and look at the end and, evenly on the way, at ``looks`` steps from the first one on."""
        protocol = protocol or self.protocol
        size = round(protocol.rate * len(self.target.train))
        steps = protocol.iterations or (protocol.epochs or 0) * steps_per_epoch(size, protocol.training.batch)
        watch = Watch(look, [int(step) for step in np.linspace(0, steps, looks, endpoint=False)])
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

    def accuracy(self, run: FineTuning) -> float:
        """On the test split, as it is now."""
        predicted = predict(model_of(run), self.test[0], run.mean, run.std, self.protocol.training.precision)
        return float((predicted == self.test[1]).double().mean())


@dataclass(frozen=True, eq=False)
class Trial:
    """One start of one pair and seed."""

    bench: Bench
    start: str
    checkpoint: Checkpoint
    seed: int

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


def trials(case: Case) -> Iterator[Trial]:
    """Every pair and seed of a case, from the checkpoint and from scratch."""
    for bench in benches(case):
        starts = {PRETRAINED: case.checkpoint(bench.source), SCRATCH: case.initialisation(bench.source)}
        for seed in range(case.seeds):
            for start, checkpoint in starts.items():
                yield Trial(bench, start, checkpoint, seed)


def survey(
    case: Case, look: Callable[[Trial, int, FineTuning], Iterable[Row]], looks: int = 0
) -> pd.DataFrame:
    """What ``look`` sees in every trial of a case, at the end and at so many steps on the way."""
    rows: list[Row] = []
    for trial in trials(case):
        seen = trial.bench.finetune(trial.checkpoint, trial.seed, partial(look, trial), looks)
        rows += [{**trial.facts, **row} for row in seen]
    return pd.DataFrame(rows)


def model_of(run: FineTuning) -> nn.Module:
    """Network and head as one module that gives logits."""
    return nn.Sequential(run.network, run.head)


def fixed_examples(run: FineTuning, count: int = FIXED) -> tuple[Tensor, Tensor]:
    """Inputs and labels of the same training examples for every start of a pair and seed."""
    order = np.random.default_rng(derive_seed("fixed", run.seed)).permutation(len(run.images))[:count]
    rows = torch.from_numpy(order).to(run.images.device)
    return run.inputs(rows), run.labels[rows]
