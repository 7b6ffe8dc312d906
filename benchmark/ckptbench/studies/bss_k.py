"""Accuracy of fine-tuning with BSS against k, the number of singular values that it shrinks.

Source: batch-spectral-shrinkage (Chen et al. 2019), equation 8 and Figure 3d. On the truth of a suite with FT
protocols ``l2`` (k = 0), ``l2`` + ``bss:k=1``, ``bss:k=2``, ..., such as ``shrinkage-dose``.
"""

from __future__ import annotations

from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.shrinkage import UNIT, sweep

CLAIM = "with few target data, BSS on more singular values than one adds accuracy"


def measure(case: Case) -> Outcome:
    """Accuracy by k and rate; the largest k against 1 at the smallest rate."""
    table = sweep(case, "bss", "k")
    least, most = table["rate"].min(), table["k"].max()
    wide = table.pivot_table(index=[*UNIT, "rate"], columns="k", values="accuracy")
    gain = (wide[most] - wide[1]).unstack("rate")
    finding = (
        f"From k = 1 to {most} accuracy changes by {gain[least].mean():+.2f} points on {100 * least:.0f} % "
        f"of the data and by {gain[gain.columns.max()].mean():+.2f} on {100 * gain.columns.max():.0f} %."
    )
    named = table.assign(name=[f"{percent:.0f} % of the data" for percent in table["percent"]])
    figure = line_figure(
        "bss-k",
        finding,
        "Test accuracy against the number of singular values that BSS shrinks, by share of the target data.",
        "Mean, least and greatest over seeds and targets; k = 0 is without BSS.",
        [Panel("k", "test accuracy, %", lines(named, "name", "k", "accuracy"))],
    )
    return Outcome(table, figure, verdict(CLAIM, gain[least], "seed", "the gain in points"))
