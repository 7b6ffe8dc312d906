"""How sure a choice among checkpoints is: the tied set, guessing, differences excluded, images needed.

Everything here is arrays: out-of-fold correctness (K checkpoints x N examples, averaged over repeats of the
cross-validation) and leave-one-out ridge regression. Examples, or groups of them (patients, speakers), are
the unit that is drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ckptbench.agreement.statistics import Bool
from ckptbench.base.types import Array, Float
from ckptbench.numerics.linear import PENALTIES

DRAWS = 2000
PERMUTATIONS = 999


class Differences(NamedTuple):
    """Of K checkpoints on ``examples`` examples: accuracies; K x K differences, a_j - a_k in row k, and their
    standard errors; centred bootstrap draws of the accuracies, ``draws`` x K."""

    examples: int

    accuracy: Float
    difference: Float
    error: Float
    noise: Float


def differences(
    correct: ArrayLike, groups: ArrayLike | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Differences:
    """Paired differences of accuracy, and a bootstrap over examples or groups of them.

    Parameters
    ----------
    correct : K x N, the share of repeats in which an example was classified correctly out of fold
    groups : N labels; examples of one group are drawn together
    """
    correct = np.atleast_2d(np.asarray(correct, dtype=np.float64))
    examples = correct.shape[1]
    accuracy = correct.mean(axis=1)
    number = np.arange(examples) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = int(number.max()) + 1
    # What a group adds to the deviation of the accuracy: a ratio's linearisation, groups being unequal.
    influence = np.zeros((len(correct), units))
    np.add.at(influence.T, number, (correct - accuracy[:, None]).T / examples)
    covariance = influence @ influence.T * units / max(units - 1, 1)
    variance = covariance.diagonal()
    error = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    rng = np.random.default_rng(seed)
    noise = np.empty((draws, len(correct)))
    for first in range(0, draws, 200):
        some = min(200, draws - first)
        counts = rng.multinomial(units, np.full(units, 1 / units), size=some)
        noise[first : first + some] = (counts - 1.0) @ influence.T
    return Differences(examples, accuracy, accuracy[None, :] - accuracy[:, None], error, noise)


def _studentised(values: Float, error: Float) -> Float:
    """values / error, and 0 where there is no error: such a pair answers every example alike."""
    return np.divide(values, error, out=np.zeros_like(values), where=error > 0)


def tied_set(found: Differences, level: float = 0.95) -> Bool:
    """Which checkpoints may be the best: K booleans, the observed best among them.

    Checkpoint k stays unless max over j of (a_j - a_k)/se_jk exceeds the ``level`` point of its own centred
    bootstrap, max over j of (noise_j - noise_k)/se_jk. The truly best k is beaten by no j but for noise,
    so that it stays with a probability of at least ``level``, up to the error of the bootstrap.
    """
    stays = np.empty(len(found.accuracy), dtype=bool)
    for k in range(len(stays)):
        observed = _studentised(found.difference[k], found.error[k]).max()
        noise = found.noise - found.noise[:, k, None]
        centred = _studentised(noise, np.broadcast_to(found.error[k], noise.shape)).max(axis=1)
        stays[k] = observed <= np.quantile(centred, level) + 1e-12
    # Between checkpoints without any error of their difference the order is plain.
    exact = (found.error == 0) & (found.difference > 0)
    return np.asarray((stays & ~exact.any(axis=1)) | (found.accuracy == found.accuracy.max()))


def simultaneous_intervals(found: Differences, against: int, level: float = 0.95) -> tuple[Float, Float]:
    """Lower and upper ends, K each, of a_k - a_against, all of which hold together with ``level``.

    "These data cannot tell them apart; differences above max(-low, high) are excluded."
    """
    difference, error = found.difference[against], found.error[against]
    noise = found.noise - found.noise[:, against, None]
    largest = np.abs(_studentised(noise, np.broadcast_to(error, noise.shape))).max(axis=1)
    half = np.quantile(largest, level) * error
    return difference - half, difference + half


def examples_needed(found: Differences, difference: float, *, power: float = 0.8) -> int | None:
    """How many examples would tell the best checkpoint from a rival that is worse by ``difference``.

    A two-sided paired z test at 5 % with this ``power``; the spread is the median one of the best's
    differences on these examples (groups of like size, where they were drawn in groups). That more examples
    to train on move the accuracies is not foreseen.

    Parameters
    ----------
    difference : a share: 0.01 is one point

    Returns
    -------
    None where all checkpoints answer every example alike.
    """
    best = int(found.accuracy.argmax())
    errors = found.error[best][found.error[best] > 0]
    if not len(errors):
        return None
    z = stats.norm.ppf(0.975) + stats.norm.ppf(power)
    return int(np.ceil((z * float(np.median(errors)) / difference) ** 2 * found.examples))


def guessing_p(
    features: Sequence[ArrayLike],
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Permutation p of the largest leave-one-out ridge accuracy over the checkpoints.

    Labels are permuted, ridge regression on centred features is left out one by one in closed form, as in
    `ckptbench.numerics.linear.leave_one_out`, its penalty chosen again for each permutation by the least
    squared error, and the best checkpoint chosen again too. Where p is not small, nothing here is told from
    guessing.

    Parameters
    ----------
    features : of each checkpoint, N x D
    labels : N class labels; or N x K numbers, of which the share of variance explained is taken, not accuracy
    groups : N labels. Where each group has one class, whole groups swap their labels; else labels are
        permuted within the groups.

    Cost: per checkpoint one SVD and 10 N r C (permutations + 1) operations in single precision.
    """
    given = np.asarray(labels)
    kinds, truth = np.unique(given, axis=0, return_inverse=True)
    columns: Float = np.eye(len(kinds)) if given.ndim == 1 else (kinds - given.mean(axis=0)) / _spread(given)
    shuffled = _permuted(truth.ravel(), groups, permutations, np.random.default_rng(seed))
    best = np.full(len(shuffled), -np.inf)
    for matrix in features:
        np.maximum(best, _left_out(np.asarray(matrix), shuffled, columns, given.ndim == 1), out=best)
    return float((best >= best[0] - 1e-9).mean())


