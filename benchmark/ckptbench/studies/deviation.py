"""How far weights move in fine-tuning: 1/sqrt(n) times the Frobenius norm of the change.

Source: transferability-of-deep-representations (Liu et al. 2019), section 3.1, Figure 2 and Tables 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, times, verdict
from ckptbench.studies.finetuned import LOOKS, PRETRAINED, SCRATCH, Row, Survey, Trial
from ckptbench.truth.penalty import FineTuning

CLAIM = "weights move less from pre-trained ones than from scratch"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """The change of every layer along fine-tuning, and the test error at its end."""
    total = table.groupby(["source", "target", "seed", "start", "step"], as_index=False, sort=False).agg(
        deviation=("deviation", "sum"), error=("error", "first")
    )
    end = total[total["step"] == total.groupby("target")["step"].transform("max")]
    ends = end.pivot(index=["source", "target", "seed"], columns="start", values="deviation")
    ratio = ends[SCRATCH] / ends[PRETRAINED]
    finding = f"Trained from scratch, weights move {times(ratio.median())} as far as when fine-tuned"
    own = end[end["start"] == PRETRAINED].groupby("target")[["deviation", "error"]].mean()
    if len(own) > 2:
        tau = stats.kendalltau(own["deviation"], own["error"]).statistic
        finding += f"; over {len(own)} targets the deviation orders the test error with tau {tau:.2f}"
    last_layer = table[table["layer"] == table.groupby("source")["layer"].transform("last")]
    parts = {"sum over layers": total, "last layer of the network": last_layer}
    panels = [
        Panel("step", label, lines(part, "start", "step", "deviation")) for label, part in parts.items()
    ]
    figure = line_figure(
        "deviation",
        finding + ".",
        "Deviation from the first weights against the step.",
        "1/sqrt(n) times the Frobenius norm; mean, least and greatest over seeds and pairs. No head.",
        panels,
    )
    return Outcome(table, figure, verdict(CLAIM, ratio.apply(np.log), "seed", "log of the ratio"))


def _look(trial: Trial, step: int, run: FineTuning) -> Iterator[Row]:
    error = 1 - trial.accuracy(step, run)
    for layer, norm in deviations(trial.first, run.network, len(run.images)).items():
        yield {"error": error, "layer": layer, "deviation": norm}


SURVEY = Survey(_look, LOOKS)


def deviations(before: nn.Module, after: nn.Module, examples: int) -> dict[str, float]:
    """1/sqrt(n) |W - W_0|_F of each weight matrix and kernel of ``after`` (which has no head), by layer."""
    first = before.state_dict()
    return {
        name.removesuffix(".weight"): float(torch.dist(weight, first[name].to(weight))) / math.sqrt(examples)
        for name, weight in after.state_dict().items()
        if weight.ndim > 1 and name.endswith("weight")
    }
