"""Every score written from its definition, slowly: full decompositions, plain loops, refitting."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.spatial.distance
import scipy.special
import scipy.stats
from helpers.made_up import source_rows
from sklearn.covariance import LedoitWolf, ledoit_wolf
from sklearn.mixture import GaussianMixture

from ckptbench.base.sampling import row_batches, stratified_folds
from ckptbench.base.types import Array
from ckptbench.numerics.linear import PENALTIES
from ckptbench.numerics.spectrum import Spectrum


def transrate(x, y, eps=1e-4, weights="size", normalise=False):
    x = x - x.mean(axis=0)
    if normalise:
        x = x / np.sqrt((x**2).sum())

    def rate(z):
        return 0.5 * np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * eps))[1]

    classes = np.unique(y)
    share = [np.mean(y == c) if weights == "size" else 1 / len(classes) for c in classes]
    return rate(x) - sum(p * rate(x[y == c]) for p, c in zip(share, classes, strict=True))


def components(x, k):
    x = x - x.mean(axis=0)
    _, sigma, v = np.linalg.svd(x, full_matrices=False)
    return x @ v[: min(k, int((sigma > 1e-7 * sigma[0]).sum()))].T


def gbc(x, y, dims=64, reading="paper"):
    z = components(x, min(dims, len(x) - 1, x.shape[1]))
    k, total = z.shape[1], 0.0
    for i in np.unique(y):
        for j in np.unique(y):
            if i == j:
                continue
            a, b = z[y == i], z[y == j]
            va, vb = (max(np.mean(s.var(axis=0)), 1e-4) for s in (a, b))
            if reading == "code":
                va, vb = (np.maximum(s.var(axis=0), 1e-4).mean() for s in (a, b))
            cov = [v * np.eye(k if reading == "paper" else 1) for v in (va, vb, (va + vb) / 2)]
            logs = [np.linalg.slogdet(c)[1] for c in cov]
            gap = a.mean(axis=0) - b.mean(axis=0)
            total -= np.exp(-gap @ gap / (8 * (va + vb) / 2) - 0.5 * (logs[2] - (logs[0] + logs[1]) / 2))
    return total


def parc(x, y, dims=32):
    z = components(x, min(dims, len(x) - 1, x.shape[1]))
    z = z / z.std(axis=0)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    distances = 1 - z @ z.T
    if np.ptp(distances[np.triu_indices(len(y), 1)]) < 1e-9:
        return 0.0
    upper = np.triu_indices(len(y), 1)
    return 100 * scipy.stats.spearmanr(distances[upper], (y[:, None] != y)[upper])[0]


def lda_posterior(x, y, lam, target):
    """Posteriors in the C - 1 dimensional Fisher space, by the generalised eigenproblem of the papers."""
    classes = np.unique(y)
    means = np.array([x[y == c].mean(axis=0) for c in classes])
    priors = np.array([np.mean(y == c) for c in classes])
    within = sum(np.outer(r, r) for r in x - means[np.searchsorted(classes, y)]) / len(x)
    centre = priors @ means
    between = sum(p * np.outer(m - centre, m - centre) for p, m in zip(priors, means, strict=True))
    lam = max(np.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10) if lam is None else lam
    t = np.trace(within) / x.shape[1] if target == "mean" else 1.0
    shrunk = (1 - lam) * within + lam * t * np.eye(len(within))
    u = scipy.linalg.eigh(between, shrunk)[1][:, ::-1][:, : len(classes) - 1]
    x, means = x @ u, means @ u
    return scipy.special.softmax(x @ means.T - 0.5 * (means**2).sum(axis=1) + np.log(priors), axis=1), lam


def sfda(x, y, target="identity", soften=False):
    classes, index = np.unique(y, return_inverse=True)
    rows = np.arange(len(y))
    posterior, lam = lda_posterior(x, y, None, target)
    confidence = (scipy.special.softmax(posterior, axis=1) if soften else posterior)[rows, index]
    means = np.array([x[y == c].mean(axis=0) for c in classes])
    others = np.array([np.delete(means, i, axis=0).mean(axis=0) for i in range(len(classes))])
    mixed = confidence[:, None] * x + (1 - confidence[:, None]) * others[index]
    return lda_posterior(mixed, y, lam, target)[0][rows, index].mean()


def minmax(column):
    column = np.asarray(column)
    return (column - column.min()) / (np.ptp(column) or 1.0)


def etran(pool, y):
    index = np.unique(y, return_inverse=True)[1]
    lda = [lda_posterior(x, y, None, "mean")[0][np.arange(len(y)), index].mean() for x in pool]
    energy = [np.mean([np.log(np.exp(row).sum()) for row in x]) for x in pool]
    return 0.85 * minmax(lda) + 0.15 * minmax(energy)


def ncti(pool, y, dims=64):
    """The authors' steps, their LDA written out."""
    index = np.unique(y, return_inverse=True)[1]
    terms = []
    for x in pool:
        z = components(x, min(dims, len(x) - 1, x.shape[1]))
        n, k, c = *z.shape, index.max() + 1
        lam = max(np.exp(-z[:, :32].var(axis=0, ddof=1).sum()), 1e-10)
        means = np.array([z[index == j].mean(axis=0) for j in range(c)])
        priors = np.bincount(index) / n
        within = (z - means[index]).T @ (z - means[index]) / n
        total = np.diag(np.diag(z.T @ z / n))
        if lam > 1e-10:
            within = (1 - lam) * within + lam * np.trace(within) / k * np.eye(k)
            total = (1 - lam) * total + lam * np.trace(total) / k * np.eye(k)
        else:  # the solver without shrinkage divided by N - C when the paper was written
            within = within * n / (n - c)
        u = scipy.linalg.eigh(total - within, within)[1][:, ::-1][:, : c - 1]
        inverse = np.linalg.inv(within)
        logits = (
            z @ inverse @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, inverse, means) + np.log(priors)
        )
        posterior = scipy.special.softmax(logits, axis=1)
        spread = sum(np.linalg.svd(posterior[index == j], compute_uv=False).sum() for j in range(c))
        norm = np.linalg.svd(z @ u, compute_uv=False).sum()
        terms.append((norm, posterior[np.arange(n), index].mean(), np.log(spread)))
    first, second, third = (minmax(column) for column in np.transpose(terms))
    return first + second - third


