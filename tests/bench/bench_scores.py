"""How much faster the shared spectrum is than the straightforward way: one ratio per case.

Both ways run interleaved in one process on one BLAS thread, the best of a few rounds each, and have to
agree. Run with ``pytest tests/bench/bench_scores.py --benchmark-only -s``.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from ckptbench.base.types import Array
from ckptbench.plugins import load_plugins
from ckptbench.scores.candidate import Candidate

SELECTORS = load_plugins("selector")
SHAPES = [(1000, 512, 10), (5000, 2048, 100), (50000, 512, 10)]


def rectified(n: int, d: int, classes: int) -> tuple[Array, Array]:
    """Features like a network's: rectified, correlated, with some class structure."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    hidden = rng.normal(size=(n, d)) * np.geomspace(3, 0.1, d) + rng.normal(size=(classes, d))[labels]
    return np.maximum(hidden @ rng.normal(size=(d, d)) / np.sqrt(d), 0.0), labels


def compare(benchmark: Any, fast: Callable[[], Any], slow: Callable[[], Any], rounds: int) -> tuple[Any, Any]:
    """Run both in turn; put the ratio of their best times into the report; return both results."""
    best = {fast: np.inf, slow: np.inf}
    results = {}
    for _ in range(rounds):
        for way in (fast, slow):
            before = time.perf_counter()
            results[way] = way()
            best[way] = min(best[way], time.perf_counter() - before)
    ratio = best[slow] / best[fast]
    benchmark.extra_info["ratio"] = ratio
    print(f"\n{benchmark.name}: {best[fast]:.3f} s against {best[slow]:.3f} s, ratio {ratio:.1f}")
    benchmark.pedantic(fast, rounds=1)
    return results[fast], results[slow]


def slow_logme(f: Array, y: Array) -> float:
    """LogME's fixed point with a full SVD, one class after the other, as the authors' code has it."""
    n, d = f.shape
    u, sigma, _ = np.linalg.svd(f, full_matrices=False)
    s2 = sigma**2
    evidences = []
    for c in range(int(y.max()) + 1):
        column = (y == c).astype(np.float64)
        x2 = (u.T @ column) ** 2
        r = column.sum() - x2.sum()
        t = 1.0
        for _ in range(11):
            g = (s2 / (s2 + t)).sum()
            m = (s2 * x2 / (t + s2) ** 2).sum()
            e = (x2 / (1 + s2 / t) ** 2).sum() + r
            alpha, beta = g / (m + 1e-5), (n - g) / (e + 1e-5)
            before, t = t, alpha / beta
            if abs(t - before) / before < 1e-3:
                break
        logs = np.log(alpha + beta * s2).sum() + (d - len(s2)) * np.log(alpha)
        evidence = d * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - logs - beta * e - alpha * m
        evidences.append(evidence / (2 * n))
    return float(np.mean(evidences))


def class_means(f: Array, y: Array) -> Array:
    g = np.zeros_like(f)
    for c in np.unique(y):
        g[y == c] = f[y == c].mean(axis=0)
    return g


def slow_h_score(f: Array, y: Array) -> float:
    inverse = np.linalg.pinv(np.cov(f, rowvar=False), rcond=1e-15)
    return float(np.trace(inverse @ np.cov(class_means(f, y), rowvar=False)))


def slow_shrunk(f: Array, y: Array) -> float:
    covariance, shrinkage = ledoit_wolf(f)
    inverse = np.linalg.pinv(covariance, rcond=1e-15)
    return float(np.trace(inverse @ np.cov(class_means(f, y), rowvar=False)) * (1 - shrinkage))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logme(benchmark: Any, shape: tuple[int, int, int]) -> None:
    f, y = rectified(*shape)
    plugin = SELECTORS["logme"].make()
    fast, slow = compare(benchmark, lambda: plugin.score(Candidate(f, y)), lambda: slow_logme(f, y), rounds=2)
    assert fast >= slow - 1e-9  # the maximum


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_three_scores_in_one_pass(benchmark: Any, shape: tuple[int, int, int]) -> None:
    f, y = rectified(*shape)
    plugins = [SELECTORS[name].make() for name in ("logme", "h-score", "h-score-shrunk")]

    def one_pass() -> list[float]:
        candidate = Candidate(f, y)
        return [plugin.score(candidate) for plugin in plugins]

    def apart() -> list[float]:
        return [way(f, y) for way in (slow_logme, slow_h_score, slow_shrunk)]

    fast, slow = compare(benchmark, one_pass, apart, rounds=1 if shape[1] > 1000 else 2)
    assert fast[0] >= slow[0] - 1e-9
    np.testing.assert_allclose(fast[1:], slow[1:], rtol=1e-8)


def test_memory(benchmark: Any, tmp_path: Path) -> None:
    """Peak memory of a process that scores 50,000 x 2048 float16 features from a memory map."""
    rng = np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(tmp_path / "f.npy", "w+", np.float16, (50000, 2048))
    for start in range(0, 50000, 5000):
        mapped[start : start + 5000] = np.maximum(rng.normal(size=(5000, 2048)), 0.0)
    mapped.flush()
    code = f"""
        import resource
        import numpy as np
        from ckptbench.plugins import load_plugins
        from ckptbench.scores.candidate import Candidate
        features = np.load({str(tmp_path / "f.npy")!r}, mmap_mode="r")
        labels = np.arange(50000) % 10
        candidate = Candidate(features, labels)
        registry = load_plugins("selector")
        for name in ("logme", "h-score", "h-score-shrunk", "ridge-loo"):
            registry[name].make().score(candidate)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    """

    def score() -> float:
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=True)
        return float(run.stdout)

    peak = benchmark.pedantic(score, rounds=1)
    benchmark.extra_info["peak GiB"] = peak
    print(f"\npeak memory: {peak:.2f} GiB")
    assert peak * 2**30 < 2.5e9
