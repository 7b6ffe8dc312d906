"""Accuracy against the step of fine-tuning, from a checkpoint (of one run or several) and from scratch.

Source: transferability-of-deep-representations (Liu et al. 2019), Figures 5a, 8c and 8d.
"""

from __future__ import annotations

import pandas as pd

from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import LOOKS, PRETRAINED, SCRATCH, Row, Survey, Trial
from ckptbench.truth.penalty import FineTuning

CLAIM = "fine-tuning from pre-trained weights is ahead of training from scratch on the way"


def _look(trial: Trial, step: int, run: FineTuning) -> list[Row]:
    return [{"accuracy": 100 * trial.accuracy(step, run)}]


SURVEY = Survey(_look, LOOKS)


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """Test accuracy at steps of fine-tuning."""
    means = table.groupby(["source", "target", "seed", "start"])["accuracy"].mean().unstack("start")
    ahead = means[PRETRAINED] - means[SCRATCH]
    table["from"] = table["source"].where(table["start"] == PRETRAINED, SCRATCH)
    last = table[table["step"] == table.groupby("target")["step"].transform("max")]
    ends = last.groupby("from", sort=False)["accuracy"].mean()
    finding = (
        f"Over all steps fine-tuning is {ahead.mean():.1f} points ahead of training from scratch; it ends at "
        + ", ".join(f"{value:.1f} % ({name})" for name, value in ends.items())
        + "."
    )
    figure = line_figure(
        "convergence",
        finding,
        "Test accuracy against the step of training, from a checkpoint of each source and from scratch.",
        "Mean, least and greatest over seeds and targets.",
        [Panel("step", "test accuracy, %", lines(table, "from", "step", "accuracy"))],
    )
    return Outcome(table, figure, verdict(CLAIM, ahead, "seed", "the mean lead in points"))
