"""Rank correlations of many rows at once. A coefficient that is undefined counts as 0.

Short rows (checkpoints of a run) go through matrix products of pair signs; rows longer than ``LONG``
(a table of thousands of candidates) through scipy's O(n log n) algorithms, one pair of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ckptbench.base.types import Float

Bool = NDArray[np.bool_]
LONG = 512  # entries of a row; above, no pair of entries is held in memory


def as_rows(x: ArrayLike) -> Float:
    return np.atleast_2d(np.asarray(x, dtype=np.float64))


def _ratio(numerator: Float, denominator: Float) -> Float:
    """The quotient, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def pair_signs(x: Float) -> NDArray[np.float32]:
    """P x n signs of the differences x[:, i] - x[:, j] over the pairs i < j."""
    columns = np.ascontiguousarray(x.T)
    rows = ((columns[i], columns[i + 1 :]) for i in range(len(columns)))
    signs = [(row > rest).view(np.int8) - (row < rest).view(np.int8) for row, rest in rows]
    return np.concatenate(signs).astype(np.float32)


def tau_b(x: ArrayLike, y: ArrayLike) -> Float:
    """Kendall's tau-b of every row of ``x`` with every row of ``y``, as one product of sign matrices.

    Parameters
    ----------
    x : n x E (or E) finite numbers
    y : m x E (or E)

    Returns
    -------
    n x m; 0 where scipy gives NaN because a row is constant.
    """
    x, y = as_rows(x), as_rows(y)
    if x.shape[1] > LONG:
        return _row_by_row(x, y, lambda a, b: stats.kendalltau(a, b).statistic)
    right = pair_signs(y)
    untied_right = np.count_nonzero(right, axis=0)
    result = np.empty((len(x), len(y)))
    chunk = max(1, 2**21 // max(1, len(right)))
    for start in range(0, len(x), chunk):
        left = pair_signs(x[start : start + chunk])
        # float32 holds these counts exactly: they are integers far below 2^24.
        agreement = (left.T @ right).astype(np.float64)
        pairs = np.einsum("pn,pn->n", left, left).astype(np.float64)
        result[start : start + chunk] = _ratio(agreement, np.sqrt(pairs[:, None] * untied_right))
    return result


def _row_by_row(x: Float, y: Float, coefficient: Callable[[Float, Float], float]) -> Float:
    values = [coefficient(a, b) if a.min() < a.max() and b.min() < b.max() else 0.0 for a, b in product(x, y)]
    return np.array(values).reshape(len(x), len(y))


def _signs(x: Float) -> Float:
    """n x E x E signs of the differences x[:, i] - x[:, j]."""
    return np.subtract(x[:, :, None] > x[:, None, :], x[:, :, None] < x[:, None, :], dtype=np.float64)


def _ranked_by(first: Float, second: Float) -> Float:
    """n x m taus with weights 1/(1 + rank), ranked downwards by ``first``, ties by ``second``.

    Rows without ties have weights of their own, so that all are three matrix products.
    """
    n, m, by_rank = len(first), len(second), 1.0 / np.arange(first.shape[1], 0, -1)
    signs, others = _signs(first), _signs(second)
    untied, others_untied = np.abs(signs).sum(axis=2), np.abs(others).sum(axis=2)
    weights = np.empty_like(first)
    np.put_along_axis(weights, np.argsort(first, axis=1), by_rank[None], axis=1)
    agree = (weights[:, :, None] * signs).reshape(n, -1) @ others.reshape(m, -1).T
    left, right = (weights * untied).sum(axis=1)[:, None], weights @ others_untied.T
    taus = _ratio(agree, np.sqrt(left * right))
    for row in np.flatnonzero((np.diff(np.sort(first, axis=1), axis=1) == 0).any(axis=1)):
        order = np.lexsort((second, np.broadcast_to(first[row], second.shape)), axis=-1)
        weight = np.empty_like(second)
        np.put_along_axis(weight, order, by_rank[None], axis=1)
        agree, left = (weight * np.einsum("ef,mef->me", signs[row], others)).sum(axis=1), weight @ untied[row]
        taus[row] = _ratio(agree, np.sqrt(left * (weight * others_untied).sum(axis=1)))
    return taus


def weighted_tau(truth: ArrayLike, scores: ArrayLike, rank: str = "both") -> Float:
    """Weighted tau, additive hyperbolic, of every row of ``truth`` with every row of ``scores``.

    With weights w_i = 1/(1 + rank_i), tau = sum_i w_i C_i / sqrt(sum_i w_i A_i sum_i w_i B_i), where C_i is
    the sum over j of both signs' product and A_i, B_i count the j that are not tied with i.

    Parameters
    ----------
    truth : n x E (or E)
    scores : m x E (or E)
    rank : "both" averages the ranks by truth and by score, ``scipy.stats.weightedtau(scores, truth)``;
        "truth" ranks by truth alone, ``scipy.stats.weightedtau(truth, scores, rank=None)``

    Returns
    -------
    n x m; 0 where one side is constant.
    """
    truth, scores = as_rows(truth), as_rows(scores)
    if truth.shape[1] > LONG:
        if rank == "both":
            return _row_by_row(truth, scores, lambda a, q: stats.weightedtau(q, a).statistic)
        by_first: Any = None  # which scipy's type hints leave out
        return _row_by_row(truth, scores, lambda a, q: stats.weightedtau(a, q, rank=by_first).statistic)
    result = np.empty((len(truth), len(scores)))
    chunk = max(1, 2**22 // truth.shape[1] ** 2)
    for start in range(0, len(truth), chunk):
        some = truth[start : start + chunk]
        taus = _ranked_by(some, scores)
        result[start : start + chunk] = (taus + _ranked_by(scores, some).T) / 2 if rank == "both" else taus
    return result


def partial_tau(t_qa: ArrayLike, t_qz: ArrayLike, t_az: ArrayLike) -> Float:
    """Kendall's partial tau of q and a given z, from the three taus; NaN where one with z is +-1."""
    t_qa, t_qz, t_az = (np.asarray(t, dtype=np.float64) for t in (t_qa, t_qz, t_az))
    square = (1 - t_qz**2) * (1 - t_az**2)
    defined = square > 1e-12
    return np.where(defined, (t_qa - t_qz * t_az) / np.sqrt(np.where(defined, square, 1.0)), np.nan)


def pearson(x: ArrayLike, y: ArrayLike) -> Float:
    """Pearson's r, n x m, of every row of ``x`` with every row of ``y``; 0 where one is constant."""
    x, y = _centred(as_rows(x)), _centred(as_rows(y))
    return _ratio(x @ y.T, np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1))


def _centred(x: Float) -> Float:
    """Rows minus their mean; exactly 0 for a constant row, whose computed mean may be off by an ulp."""
    x = bounded(x)
    return np.where(np.ptp(x, axis=1, keepdims=True) == 0, 0.0, x - x.mean(axis=1, keepdims=True))


def bounded(x: Float) -> Float:
    """Rows over the power of two above their largest magnitude: no overflow, no rounding."""
    return np.asarray(np.ldexp(x, -np.frexp(np.abs(x).max(axis=1, keepdims=True))[1]))


def spearman(x: ArrayLike, y: ArrayLike) -> Float:
    """Spearman's rho, n x m, of every row of ``x`` with every row of ``y``; 0 where one is constant."""
    return pearson(stats.rankdata(as_rows(x), axis=1), stats.rankdata(as_rows(y), axis=1))
