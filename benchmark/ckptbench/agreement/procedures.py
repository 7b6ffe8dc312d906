"""Selection procedures: what a user does to choose a checkpoint, with its cost.

A procedure is a generator: it yields requests for measurements, is sent the numbers, and returns the place
of its pick. It does not know where they come from, so that the same code runs live (`ckptbench rank`) and on
recorded tables (`ckptbench.agreement.recorded`). It reads scores and validation cells (folds of the training
split) and is charged for them; test truth only judges it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np

from ckptbench.base.types import Array, Float


@dataclass(frozen=True)
class Scores:
    """Asks for a selector's scores of all checkpoints: E numbers."""

    selector: str


@dataclass(frozen=True)
class Cells:
    """Asks for validation accuracies under a protocol: checkpoints x folds numbers.

    ``checkpoints`` are places in epoch order. Cells of one fold share split and initialisation, so that
    checkpoints are compared in pairs.
    """

    protocol: str
    checkpoints: tuple[int, ...]
    folds: tuple[int, ...]


Request = Scores | Cells
Steps = Generator[Request, Float, int]
Procedure = Callable[[int], Steps]
"""Called with the number of checkpoints, in epoch order."""


def take_last(checkpoints: int) -> Steps:
    """The last checkpoint, unmeasured."""
    yield from ()  # asks for nothing
    return checkpoints - 1


@dataclass(frozen=True)
class FirstChoice:
    """The checkpoint of the highest score; of several, the last of them."""

    selector: str

    def __call__(self, checkpoints: int) -> Steps:
        return _last_best((yield Scores(self.selector)))


@dataclass(frozen=True)
class CrossValidate:
    """The checkpoint with the highest mean over folds under ``protocol``.

    With ``screen`` only the ``best`` first choices of that cheap score, and the last checkpoint, are
    measured.
    """

    protocol: str
    folds: int = 3
    screen: str | None = None
    best: int = 3

    def __call__(self, checkpoints: int) -> Steps:
        arms = tuple(range(checkpoints))
        if self.screen is not None:
            scores = yield Scores(self.screen)
            arms = _first(scores, np.arange(checkpoints), self.best)
            arms = tuple(sorted({*arms, checkpoints - 1}))
        cells = yield Cells(self.protocol, arms, tuple(range(self.folds)))
        return arms[_last_best(cells.mean(axis=1))]


@dataclass(frozen=True)
class Halving:
    """Successive halving of short fine-tunings (Jamieson and Talwalkar 2016), then a fresh comparison.

    ``budget`` cells are spent: an even share on each round, in which every arm left is measured on the same
    folds (at least one new one each) and the better half goes on, by its mean over all folds so far. The
    last checkpoint goes on whatever its rank. The ``finalists`` and the last are then measured under
    ``final`` on ``fresh`` folds that no round has seen, which alone decide; of equals the later one is taken.
    ``first`` screens by a score down to that many arms, where it is given.
    """

    protocol: str
    final: str
    budget: int
    finalists: int = 2
    fresh: int = 2
    screen: str | None = None
    first: int = 8

    def __call__(self, checkpoints: int) -> Steps:
        last = checkpoints - 1
        arms: Array = np.arange(checkpoints)
        if self.screen is not None:
            arms = np.array(_first((yield Scores(self.screen)), arms, self.first))
        arms = np.union1d(arms, [last])
        spent = (self.finalists + 1) * self.fresh
        rounds = max(1, int(np.ceil(np.log2(max(2, len(arms)) / self.finalists))))
        share = max(0, self.budget - spent) // rounds
        sums, fold = np.zeros(checkpoints), 0
        while len(arms) > self.finalists + 1:
            number = max(1, share // len(arms))
            folds = tuple(range(fold, fold + number))
            cells = yield self._cells(self.protocol, arms, folds)
            sums[arms] += cells.sum(axis=1)
            fold += number
            keep = max(self.finalists, len(arms) // 2)
            arms = np.union1d(_first(sums[arms], arms, keep), [last])
        folds = tuple(range(fold, fold + self.fresh))
        cells = yield self._cells(self.final, arms, folds)
        return int(arms[_last_best(cells.mean(axis=1))])

    def _cells(self, protocol: str, arms: Iterable[int], folds: tuple[int, ...]) -> Cells:
        return Cells(protocol, tuple(int(arm) for arm in arms), folds)


def _last_best(values: Float) -> int:
    """The place of the highest value; of several the last: training on costs nothing more."""
    return int(np.flatnonzero(values == values.max())[-1])


def _first(values: Float, places: Array, number: int) -> tuple[int, ...]:
    """The places of the highest ``number`` values; of equals the later ones."""
    order = np.lexsort((places, values))[::-1]
    return tuple(int(place) for place in places[order[:number]])


def drive(procedure: Procedure, checkpoints: int, answer: Callable[[Request], Float]) -> int:
    """Run a procedure, answering its requests; the place of its pick."""
    steps = procedure(checkpoints)
    try:
        request = next(steps)
        while True:
            request = steps.send(answer(request))
    except StopIteration as done:
        return int(done.value)
