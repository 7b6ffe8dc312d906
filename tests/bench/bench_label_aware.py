"""The whole label-aware set against straightforward versions of the same scores: one ratio.

Ours shares each candidate's spectra as a score task does. The straightforward versions are numpy and scipy
from the definitions, each with its own decompositions: those of the tests where they are practical at this
size, else below, in the ordinary way that one would write first but with matrix products for sums of outer
products, a rank-one update for N refits, and L-BFGS for the Newton method of the tests. probe-cv is left
out of both sets: it is the truth protocol itself, which ``bench_probe.py`` measures.

The features are those of ``bench_probe.py``. Run with
``pytest tests/bench/bench_label_aware.py --benchmark-only -s``, on one BLAS thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from bench_probe import C, D, N, checkpoint
from bench_scores import slow_h_score, slow_logme, slow_shrunk
from helpers.references import gbc, lfc, minmax, ncti, parc, transrate
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln, logsumexp, softmax
from sklearn.covariance import ledoit_wolf

from ckptbench.base.types import Array
from ckptbench.numerics.linear import PENALTIES
from ckptbench.plugins import load_plugins
from ckptbench.scores.candidate import Candidate, Ledger

SELECTORS = load_plugins("selector")
DECAYS = (1.0, 1.15, 1.3)  # of the features of one candidate each
CANDIDATES = 30  # the whole job, of which these are a tenth


def class_means(x: Array, y: Array) -> Array:
    return np.array([x[y == c].mean(axis=0) for c in range(C)])


def lda_posterior(x: Array, y: Array, lam: float | None, target: float | None) -> tuple[Array, float]:
    """Posteriors in the Fisher space of the papers' generalised eigenproblem."""
    means, priors = class_means(x, y), np.bincount(y) / len(y)
    residuals, apart = x - means[y], means - x.mean(axis=0)
    within = residuals.T @ residuals / len(y)
    between = (apart.T * priors) @ apart
    lam = max(np.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10) if lam is None else lam
    t = np.trace(within) / x.shape[1] if target is None else target
    shrunk = (1 - lam) * within + lam * t * np.eye(len(within))
    u = scipy.linalg.eigh(between, shrunk)[1][:, ::-1][:, : C - 1]
    x, means = x @ u, means @ u
    return softmax(x @ means.T - 0.5 * (means**2).sum(axis=1) + np.log(priors), axis=1), lam


def slow_sfda(x: Array, y: Array) -> float:
    rows = np.arange(len(y))
    posterior, lam = lda_posterior(x, y, None, 1.0)
    confidence = posterior[rows, y][:, None]
    means = class_means(x, y)
    others = np.array([np.delete(means, c, axis=0).mean(axis=0) for c in range(C)])
    mixed = confidence * x + (1 - confidence) * others[y]
    return float(lda_posterior(mixed, y, lam, 1.0)[0][rows, y].mean())


def slow_etran(pool: list[Array], y: Array) -> Array:
    rows = np.arange(len(y))
    lda = [lda_posterior(x, y, None, None)[0][rows, y].mean() for x in pool]
    return 0.85 * minmax(lda) + 0.15 * minmax([logsumexp(x, axis=1).mean() for x in pool])


def slow_pactran(x: Array, y: Array) -> float:
    """The bound at scipy's L-BFGS optimum over the weights of the centred features and an intercept."""
    x = x - x.mean(axis=0)
    n, d = x.shape
    design, onehot = np.column_stack([x, np.ones(n)]), np.eye(C)[y]
    ridge = np.append(np.full(d, 1 / n), 0.0)[:, None]

    def loss(flat: Array) -> tuple[float, Array]:
        w = flat.reshape(d + 1, C)
        logits = design @ w
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        gradient = design.T @ (np.exp(log_p) - onehot) / n + ridge * w
        return -(onehot * log_p).sum() / n + 0.5 * (ridge * w**2).sum(), gradient.ravel()

    options = {"maxiter": 10000, "maxfun": 20000, "gtol": 1e-9, "ftol": 0.0}
    found = minimize(loss, np.zeros((d + 1) * C), jac=True, method="L-BFGS-B", options=options)
    p = softmax(design @ found.x.reshape(d + 1, C), axis=1)
    trace = float(((x**2).T @ (p * (1 - p))).sum() / n)
    beta, prior = n * d / 100.0, 100.0 / d
    return float(-(found.fun + d * C / (2 * beta) * np.log(1 + beta * prior * trace / (d * C))))


def slow_tmi(x: Array, y: Array, k: int = 3) -> float:
    d, total = x.shape[1], 0.0
    for c in range(C):
        z = x[y == c]
        radius = np.sort(cdist(z, z), axis=1)[:, k]
        ball = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
        total += len(z) * (digamma(len(z)) - digamma(k) + ball + d * np.log(radius).mean())
    return float(total / len(y))


def slow_knn(x: Array, y: Array, k: int = 5) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    right = 0
    for i, near in enumerate(np.argsort(-similarity, axis=1)[:, :k]):
        votes = np.bincount(y[near], minlength=C)
        sums = np.bincount(y[near], similarity[i, near], minlength=C)
        right += max(range(C), key=lambda c: (votes[c], sums[c])) == y[i]
    return right / len(y)


