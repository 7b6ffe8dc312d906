"""Leave-one-out accuracy of shrunken linear discriminant analysis, without refitting."""

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from ckptbench.types import Candidate, Float, InputError


class LDALeaveOneOut:
    """Share of the examples that linear discriminant analysis of all other examples puts in their class.

    F is N x D, W = sum over i of r_i r_i', r_i = x_i - m_y the residual from the class mean. The classifier
    takes the largest log prior - u'S^-1 u/2 over classes k, u = x - m_k, S = (1 - s) W/N + rho I and
    rho = s tr(W)/(N D); s is Ledoit and Wolf's shrinkage of the residuals. Without example i of class c

        m_c moves by -r_i/(n_c - 1); the priors are (n_c - 1)/(N - 1), and n_k/(N - 1) for the others;
        S = B - g r_i r_i', B = (1 - s) W/(N - 1) + rho I, g = (1 - s) n_c/((n_c - 1)(N - 1)),

    while s and rho keep their values of all rows, and by Sherman and Morrison
    u'S^-1 u = u'B^-1 u + g (u'B^-1 r_i)^2/(1 - g r_i'B^-1 r_i). A tie counts as wrong, and so does the only
    example of a class.

    In [0, 1]. Cost: N r^2 operations, r = min(N, D), for the principal components and one triangular
    solve. For N < D it is the shrinkage that keeps S regular.

    Invariant to row order, label names, rotation and one common scale of the features.

    Parameters
    ----------
    shrinkage : s in [0, 1]; Ledoit and Wolf's when not given
    """

    name = "lda-loo"
    paper = "Lachenbruch and Mickey 1968, Estimation of Error Rates in Discriminant Analysis"
    shrinkage: float | None = None
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred
        n, d = candidate.features.shape
        if n < 2:
            raise InputError("lda-loo: leaving one out needs at least 2 examples, found 1")
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise InputError(f"lda-loo: shrinkage={self.shrinkage} is not between 0 and 1")
        present, labels, counts = np.unique(candidate.classes, return_inverse=True, return_counts=True)
        r = max(1, spectrum.rank)
        sigma = spectrum.sigma[:r]
        means = (sigma[:, None] * spectrum.projections[:r, present] / counts).T
        points = spectrum.combine(np.eye(len(spectrum.sigma2), r) * sigma)
        residuals = points - means[labels]
        within = np.diag(sigma**2) - means.T * counts @ means
        s = _ledoit_wolf(residuals, within, d) if self.shrinkage is None else self.shrinkage

        b = (1 - s) * within / (n - 1)
        rounding = max(n, d) * np.finfo(float).eps * sigma[0] ** 2 / n + np.finfo(float).tiny
        b.flat[:: r + 1] += max(s * np.trace(within) / (n * d), rounding)
        factor = cholesky(b, lower=True)
        points = solve_triangular(factor, points.T, lower=True).T
        means = solve_triangular(factor, means.T, lower=True).T
        residuals = points - means[labels]

        left = np.maximum(counts - 1, 1)[labels]
        g = (1 - s) * counts[labels] / (left * (n - 1))
        r2 = np.einsum("ij,ij->i", residuals, residuals)
        slack = 1 - g * r2
        # u = x_i - m_k for every class k; for i's own class the mean moves and u = n_c/(n_c - 1) r_i.
        u2 = np.einsum("ij,ij->i", points, points)[:, None] - 2 * points @ means.T
        u2 += np.einsum("kj,kj->k", means, means)
        ur = np.einsum("ij,ij->i", points, residuals)[:, None] - residuals @ means.T
        own = np.arange(n), labels
        u2[own] = (counts[labels] / left) ** 2 * r2
        ur[own] = counts[labels] / left * r2
        logits = np.log(counts) - 0.5 * (u2 + (g / slack)[:, None] * ur**2)
        logits[own] += np.log(left) - np.log(counts[labels])
        own_logit = logits[own]
        logits[own] = -np.inf
        return float(np.mean((own_logit > logits.max(axis=1)) & (counts[labels] > 1)))


def _ledoit_wolf(residuals: Float, within: Float, d: int) -> float:
    """Shrinkage towards the mean variance for the covariance ``within``/N of N residuals in D dimensions."""
    n = len(residuals)
    mean = np.trace(within) / (n * d)
    norm2 = (within**2).sum() / n**2
    noise = ((residuals**2).sum(axis=1) ** 2).sum() / n**2 - norm2 / n
    distance = norm2 - d * mean**2
    return float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0 else 1.0
