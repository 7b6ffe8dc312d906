"""The largest change of the loss along the gradient, at steps of training.

Source: transferability-of-deep-representations (Liu et al. 2019), Figures 6 and 11 and appendix A, after
Santurkar et al. 2018, section 3.2. One protocol takes steps as long as the optimiser's (the learning rate
times the gradient), the other steps of a fixed length; each walks 100 steps down the batch's gradient.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ckptbench.networks.curvature import STEP, WALK, Loss, loss_variation
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, times, verdict
from ckptbench.studies.finetuned import (
    LOOKS,
    PRETRAINED,
    SCRATCH,
    Row,
    Survey,
    Trial,
    fixed_examples,
    model_of,
)
from ckptbench.truth.penalty import FineTuning

EVERY = 10  # which steps of a walk are looked at, by default
CLAIM = "the loss changes less along the gradient when training starts from pre-trained weights"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """The largest |L(theta - s d) - L(theta)| over the walk, for both protocols."""
    logs = table.assign(log=np.log(table["variation"].clip(lower=1e-12)))
    means = logs.groupby(["source", "target", "seed", "start", "protocol"])["log"].mean()
    wide = means.groupby(["source", "target", "seed", "start"]).mean().unstack("start")
    difference = wide[SCRATCH] - wide[PRETRAINED]
    finding = (
        f"Along the gradient the loss changes {times(float(np.exp(difference.mean())))} as much in training "
        "from scratch as in fine-tuning (geometric mean over the steps of training)."
    )
    panels = [
        Panel("step", f"largest change, {name} steps", lines(part, "start", "step", "variation"), log_y=True)
        for name, part in table.groupby("protocol")
    ]
    figure = line_figure(
        "loss-variation",
        finding,
        "The largest change of the loss along the gradient at steps of training, for two lengths of steps.",
        f"Walks of {WALK} steps, fixed ones {STEP:g} long. Mean, least and greatest over seeds and pairs.",
        panels,
    )
    return Outcome(table, figure, verdict(CLAIM, difference, "seed", "log of the ratio"))


def _look(trial: Trial, step: int, run: FineTuning) -> list[Row]:
    training = trial.bench.protocol.training
    loss = Loss(model_of(run), *fixed_examples(run, training.batch))
    every = 1 if trial.bench.case.full else EVERY
    rates = {"gradient-sized": training.lr, "fixed": None}
    return [
        {"protocol": name, "variation": loss_variation(loss, rate, every)} for name, rate in rates.items()
    ]


SURVEY = Survey(_look, LOOKS)
