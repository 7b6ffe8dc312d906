"""Do source classes that the target lacks linger in fine-tuned networks, and distract them?

Source: detrimental-memories (Detrimental Memories in Transfer Learning), sections 3 and 4: Figure 3a against
from-scratch training, Figures 3c and 6 with shared classes as the control, Figure 5 with the distractor
occluded, Figure 7 against the size of the target, Figure 8 over architectures (several ``--source``), and
along the checkpoints of the run.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Sheet
from torch import Tensor

from ckptbench.base.digests import derive_seed
from ckptbench.base.types import Array, Checkpoint
from ckptbench.networks.training import predict, to_input
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import PRETRAINED, SCRATCH, Bench, Row, benches, model_of
from ckptbench.studies.lingering import (
    BETWEEN,
    SHARED,
    SOURCE_ONLY,
    SourceModel,
    composites,
    distraction,
    grad_cam,
)
from ckptbench.truth.penalty import FineTuning

RATES = (0.25, 1.0)
FULL_RATES = (0.1, 0.25, 0.5, 1.0)
IMAGES, FULL_IMAGES = 40, 100  # of a class
GREY = 128  # over what is occluded
SHOWN = 6  # classes on the page of examples
CLAIM = "fine-tuned networks are distracted by lingering source-only classes, more than from scratch"


def measure(case: Case) -> Outcome:
    """Distraction, lingering and accuracy on composites of every source class, over starts and sizes."""
    rows: list[Row] = []
    pictures: list[tuple[str, Array]] = []
    for bench in benches(case):
        model = SourceModel(bench, case.checkpoint(bench.source))
        most = FULL_IMAGES if case.full else IMAGES
        for seed in range(case.seeds):
            for start, checkpoint, rate in _variants(case, bench):
                facts = {"seed": seed, "start": start, "epoch": checkpoint.epoch, "rate": rate}
                protocol = bench.protocol.model_copy(update={"rate": rate})
                seen = bench.finetune(checkpoint, seed, partial(_look, model, most, seed), protocol=protocol)
                if seed == 0 and rate == 1:
                    label = f"{bench.source.name} to {bench.target.name}, {start}, epoch {checkpoint.epoch}"
                    pictures += [(f"{label}: {row['class']}", row["maps"]) for row in seen[:SHOWN]]
                rows += [
                    {**bench.facts, **facts, **{k: v for k, v in row.items() if k != "maps"}} for row in seen
                ]
    table = pd.DataFrame(rows)
    whole = table[table["rate"] == 1]
    last = whole[whole["epoch"] == whole.groupby("source")["epoch"].transform("max")]
    keys = ["source", "target", "seed", "class"]
    tuned, scratch = (part.set_index(keys) for part in (last, whole[whole["start"] == SCRATCH]))
    lingering = tuned["lingers"] & (tuned["kind"] == SOURCE_ONLY)
    only = tuned["kind"] == SOURCE_ONLY
    chosen = lingering if lingering.any() else only
    lead = (tuned["distraction"] - scratch["distraction"]).reindex(tuned.index)
    counted_classes = f"{lingering.sum()} of {only.sum()} source-only classes linger"
    control = tuned.loc[tuned["kind"] == SHARED, "distraction"].mean()
    finding = (
        f"{counted_classes} (over seeds and pairs); on {'those' if lingering.any() else 'all'} the maps of "
        f"fine-tuned networks overlap the source network's by {tuned.loc[chosen, 'distraction'].mean():.2f}, "
        f"from scratch by {scratch.reindex(tuned.index).loc[chosen, 'distraction'].mean():.2f}; on shared "
        f"classes by {control:.2f}."
    )
    figure = line_figure(
        "memories",
        finding,
        "Distraction by source class, by the size of the target and along the run; accuracy on composites.",
        "Mean, least and greatest over seeds, pairs and classes.",
        _panels(table, last, whole),
    )
    values = lead[chosen].groupby(["source", "target", "seed"]).mean()
    what = "the lead of their overlap" + ("" if lingering.any() else ", on classes none of which lingers,")
    return Outcome(table, figure, verdict(CLAIM, values, "seed", what), _page(pictures))


def _variants(case: Case, bench: Bench) -> Iterator[tuple[str, Checkpoint, float]]:
    """(start, checkpoint, sampling rate) of every training of a seed."""
    last, first = case.checkpoint(bench.source), case.initialisation(bench.source)
    for rate in FULL_RATES if case.full else RATES:
        yield PRETRAINED, last, rate
        yield SCRATCH, first, rate
    run = [c for c in bench.source.checkpoints if first.epoch < c.epoch < last.epoch]
    for checkpoint in run if case.full else run[len(run) // 2 : len(run) // 2 + 1]:
        yield PRETRAINED, checkpoint, 1.0


def _look(model: SourceModel, most: int, seed: int, step: int, run: FineTuning) -> Iterator[Row]:
    return class_rows(model, most, seed, run)


def class_rows(model: SourceModel, most: int, seed: int, run: FineTuning) -> Iterator[Row]:
    """A row for each source-only and shared class, with one composite and its maps."""
    bench = model.bench
    probabilities = model.lingering(run.network, most)
    tests, truth = bench.test
    for c, p in probabilities.items():
        own = model.images(c, most)
        rng = np.random.default_rng(derive_seed("composites", bench.target.name, seed, c))
        rows = torch.from_numpy(rng.choice(len(tests), len(own))).to(tests.device)
        images, inside = composites(own, tests[rows], rng)
        classes = truth[rows]
        theirs = grad_cam(*model.parts, model.layer, model.inputs(images), torch.full_like(classes, c))
        ours = grad_cam(run.network, run.head, model.layer, to_input(images, run.mean, run.std), classes)
        occluded = torch.where(inside[:, None], images, GREY)
        accuracies = [
            100 * float((predict(model_of(run), some, run.mean, run.std, "fp32") == classes).double().mean())
            for some in (images, occluded)
        ]
        yield {
            "class": model.data.classes[c], "kind": model.kinds[c], "prevalence": int(model.prevalence[c]),
            "probability": p, "lingers": p > model.floor,
            "distraction": float(distraction(ours, theirs, inside).mean()),
            "accuracy": accuracies[0], "accuracy_occluded": accuracies[1],
            "maps": _picture(images[0], theirs[0], ours[0]),
        }  # fmt: skip


def _panels(table: pd.DataFrame, last: pd.DataFrame, whole: pd.DataFrame) -> list[Panel]:
    of_only = table[table["kind"] == SOURCE_ONLY]
    along = whole[(whole["start"] == PRETRAINED) & (whole["kind"] != BETWEEN)]
    both = pd.concat([last, whole[whole["start"] == SCRATCH]])
    both = both.assign(rank=both["prevalence"].rank(method="dense").astype(int))
    sizes = of_only[(of_only["start"] == SCRATCH) | of_only["epoch"].isin(last["epoch"])]
    sizes = sizes.assign(share=100 * sizes["rate"])
    kinds = last.melt(["start", "kind"], ["accuracy", "accuracy_occluded"])
    kinds = kinds.assign(name=kinds["kind"] + " distractor", on=(kinds["variable"] != "accuracy").astype(int))
    return [
        Panel("source class by prevalence", "distraction", lines(both, "start", "rank", "distraction")),
        Panel("target data, %", "by source-only classes", lines(sizes, "start", "share", "distraction")),
        Panel("epoch of pre-training", "fine-tuned", lines(along, "kind", "epoch", "distraction")),
        Panel("0: composites; 1: distractor occluded", "accuracy, %", lines(kinds, "name", "on", "value")),
    ]


def _picture(image: Tensor, theirs: Tensor, ours: Tensor) -> Array:
    """Image and both maps side by side: float H x 3 W x 3."""
    heats = [heat / heat.max().clamp_min(1e-12) for heat in (theirs, ours)]
    pixels = image.float().cpu() / 255
    parts = [pixels, *((0.35 * pixels).clone() for _ in heats)]
    for part, heat in zip(parts[1:], heats, strict=True):
        part[0] = (part[0] + 0.65 * heat.cpu()).clamp(0, 1)
    found: Array = torch.cat(parts, dim=2).permute(1, 2, 0).numpy()
    return found


def _page(pictures: list[tuple[str, Array]]) -> bytes:
    """Composites with both maps, as a PNG that is not for publication: the images may not be ours to show."""
    sheet = Sheet(figsize=(6, 1.9 * len(pictures)))
    for i, (label, picture) in enumerate(pictures, 1):
        axes = sheet.add_subplot(len(pictures), 1, i)
        axes.imshow(picture)
        axes.set_title(f"{label}: composite, source network, this network", fontsize=7)
        axes.set_axis_off()
    file = io.BytesIO()
    sheet.savefig(file, format="png", dpi=80)
    return file.getvalue()
