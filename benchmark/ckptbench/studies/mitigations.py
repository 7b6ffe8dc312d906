"""What the mitigations of lingering memories do to accuracy and to distraction.

Source: detrimental-memories (Detrimental Memories in Transfer Learning), appendix B: L1 on activations,
suppression of features that fire for source-only classes and not for the target's (equations 6 and 7),
magnitude pruning before fine-tuning; and section 5.1: a source run without the source-only classes, which a
suite declares as a further source (``--source FULL --source WITHOUT``). What the paper leaves open: a feature
fires where it is above its own mean over the source's test images and the target's training images, and "for
all" images of a class means for four fifths of them; a suppressed feature is taken from the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from ckptbench.networks.training import outputs
from ckptbench.plugins import load_plugins
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import Row, benches
from ckptbench.studies.lingering import SOURCE_ONLY, SourceModel
from ckptbench.studies.memories import FULL_IMAGES, IMAGES, class_rows
from ckptbench.truth.penalty import FineTuning, Penalty

PLAIN, SUPPRESSED, WITHOUT = "plain", "suppressed", "without the classes"
METHODS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "feature-l1": ("feature-l1",),
    "prune": ("prune",),
    SUPPRESSED: (),
}
ALL = 0.8
"""The share of a class's images that counts as all of them."""
CLAIM = "the mitigations lessen distraction"


class Suppression(Penalty):
    """Takes features from the head, in training and after it: ``features`` is bool, D."""

    name: ClassVar[str] = "suppression"

    def __init__(self, features: Tensor) -> None:
        self.kept = (~features).float()

    def start(self, run: FineTuning) -> None:
        with torch.no_grad():
            run.head.weight.mul_(self.kept)

    def features(self, features: Tensor) -> Tensor:
        return features * self.kept


def measure(case: Case) -> Outcome:
    """Accuracy and distraction after fine-tuning by every method, and from further sources."""
    rows: list[Row] = []
    penalties = load_plugins("penalty", case.plugins)
    most = FULL_IMAGES if case.full else IMAGES
    models: dict[str, SourceModel] = {}
    for bench in benches(case):
        # Distraction is that by the first source's classes, whichever run the network comes from.
        own = SourceModel(bench, case.checkpoint(bench.source))
        model = models.setdefault(bench.target.name, own)
        methods = METHODS if own is model else {WITHOUT: ()}
        for seed in range(case.seeds):
            for method, labels in methods.items():
                added: list[Penalty] = [penalties[label].make() for label in labels]
                if method == SUPPRESSED:
                    added = [Suppression(harmful_features(model, most))]
                look = partial(_look, model, most, seed)
                seen = bench.finetune(own.checkpoint, seed, look, penalties=added)
                rows += [{**bench.facts, "seed": seed, "method": method, **row} for row in seen]
    table = pd.DataFrame(rows)
    by = table.groupby(["target", "seed", "method"], sort=False)[
        ["accuracy", "distraction", "composites"]
    ].mean()
    means = by.groupby("method", sort=False).mean()
    finding = "; ".join(
        f"{name}: accuracy {row['accuracy']:.1f} %, distraction {row['distraction']:.2f}"
        for name, row in means.iterrows()
    )
    order = {name: i for i, name in enumerate(means.index, 1)}
    shown = by.reset_index().assign(name="all", place=lambda part: part["method"].map(order).astype(int))
    x = ", ".join(f"{i} {name}" for name, i in order.items())
    axes = {"accuracy": "accuracy, %", "distraction": "distraction", "composites": "on composites, %"}
    panels = [Panel(x, label, lines(shown, "name", "place", column)) for column, label in axes.items()]
    figure = line_figure(
        "mitigations",
        finding[0].upper() + finding[1:] + ".",
        "Accuracy, distraction by source-only classes and accuracy on composites with them, by mitigation.",
        "Mean, least and greatest over seeds and targets.",
        panels,
    )
    wide = by["distraction"].unstack("method")
    less = wide.drop(columns=PLAIN).rsub(wide[PLAIN], axis=0).mean(axis=1)
    return Outcome(table, figure, verdict(CLAIM, less, "seed", "the mean fall of distraction", 3))


def _look(model: SourceModel, most: int, seed: int, step: int, run: FineTuning) -> Iterator[Row]:
    accuracy = 100 * model.bench.accuracy(run)
    for row in class_rows(model, most, seed, run):
        if row["kind"] == SOURCE_ONLY:
            yield {
                "class": row["class"], "accuracy": accuracy, "probability": row["probability"],
                "distraction": row["distraction"], "composites": row["accuracy"],
            }  # fmt: skip


def harmful_features(model: SourceModel, most: int) -> Tensor:
    """Equations 6 and 7: the features that fire for a source-only class and for no class of the target."""
    network, normalisation = model.parts[0], model.bench.source.recipe.normalisation

    def features(images: Tensor) -> Tensor:
        return torch.cat(outputs(network, images, *normalisation, "fp32"))

    target = features(model.bench.train[0])
    sources = {c: features(model.images(c, most)) for c in range(len(model.kinds))}
    threshold = torch.cat([target, *sources.values()]).mean(0)
    labels = model.bench.train[1]
    wanted = [firing(target[labels == c], threshold) for c in range(len(model.bench.target.classes))]
    unwanted = [firing(sources[c], threshold) for c, kind in enumerate(model.kinds) if kind == SOURCE_ONLY]
    nothing = torch.zeros_like(threshold, dtype=torch.bool)
    return _any(unwanted, nothing) & ~_any(wanted, nothing)


def firing(features: Tensor, threshold: Tensor, share: float = ALL) -> Tensor:
    """Which of D features are above their thresholds for at least this share of n x D: bool, D."""
    return (features > threshold).double().mean(0) >= share


def _any(sets: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.stack([nothing, *sets]).any(0)
