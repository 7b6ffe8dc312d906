"""What rank claims holds in simulation (`make simulate` is the large one)."""

from __future__ import annotations

import numpy as np

from ckptbench.agreement.certainty import differences
from ckptbench.ranking.simulate import claims_of_noise, is_told, run, tied_sets
from ckptbench.ranking.verdict import against


def test_noise_is_called_guessing() -> None:
    """At a nominal 5 %: more than 7 claims in 50 come once in 200 such tests."""
    assert claims_of_noise(50, examples=24, checkpoints=3) <= 7


def test_what_is_there_is_told() -> None:
    assert is_told(*run(60, 3, 0.5, seed=1))


def test_the_tied_set_holds_the_best() -> None:
    """At a nominal 95 %: fewer than 10 of 12 come twice in 100 such tests."""
    found = list(tied_sets(12, 0.05))
    assert sum(held for held, _ in found) >= 10
    assert all(size >= 1 for _, size in found)


def test_only_what_is_tied_may_be_chance() -> None:
    """The tied set is sharper than intervals that hold together: a sentence may not contradict it."""
    found = differences(np.array([[1.0, 1, 1, 0], [1, 0, 1, 0]]))
    ends = np.array([-0.6, 0.0]), np.array([0.1, 0.0])
    assert "may be chance" in against(9, ends, found, 0, 0, np.array([True, True]))
    assert (
        against(9, ends, found, 0, 0, np.array([False, True]))
        == "epoch 9 is 0.0 points worse (-10.0 to 60.0)."
    )
