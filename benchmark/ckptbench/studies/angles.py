"""Corresponding angles between the weights before and after training: which directions stay.

Source: batch-spectral-shrinkage (Chen et al. 2019), equations 5 and 6 and Figure 1b. Kernels are unfolded to
(c_out, c_in k k); cosines are absolute, since a singular vector's sign is free.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from torch import nn

from ckptbench.base.types import Float
from ckptbench.networks.curvature import unfolded, weight_layers
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import PRETRAINED, Row, Survey, Trial
from ckptbench.truth.penalty import FineTuning

LOWER, HIGHER = 4, 3
EQUAL = 1e-3
"""Of the largest singular value: closer values form a cluster, whose vectors are arbitrary within it."""
CLAIM = "fine-tuning turns the weights of higher layers more than those of lower layers"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """Cosines layer by layer: before and after fine-tuning, and between initialisation and checkpoint."""
    tuned = table[table["training"] == "fine-tuning"]
    means = tuned.groupby(["source", "target", "seed", "place"])["cosine"].mean().unstack("place")
    finding = (
        "After fine-tuning, corresponding singular vectors have a mean cosine of "
        f"{means['lower'].mean():.3f} in the lower layers and {means['higher'].mean():.3f} in the higher."
    )
    by = "layer" if tuned["source"].nunique() == 1 else "source"
    shown = tuned.assign(share=5 * np.ceil(tuned["share"] / 5))
    panels = [
        Panel(
            "index of the singular vector, % of the layer's",
            f"absolute cosine, {place} layers",
            lines(part, by, "share", "cosine"),
        )
        for place, part in shown.groupby("place", sort=False)
    ]
    figure = line_figure(
        "angles",
        finding,
        "Cosines of the angles between singular vectors of one index before and after fine-tuning.",
        "Mean, least and greatest in each twentieth of the vectors. Equal singular values: their subspace's.",
        panels,
    )
    values = means["lower"] - means["higher"]
    return Outcome(
        table, figure, verdict(CLAIM, values, "seed", "the cosine of lower minus higher layers", 3)
    )


def _look(trial: Trial, step: int, run: FineTuning) -> Iterator[Row]:
    yield from ({"training": "fine-tuning", **row} for row in cosine_rows(trial.first, run.network))
    if trial.seed == 0:
        bench = trial.bench
        first = bench.load(bench.case.initialisation(bench.source))
        rows = cosine_rows(first, trial.first)
        yield from ({"training": "pre-training", "step": 0, **row} for row in rows)


SURVEY = Survey(_look, starts=(PRETRAINED,))


def cosine_rows(before: nn.Module, after: nn.Module) -> list[Row]:
    """The corresponding angles of the first four and the last three layers that both networks have."""
    layers = [name for name in weight_layers(after) if name in dict(before.named_modules())]
    count = min(LOWER, (len(layers) + 1) // 2)
    chosen = {"lower": layers[:count], "higher": layers[max(count, len(layers) - HIGHER) :]}
    rows = []
    for place, names in chosen.items():
        for name in names:
            weights = (unfolded(network.get_parameter(f"{name}.weight")) for network in (before, after))
            cosines = corresponding_cosines(*weights)
            rows += [
                {"place": place, "layer": name, "index": i, "share": 100 * i / len(cosines), "cosine": cosine}
                for i, cosine in enumerate(cosines, 1)
            ]
    return rows


def corresponding_cosines(before: Float, after: Float) -> Float:
    """|u_i' v_i| of the left singular vectors of the same index.

    Where singular values of ``before`` meet (within ``EQUAL``), their vectors are arbitrary in a subspace:
    all of the cluster get the root mean square cosine of the principal angles between the subspaces.
    """
    left, sigma, _ = np.linalg.svd(before, full_matrices=False)
    other = np.linalg.svd(after, full_matrices=False)[0]
    starts = np.flatnonzero(np.r_[True, -np.diff(sigma) > EQUAL * sigma[0]])
    cosines = np.empty(len(sigma))
    for begin, end in zip(starts, [*starts[1:], len(sigma)], strict=True):
        overlap = left[:, begin:end].T @ other[:, begin:end]
        cosines[begin:end] = np.linalg.norm(overlap) / np.sqrt(end - begin)
    return cosines
