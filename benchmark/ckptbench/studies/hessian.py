"""The largest eigenvalues of the loss's Hessian at the end of training, from a checkpoint and from scratch.

Source: transferability-of-deep-representations (Liu et al. 2019), section 3.2 and Figure 3a: fine-tuned
networks end in flatter minima. By Lanczos iteration; the paper has
20 eigenvalues on 256 training examples, which are ours with ``--full``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ckptbench.networks.curvature import Loss
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, times, verdict
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

COUNT, FULL_COUNT = 5, 20
CLAIM = "fine-tuned networks end where the loss is flatter than those trained from scratch"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """The largest eigenvalues at the end of every training."""
    top = table[table["index"] == 1].pivot(
        index=["source", "target", "seed"], columns="start", values="eigenvalue"
    )
    ratio = top[SCRATCH] / top[PRETRAINED]
    finding = (
        f"The largest Hessian eigenvalue is {top[PRETRAINED].mean():.3g} after fine-tuning and "
        f"{top[SCRATCH].mean():.3g} after training from scratch, {times(ratio.median())} as large."
    )
    figure = line_figure(
        "hessian",
        finding,
        "The largest eigenvalues of the Hessian at the end of training.",
        f"Mean, least and greatest over seeds and pairs; {FIXED if case.full else FEWER} training examples.",
        [Panel("index of the eigenvalue", "eigenvalue", lines(table, "start", "index", "eigenvalue"))],
    )
    return Outcome(
        table, figure, verdict(CLAIM, ratio.apply(np.log), "seed", "log of the ratio of the largest")
    )


def _look(trial: Trial, step: int, run: FineTuning) -> list[Row]:
    """The eigenvalues at the weights as they are, and the loss there.

    Two digits, from products in float32; ``full``: six, in float64.
    """
    full = trial.bench.case.full
    loss = Loss(
        model_of(run),
        *fixed_examples(run, FIXED if full else FEWER),
        dtype=torch.float64 if full else torch.float32,
    )
    values = loss.eigenvalues(FULL_COUNT if full else COUNT, tolerance=1e-6 if full else 1e-2)
    return [{"index": i, "eigenvalue": value, "loss": loss.value()} for i, value in enumerate(values, 1)]


SURVEY = Survey(_look)
