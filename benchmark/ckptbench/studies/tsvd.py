"""The error of fine-tuning without the r smallest singular values of features, against the sampling rate.

Source: batch-spectral-shrinkage (Chen et al. 2019), equation 10 and Figure 3a. On the truth of a suite with
FT protocols ``tsvd:r=1``, ``tsvd:r=2``, ... and ``l2`` (r = 0), such as ``shrinkage-dose``.
"""

from __future__ import annotations

from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.shrinkage import UNIT, sweep

CLAIM = "with few target data, removing more of the smallest singular values lowers the error"


def measure(case: Case) -> Outcome:
    """Error by r and rate; the largest r against none at the smallest rate."""
    table = sweep(case, "tsvd", "r")
    table["error"] = 100 - table["accuracy"]
    least, most = table["rate"].min(), table["r"].max()
    wide = table.pivot_table(index=[*UNIT, "rate"], columns="r", values="error")
    fall = (wide[0] - wide[most]).unstack("rate")
    finding = (
        f"Without the {most} smallest singular values the error is lower by {fall[least].mean():.2f} points "
        f"on {100 * least:.0f} % of the data and by {fall[fall.columns.max()].mean():.2f} on "
        f"{100 * fall.columns.max():.0f} %."
    )
    named = table.assign(name=[f"r = {r}" for r in table["r"]]).sort_values("r")
    figure = line_figure(
        "tsvd",
        finding,
        "Test error against the share of the target data, by the number of singular values removed.",
        "Mean, least and greatest over seeds and targets.",
        [Panel("target data, %", "test error, %", lines(named, "name", "percent", "error"))],
    )
    return Outcome(table, figure, verdict(CLAIM, fall[least], "seed", "the fall of the error in points"))
