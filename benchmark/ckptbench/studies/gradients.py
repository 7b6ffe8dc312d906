"""Gradients at the first step of training, layer by layer, from a checkpoint and from scratch.

Source: transferability-of-deep-representations (Liu et al. 2019), section 4 and Figure 7: the distribution of
their magnitude in a layer, how much of the weights lies along the gradient's singular vectors, and how they
grow from layer to layer in back-propagation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ckptbench.base.types import Float
from ckptbench.networks.curvature import Loss, unfolded, weight_layers
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, times, verdict
from ckptbench.studies.finetuned import (
    FIXED,
    PRETRAINED,
    SCRATCH,
    Row,
    Survey,
    Trial,
    fixed_examples,
    model_of,
)
from ckptbench.truth.penalty import FineTuning, layer_outputs

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COMPONENTS = 20
CLAIM = "pre-trained weights keep the gradients of lower layers small"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """Magnitude, scale and projections of the gradient at the start of training."""
    scale = table[table["quantity"] == "activations"]
    depth = table.groupby("source")["layer_index"].transform("max")  # of each architecture
    lower = scale[scale["layer_index"] < depth[scale.index] / 2]
    logs = lower.assign(log=np.log(lower["value"].clip(lower=1e-30)))
    wide = logs.groupby(["source", "target", "seed", "start"])["log"].mean().unstack("start")
    difference = wide[SCRATCH] - wide[PRETRAINED]
    finding = (
        "In the lower half of the layers, the gradient of the activations is "
        f"{times(float(np.exp(difference.mean())))} as large from scratch as from pre-trained weights."
    )
    middles = set(table.loc[table["quantity"] == "projection", ["source", "layer"]].itertuples(index=False))
    in_middle = np.array([pair in middles for pair in zip(table["source"], table["layer"], strict=True)])
    placed = table.assign(depth=(10 * table["layer_index"] / depth).round() * 10)
    shown = {
        "activations": ("layer, % of the depth", "norm of the gradient", "depth", True),
        "weights": ("quantile, in the middle layer", "size of the weights' gradient", "index", True),
        "projection": ("singular vector of the gradient", "share of the weights' norm", "index", False),
    }
    panels = []
    for quantity, (x, y, column, log) in shown.items():
        part = placed[(table["quantity"] == quantity) & (in_middle if quantity == "weights" else True)]
        panels.append(Panel(x, y, lines(part, "start", column, "value"), log_y=log))
    figure = line_figure(
        "gradients",
        finding,
        "Gradients by layer, their distribution in the middle layer, and the weights along them.",
        f"Mean, least and greatest over seeds and pairs; {FIXED} training examples and a new head.",
        panels,
    )
    return Outcome(table, figure, verdict(CLAIM, difference, "seed", "log of the ratio"))


def _look(trial: Trial, step: int, run: FineTuning) -> list[Row]:
    """At the first step alone."""
    if step > 0:
        return []
    rows = gradient_rows(Loss(model_of(run), *fixed_examples(run)))
    return [
        {**row, "layer": row["layer"].removeprefix("0.") if row["layer"] != "1" else "head"} for row in rows
    ]


SURVEY = Survey(_look, 1)


def gradient_rows(loss: Loss) -> list[Row]:
    """Of one loss: rows of layer, quantity, index and value."""
    layers = weight_layers(loss.model)
    with layer_outputs(loss.model, layers) as outputs:
        value = loss()
        order = list(outputs)
        weights = [loss.model.get_parameter(f"{name}.weight") for name in order]
        found = torch.autograd.grad(value, [*outputs.values(), *weights])
    activations, gradients = found[: len(order)], found[len(order) :]
    middle = len(order) // 2
    rows: list[Row] = []

    def add(place: int, quantity: str, values: Sequence[float] | Float, indices: Sequence[float]) -> None:
        of = {"layer": order[place], "layer_index": place, "quantity": quantity}
        rows.extend(
            {**of, "index": i, "value": float(value)} for i, value in zip(indices, values, strict=True)
        )

    for place, (above, gradient) in enumerate(zip(activations, gradients, strict=True)):
        add(place, "activations", [float(above.norm())], [0])
        add(place, "weights", np.quantile(gradient.abs().double().cpu().numpy(), QUANTILES), QUANTILES)
    shares = projections(unfolded(weights[middle]), unfolded(gradients[middle]))[:COMPONENTS]
    add(middle, "projection", shares, range(1, len(shares) + 1))
    return rows


def projections(weight: Float, gradient: Float) -> Float:
    """|u_i' W v_i| / |W|_F for the gradient's singular vectors, in falling order of its singular values."""
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    found: Float = np.abs(np.einsum("ji,jk,ik->i", left, weight, right)) / np.linalg.norm(weight)
    return found
