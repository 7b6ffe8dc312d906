"""Which cells of the truth to distrust."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

EDGE = "the penalty is at an end of its grid, where the loss still falls"
"""What ``truth.message`` says of such a cell."""
FACTOR = 10.0
"""A median this many times below a run's deviation makes it an outlier."""
FEWEST = 3
"""Checkpoints of a track that it takes to say what is usual there."""


def outlying(truth: pd.DataFrame) -> NDArray[np.bool_]:
    """Fine-tuning runs that moved the weights an order of magnitude further than their neighbours.

    Parameters
    ----------
    truth : a row per run, with columns source, target, protocol, epoch and deviation (not a number where
        a run failed, or is no fine-tuning)

    Returns
    -------
    For each row, whether its deviation is above ``FACTOR`` times the median of the other checkpoints' under
    the same source, target and protocol; never where fewer than ``FEWEST`` checkpoints have one. Each
    checkpoint counts by the median of its seeds.
    """
    found = np.zeros(len(truth), dtype=bool)
    deviation = truth["deviation"].to_numpy(dtype=np.float64)
    epoch = truth["epoch"].to_numpy()
    for rows in truth.groupby(["source", "target", "protocol"]).indices.values():
        rows = rows[np.isfinite(deviation[rows])]
        usual = pd.Series(deviation[rows]).groupby(epoch[rows]).median()
        if len(usual) >= FEWEST:
            others = {own: float(usual.drop(own).median()) for own in usual.index}
            found[rows] = [deviation[row] > FACTOR * others[epoch[row]] for row in rows]
    return found
