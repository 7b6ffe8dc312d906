"""What rank claims holds in simulation: guessing is seen as guessing, and the tied set holds the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckptbench import rank
from ckptbench.agreement.certainty import guessing_p
from ckptbench.ranking.verdict import FIRST_LOOK, GUESSING


def claimed(features: list[np.ndarray], labels: np.ndarray) -> bool:
    """Whether something is told from guessing, as rank decides it."""
    if guessing_p(features, labels, permutations=99) <= FIRST_LOOK:
        return True
    return guessing_p(features, labels, permutations=999, seed=1) <= GUESSING


def test_noise_is_called_guessing() -> None:
    """At a nominal 5 %: more than 8 claims in 60 come once in 300 such tests."""
    rng = np.random.default_rng(5)
    claims = 0
    for _ in range(60):
        first = rng.normal(size=(24, 4))
        features = [first + 0.7 * rng.normal(size=(24, 4)) for _ in range(3)]  # alike, as along a run
        claims += claimed(features, rng.permutation(np.repeat([0, 1, 2], 8)))
    assert claims <= 8


def test_what_is_there_is_told() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 20)
    assert claimed([rng.normal(size=(60, 6)) + np.eye(3, 6)[labels]], labels)


def test_the_tied_set_of_rank_holds_the_best(tmp_path: Path) -> None:
    """Checkpoints whose classes lie further apart are better: the last one, by a little."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 30)
    inside = 0
    for number in range(8):
        noise = rng.normal(size=(60, 3))
        features = [
            noise + 0.5 * rng.normal(size=(60, 3)) + 1.2 * (1 + k / 20) * np.eye(2, 3)[labels]
            for k in range(4)
        ]
        found = rank(features, data=labels, store=tmp_path / str(number), workers=1)
        inside += 3 in {checkpoint.epoch for checkpoint in found.tied}
        assert found.pick in found.tied
    assert inside >= 7