def pactran(x, y, ratio=1.0, variance=100.0, reading="paper"):
    """The bound at the optimum that scipy's Newton method finds from the full Hessian."""
    y = np.unique(y, return_inverse=True)[1]
    x = x - x.mean(axis=0)
    (n, d), c = x.shape, y.max() + 1
    design = np.column_stack([x, np.ones(n)])
    ridge = np.append(np.full(d, 1 / (ratio * n)), 0.0)
    onehot = np.eye(c)[y]

    def loss(flat):
        w = flat.reshape(d + 1, c)
        logits = design @ w
        log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        gradient = design.T @ (np.exp(log_p) - onehot) / n + ridge[:, None] * w
        return -(onehot * log_p).sum() / n + 0.5 * (ridge[:, None] * w**2).sum(), gradient.ravel()

    def hessian(flat):
        p = scipy.special.softmax(design @ flat.reshape(d + 1, c), axis=1)
        blocks = np.einsum("ia,ib,ij,jk->ajbk", design, design, p, np.eye(c)) - np.einsum(
            "ia,ib,ij,ik->ajbk", design, design, p, p
        )
        return (
            blocks.reshape((d + 1) * c, -1) / n + np.diag(np.repeat(ridge, c)) + 1e-12 * np.eye((d + 1) * c)
        )

    w = np.zeros((d + 1) * c)
    for _ in range(50):
        step = np.linalg.solve(hessian(w), loss(w)[1])
        scale = 1.0
        while loss(w - scale * step)[0] > loss(w)[0] + 1e-15 and scale > 1e-6:
            scale /= 2
        w = w - scale * step
    p = scipy.special.softmax(design @ w.reshape(d + 1, c), axis=1)
    trace = sum((x[:, j] ** 2 * p[:, k] * (1 - p[:, k])).mean() for j in range(d) for k in range(c))
    if reading == "code":
        trace = n * trace + (p * (1 - p)).sum()
    beta, prior = ratio * n * d / variance, variance / d
    return -(loss(w)[0] + d * c / (2 * beta) * np.log(1 + beta * prior * trace / (d * c)))


