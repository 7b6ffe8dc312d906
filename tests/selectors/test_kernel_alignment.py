"""KITE against kernels written out, and its random network."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.made_up import SELECTORS, problem

from ckptbench.base.types import Array, Checkpoint
from ckptbench.scores.candidate import Candidate


def cka(a: Array, b: Array) -> float:
    centre = np.eye(len(a)) - 1 / len(a)
    k, other = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre
    return float((k * other).sum() / np.linalg.norm(k) / np.linalg.norm(other))


def pool(shapes: tuple[int, int], epochs: list[int]) -> list[Candidate]:
    y = problem(*shapes, 3)[1]
    matrices = [problem(*shapes, 3, seed=seed)[0] for seed in range(len(epochs))]
    facts = [Checkpoint("run", epoch, "net", str(epoch)) for epoch in epochs]
    return [Candidate(x, y, checkpoint=fact) for x, fact in zip(matrices, facts, strict=True)]


@pytest.mark.parametrize("shapes", [(30, 8), (20, 45)])
def test_kite_is_alignment_with_labels_over_alignment_with_epoch_0(shapes: tuple[int, int]) -> None:
    candidates = pool(shapes, [3, 0, 1])
    onehot = np.eye(3)[candidates[0].labels]
    start = candidates[1].matrix
    expected = [cka(c.matrix, onehot) / cka(c.matrix, start) for c in candidates]
    found = SELECTORS["kite"].make().score_pool(candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[1] == pytest.approx(cka(start, onehot))


def test_features_that_are_the_labels_align_perfectly() -> None:
    y = np.arange(12) % 3
    found = SELECTORS["kite"].make().score_pool([Candidate(np.eye(3)[y], y)])
    assert found == pytest.approx([1.0])