def slow_ridge(x: Array, y: Array) -> float:
    """The hat matrix of every penalty."""
    x = x - x.mean(axis=0)
    onehot = np.eye(C)[y]
    covariance = x.T @ x
    best, accuracy = np.inf, 0.0
    for penalty in PENALTIES * np.linalg.norm(x, 2) ** 2:
        hat = 1 / N + x @ np.linalg.solve(covariance + penalty * np.eye(D), x.T)
        residual = (onehot - hat @ onehot) / (1 - np.diag(hat))[:, None]
        error = (residual**2).sum()
        if error < best:
            best, accuracy = error, ((onehot - residual).argmax(axis=1) == y).mean()
    return float(accuracy)


def slow_lda_loo(x: Array, y: Array) -> float:
    """One inverse, and a rank-one update of it for each example; N refits would take N times as long."""
    means, counts = class_means(x, y), np.bincount(y)
    residuals = x - means[y]
    s = ledoit_wolf(residuals, assume_centered=True)[1]
    rho = s * (residuals**2).sum() / (N * D)
    inverse = np.linalg.inv((1 - s) * residuals.T @ residuals / (N - 1) + rho * np.eye(D))
    right = 0
    for i, c in enumerate(y):
        g = (1 - s) * counts[c] / ((counts[c] - 1) * (N - 1))
        without = means.copy()
        without[c] -= residuals[i] / (counts[c] - 1)
        left = counts - (np.arange(C) == c)
        u = x[i] - without
        solved = inverse @ residuals[i]
        distance = np.einsum("kd,kd->k", u @ inverse, u)
        distance += g * (u @ solved) ** 2 / (1 - g * residuals[i] @ solved)
        right += (np.log(left) - 0.5 * distance).argmax() == c
    return right / len(y)


# Each with the relative tolerance at which it has to agree.
SINGLE: dict[str, tuple[Callable[[Array, Array], float], float]] = {
    "logme:reading=code": (slow_logme, 1e-10),
    "h-score": (slow_h_score, 1e-8),
    "h-score-shrunk": (slow_shrunk, 1e-8),
    "transrate": (transrate, 1e-8),
    "gbc": (gbc, 1e-8),
    "parc": (parc, 1e-8),
    "sfda": (slow_sfda, 1e-6),
    "pactran-gauss": (slow_pactran, 1e-6),
    "lfc": (lfc, 1e-8),
    "tmi": (slow_tmi, 1e-8),
    "knn": (slow_knn, 1e-12),
    "ridge-loo": (slow_ridge, 1e-12),
    "lda-loo": (slow_lda_loo, 1e-12),
}
POOL: dict[str, Callable[[list[Array], Array], Array]] = {"etran": slow_etran, "ncti": ncti}


def clock(way: Callable[[], Any]) -> tuple[Any, float]:
    before = time.perf_counter()
    value = way()
    return value, time.perf_counter() - before


def test_label_aware_set(benchmark: Any) -> None:
    pool = [checkpoint(decay)[0] for decay in DECAYS]
    y = checkpoint(DECAYS[0])[1]
    ours: Counter[str] = Counter()
    straightforward: Counter[str] = Counter()

    def compare(name: str, ledger: Ledger, fast: Callable[[], Any], slow: Callable[[], Any]) -> Any:
        """Both ways in turn; the spectra that a score is the first to look at have a line of their own."""
        ledger.start()
        found, seconds = clock(fast)
        ours["(spectra)"] += ledger.spent
        ours[name] += seconds - ledger.spent
        expected, seconds = clock(slow)
        straightforward[name] += seconds
        return found, expected

    for x in pool:
        ledger = Ledger()
        candidate = Candidate(x, y).kept_in(ledger)
        for name, (reference, relative) in SINGLE.items():
            plugin = SELECTORS[name].make()
            found, expected = compare(
                name, ledger, partial(plugin.score, candidate), partial(reference, x, y)
            )
            assert found == pytest.approx(expected, rel=relative), name
    ledger = Ledger()  # the pool is a task of its own, and makes its spectra again
    candidates = [Candidate(x, y).kept_in(ledger, at) for at, x in enumerate(pool)]
    for name, whole in POOL.items():
        plugin = SELECTORS[name].make()
        found, expected = compare(
            name, ledger, partial(plugin.score_pool, candidates), partial(whole, pool, y)
        )
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    fresh = Candidate(pool[0], y)
    benchmark.pedantic(lambda: [SELECTORS[name].make().score(fresh) for name in SINGLE], rounds=1)

    total, reference_total = sum(ours.values()), sum(straightforward.values())
    benchmark.extra_info["ratio"] = reference_total / total
    print(f"\nseconds for {len(DECAYS)} candidates of {N} x {D}, {C} classes:      ours  straightforward")
    for name, seconds in ours.most_common():
        print(f"  {name:<44}{seconds:10.3f}{straightforward[name]:17.3f}")
    print(
        f"{len(SINGLE) + len(POOL)} label-aware scores: {total:.2f} s against {reference_total:.2f} s, ratio "
        f"{reference_total / total:.1f} ({CANDIDATES} candidates are {CANDIDATES // len(DECAYS)} times that)"
    )