def lfc(x, y, norm="fro"):
    kernel, labels = x @ x.T, np.where(y[:, None] == y, 1.0, -1.0)
    kernel, labels = kernel - kernel.mean(), labels - labels.mean()
    return (kernel * labels).sum() / (np.linalg.norm(kernel, norm) * np.linalg.norm(labels, norm))


def tmi(x, y, k=3, norm=2):
    d, total, weight = x.shape[1], 0.0, 0
    ball = 2.0**d if norm == np.inf else np.pi ** (d / 2) / scipy.special.gamma(d / 2 + 1)
    for c in np.unique(y):
        z = x[y == c]
        n = len(z)
        if n == 1:
            continue
        kk = min(k, n - 1)
        radius = [sorted(np.linalg.norm(a - b, norm) for b in z)[kk] for a in z]
        entropy = (
            scipy.special.digamma(n) - scipy.special.digamma(kk) + np.log(ball) + d * np.mean(np.log(radius))
        )
        total, weight = total + n * entropy, weight + n
    return total / weight


def nleep(x, y, seed, components_=None, variance=0.8, log=True):
    centred = x - x.mean(axis=0)
    energy = np.linalg.svd(centred, compute_uv=False) ** 2
    k = next(k for k in range(1, len(energy) + 1) if energy[:k].sum() > variance * energy.sum())
    z = Spectrum(x, np.eye(y.max() + 1)[y], centred=True).left[:, :k] * np.sqrt(energy[:k])
    z = z / z.std()
    count = min(components_ or 5 * len(np.unique(y)), len(x))
    state = int(np.random.default_rng(seed).integers(2**31))
    theta = GaussianMixture(count, random_state=state).fit(z).predict_proba(z)
    total = 0.0
    for i in range(len(x)):
        predicted = 0.0
        for j in range(count):
            mass = theta[:, j].sum()
            predicted += theta[i, j] * theta[y == y[i], j].sum() / mass if mass else 0.0
        total += np.log(predicted) if log else predicted
    return total / len(x)


def lda_loo(x, y, shrinkage=None):
    """N refits, with the shrinkage and its target of all rows."""
    classes, index = np.unique(y, return_inverse=True)
    residual = x - np.array([x[y == c].mean(axis=0) for c in classes])[index]
    s = LedoitWolf(assume_centered=True).fit(residual).shrinkage_ if shrinkage is None else shrinkage
    rho = s * (residual**2).sum() / (len(x) * x.shape[1])
    right = 0
    for i in range(len(x)):
        rest, labels = np.delete(x, i, axis=0), np.delete(y, i)
        if y[i] not in labels:
            continue
        fit = np.unique(labels)
        means = np.array([rest[labels == c].mean(axis=0) for c in fit])
        r = rest - means[np.searchsorted(fit, labels)]
        inverse = np.linalg.inv((1 - s) * r.T @ r / len(rest) + rho * np.eye(x.shape[1]))
        u = x[i] - means
        scores = np.log([np.mean(labels == c) for c in fit]) - 0.5 * np.einsum("kd,de,ke->k", u, inverse, u)
        right += fit[scores.argmax()] == y[i]
    return right / len(x)


def arc_cosine(x, z):
    kernel = np.empty((len(x), len(z)))
    for i, a in enumerate(x):
        for j, b in enumerate(z):
            cosine = np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)
            kernel[i, j] = cosine * (np.pi - np.arccos(cosine)) / (2 * np.pi)
    if x is z:  # arccos near 1 turns an error of 1e-16 into one of 1e-8
        np.fill_diagonal(kernel, 0.5)
    return kernel


def jittered(kernel):
    return np.linalg.inv(kernel + 1e-6 * np.trace(kernel) / len(kernel) * np.eye(len(kernel)))


def gram(x, y):
    inverse, columns = jittered(arc_cosine(x, x)), [(y == c) - np.mean(y == c) for c in np.unique(y)]
    return -np.mean([column @ inverse @ column for column in columns])


def gram_transfer(x, y, source):
    p, classes = source
    labels = np.array([(classes == c) - np.mean(classes == c) for c in np.unique(classes)]).T
    weights = jittered(arc_cosine(p, p)) @ labels
    carried = arc_cosine(x, p) @ weights
    target = np.array([(y == c) - np.mean(y == c) for c in np.unique(y)]).T
    residual = target - carried @ np.linalg.pinv(carried, rcond=1e-10) @ target
    inverse = jittered(arc_cosine(x, x))
    return -np.mean([e @ inverse @ e for e in residual.T])


