"""Procedures ask for what they may see, and choose by it."""

from __future__ import annotations

import numpy as np
import pytest

from ckptbench.agreement.procedures import (
    Cells,
    CrossValidate,
    FirstChoice,
    Halving,
    Request,
    Scores,
    drive,
    take_last,
)

LEVEL = np.array([0.2, 0.9, 0.5, 0.7, 0.6, 0.4, 0.3, 0.65])


class Lab:
    """Answers without noise from ``LEVEL``, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> np.ndarray:
        self.asked.append(request)
        if isinstance(request, Scores):
            return LEVEL
        return np.repeat(LEVEL[list(request.checkpoints), None], len(request.folds), axis=1)


def test_taking_the_last_asks_for_nothing():
    lab = Lab()
    assert drive(take_last, 8, lab) == 7
    assert lab.asked == []


def test_each_procedure_asks_for_what_it_says():
    lab = Lab()
    assert drive(FirstChoice("logme"), 8, lab) == 1
    assert lab.asked == [Scores("logme")]
    lab = Lab()
    assert drive(CrossValidate("probe", folds=2), 8, lab) == 1
    assert lab.asked == [Cells("probe", tuple(range(8)), (0, 1))]
    lab = Lab()
    assert drive(CrossValidate("probe", screen="logme", best=2), 8, lab) == 1
    assert lab.asked == [Scores("logme"), Cells("probe", (1, 3, 7), (0, 1, 2))]


def test_equals_go_to_the_later_checkpoint():
    flat = lambda request: np.zeros(8) if isinstance(request, Scores) else np.zeros((8, 3))  # noqa: E731
    assert drive(FirstChoice("s"), 8, flat) == 7
    assert drive(CrossValidate("p"), 8, flat) == 7


@pytest.mark.parametrize("budget", [10, 20, 40, 80])
def test_halving_halves_keeps_the_last_and_ends_on_fresh_folds(budget):
    lab = Lab()
    assert drive(Halving("short", "long", budget), 8, lab) == 1
    *rounds, final = lab.asked
    assert all(request.protocol == "short" and 7 in request.checkpoints for request in rounds)
    sizes = [len(request.checkpoints) for request in lab.asked]
    assert sizes == sorted(sizes, reverse=True)
    assert final.protocol == "long"
    assert 7 in final.checkpoints
    assert len(final.checkpoints) <= 3
    seen = {fold for request in rounds for fold in request.folds}
    assert not seen & set(final.folds)
    spent = sum(len(request.checkpoints) * len(request.folds) for request in lab.asked)
    assert spent <= max(budget, 8 + 5 + 6)  # one fold a round is the least
    folds = [request.folds for request in rounds]
    assert len({fold for some in folds for fold in some}) == sum(map(len, folds))  # each round's are new


def test_halving_can_be_screened_by_a_score():
    lab = Lab()
    assert drive(Halving("short", "long", 20, screen="logme", first=3), 8, lab) == 1
    assert lab.asked[1].checkpoints == (1, 3, 4, 7)[:1] + lab.asked[1].checkpoints[1:]
    assert set(lab.asked[1].checkpoints) <= {1, 3, 7}
