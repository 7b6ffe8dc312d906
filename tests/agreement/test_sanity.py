"""Fine-tuning that moves the weights too far is found."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ckptbench.agreement.sanity import outlying


def table(**changes: float) -> pd.DataFrame:
    """Two tracks of five checkpoints and two seeds; ``changes`` maps a track's epoch (a3) to a deviation."""
    rows = [
        (
            "run",
            track,
            "ft",
            epoch,
            seed,
            changes.get(f"{track}{epoch}", scale * (1 + 0.3 * epoch + 0.1 * seed)),
        )
        for track, scale in (("a", 1.0), ("b", 100.0))
        for epoch in range(5)
        for seed in range(2)
    ]
    return pd.DataFrame(rows, columns=["source", "target", "protocol", "epoch", "seed", "deviation"])


def test_what_moves_ten_times_as_far_as_its_neighbours_is_outlying() -> None:
    assert not outlying(table()).any()  # tracks are not compared with one another
    truth = table(a3=40.0)
    assert truth[outlying(truth)][["target", "epoch"]].to_numpy().tolist() == [["a", 3], ["a", 3]]
    assert not outlying(table(a3=8.0)).any()


def test_one_seed_alone_is_outlying_beside_its_twin() -> None:
    truth = table()
    truth.loc[3, "deviation"] = 1e4
    assert np.flatnonzero(outlying(truth)).tolist() == [3]


def test_it_takes_three_checkpoints_and_failed_runs_say_nothing() -> None:
    truth = table(a4=1e6)
    assert outlying(truth).sum() == 2
    few = truth[(truth["target"] == "a") & truth["epoch"].isin([0, 4])]
    assert not outlying(few).any()
    truth.loc[truth["epoch"] < 3, "deviation"] = np.nan
    assert not outlying(truth).any()
    assert outlying(truth.iloc[:0]).shape == (0,)
