"""Elastic weight consolidation with and without BSS: images (task A), then with shuffled pixels (task B).

Source: batch-spectral-shrinkage (Chen et al. 2019), Table 3; the penalty and the network, two hidden layers
of 400 units, are those of Kirkpatrick et al. 2017, Overcoming Catastrophic Forgetting in Neural Networks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.base.digests import derive_seed
from ckptbench.base.types import Array, Examples, Target
from ckptbench.data.targets import load_target
from ckptbench.networks.training import one_thread, predict, seeded
from ckptbench.plugins import load_plugins
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import Row
from ckptbench.suites import FT, Data
from ckptbench.truth.finetune import train
from ckptbench.truth.penalty import FineTuning, Penalty

WIDTH = 400
EPOCHS = 20
STRENGTHS = (10.0, 100.0, 1000.0)
METHODS = ("EWC", "EWC + BSS")
PROTOCOL = FT.model_validate(
    {
        "name": "ewc",
        "training": {"lr": 0.01, "weight_decay": 0, "batch": 48, "schedule": "constant", "precision": "fp32"},
        "epochs": EPOCHS,
    }
)
CLAIM = "BSS beside EWC promotes the new task"
MEAN = STD = (0.5,)


class EWC(Penalty):
    """strength/2 * sum over weights i of F_i (theta_i - theta*_i)^2, F the Fisher information of task A."""

    name: ClassVar[str] = "ewc"

    def __init__(self, strength: float, fisher: Sequence[Tensor]) -> None:
        self.strength, self.fisher = strength, fisher

    def start(self, run: FineTuning) -> None:
        self.weights = [*run.network.parameters(), *run.head.parameters()]
        self.first = [weight.detach().clone() for weight in self.weights]

    def gradients(self) -> None:
        for weight, first, fisher in zip(self.weights, self.first, self.fisher, strict=True):
            assert weight.grad is not None
            weight.grad.add_(fisher * (weight.detach() - first), alpha=self.strength)


def measure(case: Case) -> Outcome:
    """Accuracy on both tasks after the second, by strength of EWC and method."""
    rows = []
    for name, target in case.plan.targets.items():
        data = _whole(case, name) if case.full else target
        for seed in range(case.seeds):
            with one_thread(case.plan.device):
                found = list(_tasks(data, derive_seed("ewc", name, seed), case))
            rows += [{"target": name, "seed": seed, **row} for row in found]
    table = pd.DataFrame(rows)
    table["average"] = table[["task_a", "task_b"]].mean(axis=1)
    means = table.groupby(["strength", "method"])[["task_a", "task_b", "average"]].mean()
    best = means["average"].xs("EWC", level="method").idxmax()
    plain, shrunk = (means.xs(best, level="strength").loc[method] for method in METHODS)
    finding = (
        f"At EWC's best strength, {best:g}, task A ends at {plain['task_a']:.1f} % and task B at "
        f"{plain['task_b']:.1f} %; with BSS at {shrunk['task_a']:.1f} % and {shrunk['task_b']:.1f} %."
    )
    panels = [
        Panel(
            "strength of EWC", f"{label}, accuracy, %", lines(table, "method", "strength", column), log_x=True
        )
        for column, label in (("task_a", "task A"), ("task_b", "task B"))
    ]
    figure = line_figure(
        "ewc",
        finding,
        "Accuracy on the first and on the second task after learning both, against the strength of EWC.",
        f"Mean, least and greatest over seeds and targets; {EPOCHS} epochs a task.",
        panels,
    )
    wide = table[table["strength"] == best].pivot(index=["target", "seed"], columns="method", values="task_b")
    what = "task B's gain from BSS in points"
    return Outcome(table, figure, verdict(CLAIM, wide["EWC + BSS"] - wide["EWC"], "seed", what))


def _tasks(data: Target, seed: int, case: Case) -> Iterator[Row]:
    """Task A once, then task B from there by every strength and method."""
    device = case.plan.device
    splits = [data.train, *([data.pool] if data.pool is not None else [])]
    images = torch.cat([_grey(split) for split in splits]).to(device)
    labels = torch.from_numpy(np.concatenate([split.labels for split in splits])).to(device)
    tests, truth = _grey(data.test).to(device), torch.tensor(data.test.labels, device=device)
    shuffle = np.random.default_rng(seed).permutation(images[0].numel())
    with seeded(seed, device):
        sizes = (images[0].numel(), WIDTH, WIDTH)
        network = nn.Sequential(
            nn.Flatten(),
            *(layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())),
        ).to(device)
        head = nn.Linear(WIDTH, len(data.classes)).to(device)

    def run(network: nn.Module, head: nn.Linear, images: Tensor, task: str) -> FineTuning:
        batch = min(PROTOCOL.training.batch, len(images))
        return FineTuning(network, head, images, labels, MEAN, STD, batch, 1, derive_seed(task, seed))

    def accuracy(network: nn.Module, head: nn.Linear, images: Tensor) -> float:
        guess = predict(nn.Sequential(network, head), images, MEAN, STD, "fp32")
        return 100 * float((guess == truth).double().mean())

    first = run(network, head, images, "a")
    train(first, PROTOCOL, [])
    alone = accuracy(network, head, tests)
    information = fisher(network, head, first.inputs())
    bss = load_plugins("penalty", case.plugins)["bss"]
    for strength in STRENGTHS:
        for method in METHODS:
            second = run(*copy.deepcopy((network, head)), _shuffled(images, shuffle), "b")
            added = [bss.make()] if method == "EWC + BSS" else []
            train(second, PROTOCOL, [EWC(strength, information), *added])
            ended = (second.network, second.head)
            yield {
                "strength": strength, "method": method, "task_a_alone": alone,
                "task_a": accuracy(*ended, tests), "task_b": accuracy(*ended, _shuffled(tests, shuffle)),
            }  # fmt: skip


def fisher(network: nn.Sequential, head: nn.Linear, inputs: Tensor) -> list[Tensor]:
    """The diagonal of the Fisher information, a tensor a parameter: E_x E_(y ~ p(y|x)) (d log p(y|x))^2.

    Of a network of linear layers and ReLUs, where an example's gradient of a weight is a product of two
    numbers: exact, with a backward pass per class.
    """
    x, into, out = inputs.flatten(1), [], []
    for layer in (*network, head):
        if isinstance(layer, nn.Linear):
            into.append(x.detach())
            out.append(x := layer(x))
        else:
            x = layer(x)
    log_p = F.log_softmax(x, dim=1)
    found = [torch.zeros_like(weight) for weight in (*network.parameters(), *head.parameters())]
    for c in range(log_p.shape[1]):
        gradients = torch.autograd.grad(log_p[:, c].sum(), out, retain_graph=True)
        share = log_p[:, c, None].detach().exp() / len(x)
        for i, (above, gradient) in enumerate(zip(into, gradients, strict=True)):
            weighted = share * gradient.square()
            found[2 * i] += weighted.T @ above.square()
            found[2 * i + 1] += weighted.sum(0)
    return found


def _grey(split: Examples) -> Tensor:
    return torch.from_numpy(split.images(slice(None)))[:, :1]


def _shuffled(images: Tensor, order: Array) -> Tensor:
    """The same pixels of every image in another order."""
    return images.flatten(1)[:, order].view_as(images)


def _whole(case: Case, name: str) -> Target:
    """All examples of the set that a target is drawn from, at the 28 pixels of MNIST."""
    (spec,) = (target for target in case.suite.targets if target.name == name)
    everything = Data.model_validate({"name": spec.data.name, "classes": spec.data.classes, "size": 28})
    return load_target(everything, name, plugins=case.plugins)