def slow_log_evidence(f: Array, y: Array) -> float:
    """The maximum of the log evidence of one column per example: the definition on a dense grid, refined."""
    n = len(f)
    u, sigma, _ = np.linalg.svd(f, full_matrices=False)
    rank = int((sigma > 1e-7 * sigma[0]).sum())
    x2, s = (u.T @ y)[:rank] ** 2, (sigma[:rank] / sigma[0]) ** 2
    norm2 = y @ y
    rest = 0.0 if rank == n else max(norm2 - x2.sum(), 1e-12 * norm2)

    def cost(log_t: Any) -> Any:
        t = np.exp(log_t)[..., None]
        return n * np.log((x2 * t / (t + s)).sum(axis=-1) + rest) + np.log1p(s / t).sum(axis=-1)

    grid = np.linspace(-45, 45, 1001)
    costs = cost(grid)
    best = min(costs.min(), n * np.log(norm2))
    if rank == n:
        best = min(best, n * np.log((x2 / s).sum()) + np.log(s).sum())
    lowest = (costs[1:-1] < costs[:-2]) & (costs[1:-1] < costs[2:])
    for i in np.flatnonzero(lowest) + 1:
        found = scipy.optimize.minimize_scalar(
            cost, bounds=(grid[i - 1], grid[i + 1]), method="bounded", options={"xatol": 1e-9}
        )
        best = min(best, found.fun)
    return float(-(best + n * np.log(2 * np.pi / n) + n) / (2 * n))