def _spread(numbers: Array) -> Array:
    spread = numbers.std(axis=0)
    return np.asarray(np.where(spread > 0, spread, 1.0))


def _permuted(
    truth: NDArray[np.intp], groups: ArrayLike | None, permutations: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """(permutations + 1) x N labels, the first as given."""
    rows = np.tile(truth, (permutations + 1, 1))
    if groups is None:
        rows[1:] = rng.permuted(rows[1:], axis=1)
        return rows
    first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)[1:]
    if (truth == truth[first][group]).all():
        rows[1:] = rng.permuted(np.tile(truth[first], (permutations, 1)), axis=1)[:, group]
        return rows
    for number in range(len(first)):
        members = np.flatnonzero(group == number)
        rows[1:, members] = rng.permuted(rows[1:, members], axis=1)
    return rows


def _left_out(features: Array, labels: NDArray[np.intp], columns: Float, is_class: bool) -> Float:
    """Leave-one-out ridge regression of each row of ``labels``, which are rows of ``columns``: its accuracy,
    or else its squared error, negative."""
    matrix = features.astype(np.float64)
    left, sigma, _ = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    sigma2, n = sigma**2, len(matrix)
    shrink = sigma2[:, None] / (sigma2[:, None] + PENALTIES[::2] * (sigma2[0] or 1.0))
    slack = (1 - 1 / n - left**2 @ shrink).astype(np.float32)
    left = left.astype(np.float32)
    values = np.empty(len(labels))
    chunk = max(1, 2**23 // (n * columns.shape[1]))
    for first in range(0, len(labels), chunk):
        some = labels[first : first + chunk]
        targets = columns[some.T].astype(np.float32)  # N x B x C
        centred = targets - targets.mean(axis=0)
        projections = left.T @ centred.reshape(n, -1)
        least, hits = np.full(len(some), np.inf), np.zeros(len(some))
        for k in range(shrink.shape[1]):
            fitted = left @ (shrink[:, k, None].astype(np.float32) * projections)
            residual = (centred - fitted.reshape(centred.shape)) / slack[:, k, None, None]
            error = np.einsum("nbc,nbc->b", residual, residual)
            if is_class:
                right = (targets - residual).argmax(axis=2) == some.T
                hits = np.where(error < least, right.mean(axis=0), hits)
            least = np.minimum(least, error)
        values[first : first + chunk] = hits if is_class else -least
    return values
