"""The loss on a plane of two random directions, filter by filter as long as the weights.

Source: transferability-of-deep-representations (Liu et al. 2019), Figures 3, 5, 10, 12, 13 and appendix A,
after Li et al. 2018, Visualizing the Loss Landscape of Neural Nets. Around the end of training, around its
start, and around the start in a single layer; 100 steps of 0.001 to either side. The
paper's 200 x 200 points on 256 fixed examples are ours with ``--full``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from ckptbench.base.digests import derive_seed
from ckptbench.base.types import Array, Float
from ckptbench.networks.curvature import Loss, weight_layers
from ckptbench.pages.figures.base import WIDTH, Figure, drawn, finish
from ckptbench.studies.base import Case, Outcome, times, verdict
from ckptbench.studies.finetuned import (
    FEWER,
    FIXED,
    PRETRAINED,
    SCRATCH,
    Row,
    Survey,
    Trial,
    fixed_examples,
    model_of,
)
from ckptbench.truth.penalty import FineTuning

REACH = 0.1  # 100 steps of eta = 0.001
COARSE, FINE = 7, 200
CONTOUR = 0.05
START, END = "start", "end"
CLAIM = "the loss is flatter around weights that were pre-trained"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """The loss on every plane, and how far it ranges there."""
    ranges = table.groupby(["source", "target", "seed", "start", "place", "layer"])["loss"].agg(
        lambda loss: loss.max() - loss.min()
    )
    logs = ranges.clip(lower=1e-12).apply(np.log).unstack("start")
    ratio = logs[SCRATCH] - logs[PRETRAINED]
    whole = ratio.xs("", level="layer")
    typical = whole.groupby("place").mean().apply(np.exp)
    finding = (
        f"Around the start the loss of the untrained network ranges {times(typical[START])} as far as the "
        f"pre-trained one's, around the end of training {times(typical[END])}."
    )
    verdicts = [
        verdict(
            f"{CLAIM}, at the {place}",
            whole.xs(place, level="place"),
            "seed",
            "log of the ratio of the ranges",
        )
        for place in (START, END)
    ]
    return Outcome(table, _figure(table, finding), " ".join(verdicts))


def _look(trial: Trial, step: int, run: FineTuning) -> Iterator[Row]:
    """All layers; at the start also the first, the middle and the last one alone."""
    full = trial.bench.case.full
    side = np.linspace(-REACH, REACH, FINE if full else COARSE)
    examples = fixed_examples(run, FIXED if full else FEWER)
    names = weight_layers(run.network)
    alone = (names[0], names[len(names) // 2], names[-1]) if step == 0 else ()
    for layer in ("", *dict.fromkeys(alone)):
        loss = Loss(model_of(run), *examples, layers=[f"0.{layer}"] if layer else None)
        values = plane(loss, side, derive_seed("landscape", trial.seed))
        facts = {"place": START if step == 0 else END, "layer": layer}
        for (i, j), value in np.ndenumerate(values):
            yield {**facts, "a": side[i], "b": side[j], "loss": value}


SURVEY = Survey(_look, 1)


def plane(loss: Loss, side: Array, seed: int) -> Float:
    """The loss at theta + a d_1 + b d_2 for a and b in ``side``: a matrix, a down the rows."""
    first, second = loss.filter_directions(seed)
    losses = []
    for a in side:
        with loss.moved(first, float(a)):
            losses.append(loss.along(second, [float(b) for b in side]))
    return np.array(losses)


@drawn
def _figure(table: pd.DataFrame, finding: str) -> Figure:
    """Contours of the first pair and seed: start and end below each other, both starts side by side."""
    shown = table[(table["layer"] == "") & (table["seed"] == 0)]
    shown = shown[(shown["source"] == shown["source"].iloc[0]) & (shown["target"] == shown["target"].iloc[0])]
    side = np.unique(shown["a"])
    sheet = Sheet(figsize=(WIDTH, WIDTH + 0.3))
    grid = sheet.subplots(2, 2, sharex=True, sharey=True)
    for row, place in zip(grid, (START, END), strict=True):
        planes = {
            start: of.pivot(index="b", columns="a", values="loss").to_numpy()
            for start, of in shown[shown["place"] == place].groupby("start")
        }
        step = min(CONTOUR, max(np.ptp(values) for values in planes.values()) / 8)
        for axes, (start, values) in zip(row, planes.items(), strict=True):
            levels = np.arange(values.min(), values.max() + step, step)
            axes.contour(side, side, values, levels, cmap="cividis", linewidths=0.8)
            axes.set_title(
                f"{start}, {place}:\nrange {np.ptp(values):.2g}, lines {step:.2g} apart", fontsize=8.5
            )
            axes.set_aspect("equal")
    alt = "Contours of the loss on planes around the start and the end of training."
    note = "Side by side at one scale; the first pair and seed."
    return finish(sheet, "landscape", finding, alt, note)
