"""The optimum of L2-penalised softmax regression, for many heads (weights on the rows x penalty) at once.

The features are rotated into the eigenbasis of their Gram matrix and every coordinate
is scaled to unit energy (e_j is what it had). There the data's curvature at the start is 1/C in every
direction and the penalty's is lambda/e_j, so L-BFGS starts from 1/(v + lambda/e_j) with v = 1/C;
as the head grows sure of its examples the data's curvature falls, and v follows it as the mean of
p(1 - p) (measured on a ResNet-18's features at penalties of 1e-5 and 1e-4: a quarter to two thirds
fewer steps than with v = 1/C throughout). Logits are linear in the step, so a line search costs no
matrix product; heads that have converged are dropped. L-BFGS runs in float32 first and refines in
float64, whose gradient is the one that decides convergence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Float

MEMORY = 8
"""Pairs that L-BFGS remembers."""
LOGITS = 2**24
"""About how many logits are held at a time: heads beyond that wait."""
Labels = NDArray[np.int64]


class Heads(NamedTuple):
    """H fitted softmax heads: logits of head h are ``features @ coef[h].T + intercept[h]``."""

    coef: Float
    """H x C x D"""
    intercept: Float
    """H x C, the unpenalised part"""
    gradient: Float
    """H: what the relative gradient was at the end; at most ``tol`` unless rounding stopped it"""
    iterations: NDArray[np.int64]
    """H: steps taken, float32 and float64 together"""


def fit_softmax(
    features: ArrayLike,
    labels: ArrayLike,
    n_classes: int,
    penalties: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    tol: float = 1e-5,
    max_iterations: int = 10_000,
) -> Heads:
    """Fit L2-penalised softmax regression, one head per penalty, all at once.

    Head h minimises ``sum_n w_hn ce_n / sum_n w_hn + penalties[h]/2 |W_h|^2``, ce_n the cross-entropy
    of row n; the intercept is free, and sums to 0 over the classes, since its mean changes nothing.

    Parameters
    ----------
    features : N x D
    labels : N integers in 0..n_classes-1; a class may be missing
    penalties : H positive numbers
    weights : N or H x N, not negative; a head does not see rows of weight 0. All 1 when absent
    tol : bound of the gradient's norm over its norm at W = 0. Ten times ``tol`` also bounds the same
        ratio in the solver's own metric, whose square is about the share of the objective still to be
        gained: at a penalty of 1e-6 the plain norm alone changed 1 to 10 % of the predictions

    Raises
    ------
    InputError
        If shapes do not fit, a label is out of range, a feature is not finite, a penalty is not
        positive, or a head has no row with weight.
    """
    X, y, lam, w = _checked(features, labels, n_classes, penalties, weights)
    seen = w.any(axis=0)
    X, y, w = X[seen], y[seen], w[:, seen]
    w = w / w.sum(axis=1, keepdims=True)

    Z, energy, back, mean = _whiten(X, w.mean(axis=0))
    ridge = np.zeros((len(lam), Z.shape[1]))
    ridge[:, :-1] = np.minimum(lam[:, None] / energy, 1e30)
    units = np.append(energy, 1.0)
    units /= units.max()

    onehot = (np.arange(n_classes)[:, None] == y).astype(np.float64)
    problem = _Problem(Z, onehot, w, ridge, units)
    group = max(1, LOGITS // (n_classes * len(y)))
    parts = [
        _descend_twice(y, problem.heads(slice(h, h + group)), tol, max_iterations)
        for h in range(0, len(lam), group)
    ]
    A, gradient, steps = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    coef = A[:, :, :-1] @ back
    intercept = A[:, :, -1] - coef @ mean
    intercept -= intercept.mean(axis=1, keepdims=True)
    return Heads(coef, intercept, gradient, steps)


def _checked(
    features: ArrayLike, labels: ArrayLike, n_classes: int, penalties: ArrayLike, weights: ArrayLike | None
) -> tuple[Float, NDArray[np.int64], Float, Float]:
    X = np.asarray(features, dtype=np.float64)
    y = np.asarray(labels)
    lam = np.atleast_1d(np.asarray(penalties, dtype=np.float64))
    if X.ndim != 2 or y.shape != X.shape[:1] or not len(y):
        raise InputError(
            f"softmax regression: features {X.shape} and labels {y.shape} should be N x D and N, N > 0"
        )
    if not np.isfinite(X).all():
        raise InputError("softmax regression: the features hold a value that is not finite")
    if n_classes < 2 or not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= n_classes:
        raise InputError(
            f"softmax regression: labels should be integers in 0..C-1 with C >= 2, "
            f"not {y.dtype} {y.min()}..{y.max()} with C = {n_classes}"
        )
    if not (np.isfinite(lam) & (lam > 0)).all():
        raise InputError(f"softmax regression: penalties should be positive, not {lam.tolist()}")
    w = np.broadcast_to(
        np.ones(len(y)) if weights is None else np.asarray(weights, float), (len(lam), len(y))
    )
    if not (np.isfinite(w) & (w >= 0)).all() or not w.any(axis=1).all():
        raise InputError("softmax regression: row weights should be >= 0, and some of each head's > 0")
    return X, y.astype(np.int64), lam, w


def _whiten(X: Float, weights: Float) -> tuple[Float, Float, Float, Float]:
    """Centre, rotate into the eigenbasis of the weighted Gram matrix, scale to unit energy.

    Returns Z (N x (R+1), its last column 1 for the intercept), the energies e (R, the weighted mean
    squares of the rotated coordinates), ``back`` (R x D, from whitened coefficients to those of X) and
    the mean. R is the rank: directions in which the rows do not differ have coefficient 0.
    """
    mean = weights @ X
    X = X - mean
    largest = np.abs(X).max() or 1.0
    X /= largest
    basis = None
    if len(X) < X.shape[1]:
        # The optimum lies in the span of the rows.
        basis, R = np.linalg.qr(X.T)
        X = np.ascontiguousarray(R.T)
    root = X * np.sqrt(weights)[:, None]
    _, V = np.linalg.eigh(root.T @ root)
    Z = X @ V
    # Measured, not eigenvalues: the Gram matrix knows small ones to 1e-16 of the largest only.
    energy = weights @ Z**2
    kept = energy > (max(X.shape) * np.finfo(float).eps) ** 2 * energy.max()
    root = np.sqrt(energy[kept])
    Z = np.hstack([Z[:, kept] / root, np.ones((len(Z), 1))])
    back = (V[:, kept] / root).T
    if basis is not None:
        back = back @ basis.T
    return Z, energy[kept] * largest**2, back / largest, mean


@dataclass(frozen=True)
class _Problem:
    """What H heads minimise in whitened coordinates, in one precision.

    Z is N x R, ``onehot`` C x N, ``weights`` H x N (rows sum to 1), ``ridge`` H x R (the penalty of each
    coordinate), ``units`` R: what a squared gradient here is to that of the features' own coordinates, up to
    a factor. Class probabilities P are H x C x N, coefficients A and gradients H x C x R.
    """

    Z: Array
    onehot: Array
    weights: Array
    ridge: Array
    units: Array

    def heads(self, some: Array | slice) -> _Problem:
        return replace(self, weights=self.weights[some], ridge=self.ridge[some])

    def along(self, A: Array) -> Array:
        """Logits, H x C x N."""
        logits: Array = (A.reshape(-1, A.shape[2]) @ self.Z.T).reshape(*A.shape[:2], -1)
        return logits

    def gradient(self, P: Array, A: Array) -> Array:
        residual = P - self.onehot
        residual *= self.weights[:, None]
        g: Array = (residual.reshape(-1, len(self.Z)) @ self.Z).reshape(A.shape)
        g += self.ridge[:, None] * A
        # Moving all intercepts together changes nothing: keep rounding from drifting that way.
        g[:, :, -1] -= g[:, :, -1].mean(axis=1, keepdims=True)
        return g

    def inverse_curvature(self, P: Array) -> Array:
        v = (1 - np.einsum("hcn,hcn,hn->h", P, P, self.weights)) / (P.shape[1] - 1)
        inverse: Array = 1 / (np.maximum(v, 1e-10)[:, None] + self.ridge)
        return inverse

    def norms(self, g: Array, B: Array) -> tuple[Array, Array]:
        squares = np.einsum("hcr,hcr->hr", g, g)
        return np.sqrt(squares @ self.units), np.sqrt(_dot(squares, B))


def _descend_twice(y: Labels, problem: _Problem, tol: float, limit: int) -> tuple[Float, Float, Labels]:
    """``_descend`` from zero in float32, and from there in float64."""
    heads, size = problem.ridge.shape
    A, gradient, steps = (
        np.zeros((heads, len(problem.onehot), size)),
        np.zeros(heads),
        np.zeros(heads, np.int64),
    )
    # float32 can reach 1e-6. It is asked for a little more than tol, so that most heads need
    # no further step in float64.
    for dtype, goal, most in (
        (np.float32, 0.9 * max(tol, 1e-5), min(1000, limit)),
        (np.float64, tol, limit),
    ):
        parts = (problem.Z, problem.onehot, problem.weights, problem.ridge, problem.units)
        there = _Problem(*(array.astype(dtype, copy=False) for array in parts))
        A, gradient, taken = _descend(y, there, A.astype(dtype, copy=False), goal, most)
        steps += taken
    return A, gradient, steps


def _descend(y: Labels, problem: _Problem, A: Array, tol: float, limit: int) -> tuple[Float, Float, Labels]:
    """L-BFGS for all heads together from the coefficients A, in the problem's precision.

    Returns the coefficients in float64, the relative gradient reached and the steps taken.
    """
    heads, classes, _ = A.shape
    rows = np.arange(len(y))
    P = np.full((heads, classes, len(y)), 1 / classes, A.dtype)
    plain0, own0 = problem.norms(problem.gradient(P, np.zeros_like(A)), problem.inverse_curvature(P))
    # Where there is nothing to learn, rounding is not asked to fall any further.
    plain0, own0 = np.maximum(plain0, 1e-8), np.maximum(own0, 1e-6)

    logits = problem.along(A)
    P = softmax_in_place(logits.copy())
    g = problem.gradient(P, A)
    pairs: deque[list[Array]] = deque(maxlen=MEMORY)
    alive, stuck = np.arange(heads), np.zeros(heads, dtype=bool)
    result, reached, steps = np.zeros(A.shape), np.zeros(heads), np.zeros(heads, dtype=np.int64)
    for step in range(limit + 1):
        B = problem.inverse_curvature(P)
        plain, own = problem.norms(g, B)
        relative = np.maximum(plain / plain0, own / own0 / 10)
        done = (relative <= tol) | stuck | (step == limit)
        if done.any():
            out, go = alive[done], ~done
            result[out], reached[out], steps[out] = A[done], relative[done], step
            alive, problem = alive[go], problem.heads(go)
            if not len(alive):
                break
            A, logits, P, g, B, plain0, own0 = (a[go] for a in (A, logits, P, g, B, plain0, own0))
            pairs = deque(([a[go] for a in pair] for pair in pairs), maxlen=MEMORY)

        d = _direction(g, pairs, B)
        slope, change, rd = _dot(g, d), problem.along(d), problem.ridge[:, None] * d
        base = _dot(A, rd) - _dot(change[:, y, rows], problem.weights)
        t, P = _line_search(logits, change, problem.weights, slope, base, _dot(d, rd))
        d *= t[:, None, None]
        change *= t[:, None, None]
        new = problem.gradient(P, A + d)
        turn = new - g
        curvature = _dot(d, turn)
        # Convexity says that both signs are right; where they are not, rounding is all that is left.
        stuck = ~((slope < 0) & (curvature > np.finfo(A.dtype).tiny))
        new[stuck], d[stuck] = g[stuck], 0
        A, g = A + d, new
        logits += change
        pairs.append([d, turn, 1 / np.where(stuck, 1, curvature)])
    return result, reached, steps


def _direction(g: Array, pairs: deque[list[Array]], B: Array) -> Array:
    """The two-loop recursion of L-BFGS for every head, from the initial inverse Hessian diag(B)."""
    d = -g
    alphas = []
    for s, y, rho in reversed(pairs):
        alphas.append(rho * _dot(s, d))
        d -= alphas[-1][:, None, None] * y
    d *= B[:, None]
    if pairs:
        _, y, rho = pairs[-1]
        d /= (rho * _dot(y, y * B[:, None]))[:, None, None]
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        d += (alpha - rho * _dot(y, d))[:, None, None] * s
    return d


def _line_search(
    logits: Array, change: Array, w: Array, slope: Array, base: Array, curve: Array
) -> tuple[Array, Array]:
    """Each head's step t along its direction, and its class probabilities there.

    The objective is convex along the direction, with derivative at t
    ``sum_n w_n sum_c p_nc(t) change_nc + base + t curve`` and ``slope`` at 0: a safeguarded secant
    iteration on that derivative alone, from the step 1 until it is below nine tenths (Wolfe's second
    condition), needs no objective values, whose differences drown in rounding near the optimum.
    """
    t, low, low_slope = np.ones_like(slope), np.zeros_like(slope), slope.copy()
    high = np.full_like(slope, np.inf)
    P = np.empty_like(logits)
    todo = np.arange(len(slope))
    for attempt in range(20):
        at = t[todo]
        step = change[todo]
        p = P[todo] = softmax_in_place(logits[todo] + at[:, None, None] * step)
        now = _dot(np.einsum("hcn,hcn->hn", p, step), w[todo]) + base[todo] + at * curve[todo]
        far = np.abs(now) > 0.9 * np.abs(slope[todo])
        if attempt == 19 or not far.any():
            break
        todo, at, now = todo[far], at[far], now[far]
        secant = at.copy()
        np.divide(low_slope[todo], low_slope[todo] - now, out=secant, where=low_slope[todo] != now)
        secant = low[todo] + (at - low[todo]) * secant
        short = now < 0
        low[todo[short]], low_slope[todo[short]] = at[short], now[short]
        high[todo[~short]] = at[~short]
        bounded = np.isfinite(high[todo])
        width = np.where(bounded, high[todo], 0) - low[todo]
        t[todo] = np.where(
            bounded,
            np.clip(secant, low[todo] + 0.1 * width, low[todo] + 0.9 * width),
            np.clip(secant, 1.5 * at, 10 * at),
        )
    return t, P


def softmax_in_place(logits: Array) -> Array:
    """Softmax over axis 1, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _dot(a: Array, b: Array) -> Array:
    """Inner product of each head's arrays, by BLAS."""
    heads = len(a)
    product: Array = (a.reshape(heads, 1, -1) @ b.reshape(heads, -1, 1))[:, 0, 0]
    return product
