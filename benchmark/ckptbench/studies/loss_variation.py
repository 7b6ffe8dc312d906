"""The largest change of the loss along the gradient, at steps of training.

Source: transferability-of-deep-representations (Liu et al. 2019), Figures 6 and 11 and appendix A, after
Santurkar et al. 2018, section 3.2. One protocol takes steps as long as the optimiser's (the learning rate
times the gradient), the other steps of a fixed length; each walks 100 steps down the batch's gradient.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ckptbench.networks.curvature import Loss, flat
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

WALK = 100
EVERY = 10  # which steps of a walk are looked at, by default
LENGTH = 0.01  # of a fixed step; the paper does not say
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
        f"Walks of {WALK} steps, fixed ones {LENGTH:g} long. Mean, least and greatest over seeds and pairs.",
        panels,
    )
    return Outcome(table, figure, verdict(CLAIM, difference, "seed", "log of the ratio"))


def _look(trial: Trial, step: int, run: FineTuning) -> list[Row]:
    training = trial.bench.protocol.training
    loss = Loss(model_of(run), *fixed_examples(run, training.batch))
    sizes = variation(loss, training.lr, 1 if trial.bench.case.full else EVERY)
    return [{"protocol": name, "variation": size} for name, size in sizes.items()]


SURVEY = Survey(_look, LOOKS)


def variation(loss: Loss, rate: float, every: int = 1) -> dict[str, float]:
    """The largest change of the loss on each walk, looked at every so many of its steps."""
    gradient = loss.gradient()
    here = loss.value()
    length = float(flat(gradient).norm())
    steps = np.arange(every, WALK + 1, every)
    sizes = {"gradient-sized": rate, "fixed": LENGTH / max(length, 1e-30)}
    return {
        name: float(np.nanmax(np.abs(loss.along(gradient, -size * steps) - here)))
        for name, size in sizes.items()
    }
