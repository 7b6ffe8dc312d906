"""The consensus is the mean rank of its members, as the selectors of those names give them."""

from __future__ import annotations

import numpy as np
from helpers.made_up import SELECTORS, problem, score
from scipy.stats import rankdata

from ckptbench.scores.candidate import Candidate

MEMBERS = [f"{name}{scale}" for name in ("logme", "ridge-loo", "lda-loo") for scale in ("", ":scale=std")]


def test_consensus_is_the_mean_rank_of_its_members() -> None:
    pool = [problem(60, 9, 3, seed=seed, apart=apart) for seed, apart in enumerate((0.2, 0.9, 0.5, 0.7))]
    y = pool[0][1]
    members = np.array([[score(label, x, y) for label in MEMBERS] for x, _ in pool])
    expected = np.mean([rankdata(column) for column in members.T], axis=0) / len(pool)
    found = SELECTORS["consensus"].make().score_pool([Candidate(x, y) for x, _ in pool])
    np.testing.assert_allclose(found, expected)


def test_equal_checkpoints_tie_and_the_best_by_all_scores_one() -> None:
    x, y = problem(40, 6, 2, apart=0.3)
    better = x + 5.0 * np.eye(2, 6)[y]
    found = SELECTORS["consensus"].make().score_pool([Candidate(one, y) for one in (x, x, better)])
    np.testing.assert_allclose(found, [0.5, 0.5, 1.0])
