"""Borda's score is the mean rank of its members, as the selectors of those names give them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.made_up import SELECTORS, problem, score
from scipy.stats import rankdata

from ckptbench.base.errors import InputError
from ckptbench.scores.candidate import Candidate
from ckptbench.scores.score import member_score

BORDA = SELECTORS["borda"].make()


def test_borda_is_the_mean_rank_of_its_members() -> None:
    pool = [problem(60, 9, 3, seed=seed, apart=apart) for seed, apart in enumerate((0.2, 0.9, 0.5, 0.7))]
    y = pool[0][1]
    members = np.array([[score(label, x, y) for x, _ in pool] for label in BORDA.members])
    expected = np.mean([rankdata(row) for row in members], axis=0) / len(pool)
    np.testing.assert_allclose(BORDA.score_pool([Candidate(x, y) for x, _ in pool]), expected)


def test_equal_checkpoints_tie_and_the_best_by_all_scores_one() -> None:
    x, y = problem(40, 6, 2, apart=0.3)
    better = x + 5.0 * np.eye(2, 6)[y]
    np.testing.assert_allclose(
        BORDA.score_pool([Candidate(one, y) for one in (x, x, better)]), [0.5, 0.5, 1.0]
    )


@pytest.mark.filterwarnings("ignore:last under logme")
def test_a_checkpoint_that_a_member_refuses_comes_last_under_it_and_is_named() -> None:
    x, y = problem(40, 6, 2)
    with pytest.warns(UserWarning, match="last under cdnv for borda: .* the same mean"):
        dead, alive = BORDA.score_pool([Candidate(np.zeros_like(x), y), Candidate(x, y)])
    assert (dead, alive) == (0.5, 1.0)


def test_members_share_one_spectrum_of_each_scale() -> None:
    x, y = problem(40, 6, 2)
    candidate = Candidate(x, y)
    for label in BORDA.members:
        member_score(label, candidate)
    # The raw features' and the standardised ones'.
    assert sum("centred" in key for key in candidate._ledger._kept) == 2


def test_a_pool_selector_is_no_member() -> None:
    with pytest.raises(InputError, match="ncti is defined on a pool"):
        member_score("ncti", Candidate(*problem(40, 6, 2)))