def slow_leave_one_out(f: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Ridge regression refitted without each example, at every penalty."""
    n = len(f)
    largest = np.linalg.svd(f - f.mean(axis=0), compute_uv=False)[0] ** 2
    best = (y, np.inf, 0.0)
    for penalty in PENALTIES:
        predictions = np.zeros(y.shape)
        for i in range(n):
            others = np.arange(n) != i
            mean, target = f[others].mean(axis=0), y[others].mean(axis=0)
            z = f[others] - mean
            dual = np.linalg.solve(z @ z.T + penalty * largest * np.eye(n - 1), y[others] - target)
            predictions[i] = target + (f[i] - mean) @ z.T @ dual
        error = float(((y - predictions) ** 2).sum() / n)
        if error < best[1]:
            best = (predictions, error, penalty)
    return best


def onehot(y: Array) -> Array:
    return np.eye(int(y.max()) + 1)[y]


def rows_of(f: Array, batch: int) -> Array:
    return row_batches(len(f), batch, np.random.default_rng(0))


def cut(f: Array, threshold: float = 0.8) -> int:
    sigma = np.linalg.svd(f, compute_uv=False)
    k = 1
    while sum(sigma[:k]) < threshold * sum(sigma):
        k += 1
    return k


def main_part(f: Array) -> Array:
    u, sigma, vt = np.linalg.svd(f, full_matrices=False)
    sigma[cut(f) :] = 0.0
    return u @ np.diag(sigma) @ vt


def slow_logme(f: Array, y: Array) -> float:
    return float(np.mean([slow_log_evidence(f, column) for column in onehot(y).T if column.any()]))


def class_means(f: Array, y: Array) -> Array:
    return np.array([f[y == c].mean(axis=0) for c in y])


def slow_h_score(f: Array, y: Array) -> float:
    inverse = np.linalg.pinv(np.cov(f, rowvar=False), rcond=1e-12, hermitian=True)
    return float(np.trace(inverse @ np.cov(class_means(f, y), rowvar=False)))


def slow_shrunk(f: Array, y: Array) -> float:
    covariance, shrinkage = ledoit_wolf(f)
    inverse = np.linalg.pinv(covariance, rcond=1e-12, hermitian=True)
    return float(np.trace(inverse @ np.cov(class_means(f, y), rowvar=False)) * (1 - shrinkage))


def slow_ridge(f: Array, y: Array) -> float:
    return float((slow_leave_one_out(f, onehot(y))[0].argmax(axis=1) == y).mean())


def slow_ridge_cv(f: Array, y: Array, main: bool, batch: int | None = None) -> float:
    """Five folds, each with a split of its own training rows; batches are split apart on either side."""
    rng, right, errors, tested = np.random.default_rng(0), [], [], 0
    fold = stratified_folds(y, 5, rng)

    def part(rows: Array, fitted: Array) -> tuple[Array, Array]:
        if batch is None:
            v = np.linalg.svd(f[fitted])[2][: cut(f[fitted])]
            return (f[rows] @ v.T @ v if main else f[rows] - f[rows] @ v.T @ v), rows
        batches = rows[row_batches(len(rows), batch, np.random.default_rng(0))]
        parts = [main_part(f[b]) if main else f[b] - main_part(f[b]) for b in batches]
        return np.concatenate(parts), batches.ravel()

    for k in range(5):
        train = np.flatnonzero(fold != k)
        x, train = part(train, train)
        z, test = part(np.flatnonzero(fold == k), np.flatnonzero(fold != k))
        target, mean = onehot(y)[train], onehot(y)[train].mean(axis=0)
        centred = x - x.mean(axis=0)
        largest = np.linalg.norm(centred, 2) ** 2 or 1.0
        predictions = []
        for penalty in PENALTIES:
            dual = np.linalg.solve(centred @ centred.T + penalty * largest * np.eye(len(x)), target - mean)
            predictions.append(mean + (z - x.mean(axis=0)) @ centred.T @ dual)
        errors.append([((p - onehot(y)[test]) ** 2).sum() for p in predictions])
        right.append([(p.argmax(axis=1) == y[test]).sum() for p in predictions])
        tested += len(test)
    return float(np.sum(right, axis=0)[np.sum(errors, axis=0).argmin()] / tested)


def slow_share(f: Array, y: Array) -> float:
    u, sigma, _ = np.linalg.svd(f, full_matrices=False)
    u = u[:, sigma > 1e-10 * sigma[0]]
    centred = onehot(y) - onehot(y).mean(axis=0)
    return float(np.linalg.norm(u[:, : cut(f)].T @ centred) ** 2 / np.linalg.norm(u.T @ centred) ** 2)


def slow_bss(f: Array, k: int | None = 1, normalise: bool = True) -> float:
    losses = []
    for rows in rows_of(f, 48):
        sigma = np.linalg.svd(f[rows], compute_uv=False)
        smallest = sigma[::-1][: len(sigma) // 2 if k is None else k]
        losses.append(sum(smallest**2) / (sum(sigma**2) if normalise else 1.0))
    return -float(np.mean(losses))


def slow_tsvd(f: Array, y: Array) -> float:
    rows = rows_of(f, 48)
    truncated = []
    for batch in rows:
        u, sigma, vt = np.linalg.svd(f[batch], full_matrices=False)
        sigma[max(1, len(sigma) - 8) :] = 0.0
        truncated.append(u @ np.diag(sigma) @ vt)
    target = onehot(y)[rows.ravel()]
    whole = slow_leave_one_out(f[rows.ravel()], target)[1]
    return whole - slow_leave_one_out(np.concatenate(truncated), target)[1]


def slow_rankme(f: Array, power: int = 1) -> float:
    sigma = np.linalg.svd(f, compute_uv=False) ** power
    p = sigma / sum(sigma) + 1e-7
    return float(np.exp(-sum(p * np.log(p))))


def slow_alpha(f: Array) -> float:
    eigenvalues = np.linalg.eigvalsh(np.cov(f, rowvar=False))[::-1]
    eigenvalues = eigenvalues[eigenvalues > 1e-10 * eigenvalues[0]]
    index = np.arange(1, len(eigenvalues) + 1)
    weights = np.diag(1 / index)
    x = np.column_stack([np.log(index), np.ones(len(index))])
    slope = np.linalg.solve(x.T @ weights @ x, x.T @ weights @ np.log(eigenvalues))[0]
    return -abs(-slope - 1)


def slow_knn(f: Array, y: Array, k: int = 5) -> float:
    right = 0
    for i in range(len(f)):
        others = [j for j in range(len(f)) if j != i]
        cosine = {j: f[i] @ f[j] / (np.linalg.norm(f[i]) * np.linalg.norm(f[j])) for j in others}
        near = sorted(others, key=lambda j: -cosine[j])[:k]
        ranked = {c: (sum(y[j] == c for j in near), sum(cosine[j] for j in near if y[j] == c)) for c in y}
        right += max(ranked, key=lambda c: ranked[c]) == y[i]
    return right / len(f)


def slow_leep(theta: Array, y: Array) -> float:
    n = len(y)
    total = 0.0
    for i in range(n):
        prediction = 0.0
        for z in range(theta.shape[1]):
            joint = sum(theta[j, z] for j in range(n) if y[j] == y[i]) / n
            prediction += joint / (sum(theta[:, z]) / n) * theta[i, z]
        total += np.log(prediction)
    return total / n


def slow_nce(theta: Array, y: Array) -> float:
    z = theta.argmax(axis=1)
    return float(np.mean([np.log(np.mean(y[z == z[i]] == y[i])) for i in range(len(y))]))


def slow_cdnv(f: Array, y: Array) -> float:
    classes, total = np.unique(y), []
    for i, j in itertools.combinations(classes, 2):
        a, b = f[y == i], f[y == j]
        spread = sum(((z - z.mean(axis=0)) ** 2).sum(axis=1).mean() for z in (a, b)) / 2
        total.append(spread / np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return -float(np.mean(total))


def slow_directional_cdnv(f: Array, y: Array) -> float:
    total = []
    for i, j in itertools.permutations(np.unique(y), 2):
        line = f[y == j].mean(axis=0) - f[y == i].mean(axis=0)
        along = f[y == i] @ line / np.linalg.norm(line)
        total.append(along.var() / np.linalg.norm(line) ** 2)
    return -float(np.mean(total))


def slow_debiased_h_score(f: Array, y: Array) -> float:
    h, c = slow_h_score(f, y), len(np.unique(y))
    return h - (c - 1) * (np.linalg.matrix_rank(f - f.mean(axis=0)) - h) / (len(f) - c)


def slow_ridge_logloss(f: Array, y: Array) -> float:
    predictions = slow_leave_one_out(f, onehot(y))[0][:, np.unique(y)]
    own = np.searchsorted(np.unique(y), y)
    low, high = 0.0, 200.0
    for _ in range(4):  # ever finer grids around the best of the last
        grid = np.linspace(low, high, 41)
        losses = [
            -scipy.special.log_softmax(t * predictions, axis=1)[np.arange(len(y)), own].mean() for t in grid
        ]
        best = int(np.argmin(losses))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
    return -float(min(losses))


def slow_two_nn(f: Array) -> float:
    f = np.unique(f, axis=0)
    mu = []
    for i in range(len(f)):
        near = sorted(np.linalg.norm(f - f[i], axis=1)[np.arange(len(f)) != i])
        mu.append(near[1] / near[0])
    kept = int(0.9 * len(mu))
    x = np.log(sorted(mu))[:kept]
    y = -np.log(1 - np.arange(kept) / len(mu))
    return -float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


# Label -> reference and the relative tolerance at which the score has to agree with it.
def slow_disco(f: Array, y: Array, components_: int = 128, groups: int = 8) -> float:
    """By full matrices, as the authors' code: groups of components back in feature space, unit covariance."""
    u, sigma, v = np.linalg.svd(f - f.mean(axis=0), full_matrices=False)
    k = min(components_, int((sigma > 1e-7 * sigma[0]).sum()))
    size, total = max(1, k // groups), 0.0
    for g in range(min(groups, k)):
        at = slice(g * size, (g + 1) * size)
        z = u[:, at] @ np.diag(sigma[at]) @ v[at]
        log_p = np.array(
            [
                scipy.stats.multivariate_normal.logpdf(z, z[y == c].mean(axis=0)) + np.log(np.mean(y == c))
                for c in np.unique(y)
            ]
        ).T.reshape(len(y), -1)
        p = scipy.special.softmax(log_p, axis=1)
        right = [p[i, np.unique(y).tolist().index(c)] for i, c in enumerate(y)]
        total += np.mean(right) * sigma[at].sum() / sigma[:k].sum()
    return float(total)


def slow_int(f: Array, y: Array) -> float:
    pairs = itertools.combinations(np.unique(y), 2)
    return float(np.mean([scipy.spatial.distance.cdist(f[y == a], f[y == b]).mean() for a, b in pairs]))


REFERENCES: dict[str, tuple[Callable[[Array, Array], float], float]] = {
    "logme": (slow_logme, 1e-8),
    "h-score": (slow_h_score, 1e-6),
    "h-score-shrunk": (slow_shrunk, 1e-6),
    "ridge-loo": (slow_ridge, 1e-9),
    "ridge-loo-error": (lambda f, y: -slow_leave_one_out(f, onehot(y))[1], 1e-6),
    "ridge-loo-logloss": (slow_ridge_logloss, 1e-5),
    "h-score-debiased": (slow_debiased_h_score, 1e-6),
    "cdnv": (slow_cdnv, 1e-8),
    "cdnv-directional": (slow_directional_cdnv, 1e-8),
    "int": (slow_int, 1e-7),
    "disco": (slow_disco, 1e-8),
    "disco:components=4,groups=3": (lambda f, y: slow_disco(f, y, 4, 3), 1e-8),
    "two-nn": (lambda f, y: slow_two_nn(f), 1e-8),
    "fm-logme": (lambda f, y: slow_logme(main_part(f), y), 1e-6),
    "fr-logme": (lambda f, y: slow_logme(f - main_part(f), y), 1e-6),
    "fm-ridge-cv": (lambda f, y: slow_ridge_cv(f, y, main=True), 1e-9),
    "fr-ridge-cv": (lambda f, y: slow_ridge_cv(f, y, main=False), 1e-9),
    "fm-share": (slow_share, 1e-6),
    "k80": (lambda f, y: -cut(f) / min(f.shape), 1e-9),
    "bss": (lambda f, y: slow_bss(f), 1e-6),
    "bss-raw": (lambda f, y: slow_bss(f, normalise=False), 1e-6),
    "bss-tail": (lambda f, y: slow_bss(f, k=None), 1e-6),
    "tsvd": (slow_tsvd, 1e-6),
    "rankme": (lambda f, y: slow_rankme(f), 1e-6),
    "rankme:squared=true": (lambda f, y: slow_rankme(f - f.mean(axis=0), 2), 1e-6),
    "alpha-req": (lambda f, y: slow_alpha(f), 1e-6),
    "stable-rank": (lambda f, y: float(np.linalg.norm(f) ** 2 / np.linalg.norm(f, 2) ** 2), 1e-6),
    "knn": (slow_knn, 1e-9),
    "transrate": (transrate, 1e-8),
    "transrate:weights=equal": (lambda x, y: transrate(x, y, weights="equal"), 1e-8),
    "transrate:normalise=true,eps=0.01": (lambda x, y: transrate(x, y, 0.01, normalise=True), 1e-8),
    "gbc": (gbc, 1e-8),
    "gbc:dims=2": (lambda x, y: gbc(x, y, 2), 1e-8),
    "gbc:reading=code": (lambda x, y: gbc(x, y, reading="code"), 1e-8),
    "parc": (parc, 1e-7),
    "parc:dims=3": (lambda x, y: parc(x, y, 3), 1e-7),
    "pactran-gauss": (pactran, 1e-7),
    "pactran-gauss:ratio=0.1,variance=1,reading=code": (
        lambda x, y: pactran(x, y, 0.1, 1.0, "code"),
        1e-7,
    ),
    "lfc": (lfc, 1e-8),
    "lfc:norm=spectral": (lambda x, y: lfc(x, y, 2), 1e-8),
    "tmi": (tmi, 1e-8),
    "tmi:norm=max,k=1": (lambda x, y: tmi(x, y, 1, np.inf), 1e-8),
    "n-leep": (lambda x, y: nleep(x, y, 0), 1e-6),
    "n-leep:components=3,log=false": (lambda x, y: nleep(x, y, 0, 3, log=False), 1e-6),
    "lda-loo": (lda_loo, 1e-9),
    "lda-loo:shrinkage=0.3": (lambda x, y: lda_loo(x, y, 0.3), 1e-9),
    "gram": (gram, 1e-7),
    "gram-transfer": (lambda x, y: gram_transfer(x, y, source_rows(x.shape[1])), 1e-6),
}
