"""Leave-one-out accuracy of shrunken linear discriminant analysis, without refitting."""

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.spatial.distance import cdist

from ckptbench import Array, Candidate, Float, InputError, Spectrum


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
    bounds = (0.0, 1.0)
    paper = "Lachenbruch and Mickey 1968, Estimation of Error Rates in Discriminant Analysis"
    shrinkage: float | None = None
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred
        (n, d), eps = candidate.features.shape, np.finfo(float).eps
        if n < 2:
            raise InputError("lda-loo: leaving one out needs at least 2 examples, found 1")
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise InputError(f"lda-loo: shrinkage={self.shrinkage} is not between 0 and 1")
        present, labels, counts = np.unique(candidate.classes, return_inverse=True, return_counts=True)
        r = max(1, spectrum.rank)
        sigma = spectrum.sigma[:r]
        means = sigma[:, None] * spectrum.projections[:r, present] / counts
        within = np.diag(sigma**2) - means * counts @ means.T
        s = _ledoit_wolf(spectrum, means, labels, within) if self.shrinkage is None else self.shrinkage

        b = (1 - s) * within / (n - 1)
        rounding = 8 * max(n, d) * eps * sigma[0] ** 2 / n + np.finfo(float).tiny
        b.flat[:: r + 1] += max(s * np.trace(within) / (n * d), rounding)
        factor = cholesky(b, lower=True)
        whiten = solve_triangular(factor, np.diag(sigma), lower=True).T
        means = solve_triangular(factor, means, lower=True).T

        apart = cdist(means, means, "sqeuclidean")

        right = 0
        for rows, left in spectrum.left_blocks():
            own = labels[rows]
            points = left[:, :r] @ whiten
            residuals = points - means[own]
            projected = residuals @ means.T
            rest = np.maximum(counts[own] - 1, 1)
            g = (1 - s) * counts[own] / (rest * (n - 1))
            r2 = np.einsum("ij,ij->i", residuals, residuals)
            # u = x_i - m_k = r_i + m_c - m_k; for i's own class the mean moves and u = n_c/(n_c - 1) r_i.
            true = np.arange(len(own)), own
            cross = projected[true][:, None] - projected
            u2 = r2[:, None] + 2 * cross + apart[own]
            ur = r2[:, None] + cross
            u2[true] = (counts[own] / rest) ** 2 * r2
            ur[true] = counts[own] / rest * r2
            logits = np.log(counts) - 0.5 * (u2 + (g / np.maximum(1 - g * r2, eps))[:, None] * ur**2)
            logits[true] += np.log(rest / counts[own])
            best = logits[true]
            logits[true] = -np.inf
            right += np.count_nonzero((best > logits.max(axis=1)) & (counts[own] > 1))
        return right / n


def _ledoit_wolf(spectrum: Spectrum, means: Float, labels: Array, within: Float) -> float:
    """Shrinkage of the residuals' covariance W/N towards its mean variance; class means are r x C."""
    n, d, r = spectrum.n, spectrum.d, len(means)
    full = np.zeros((len(spectrum.sigma2), means.shape[1]))
    full[:r] = spectrum.sigma[:r, None] * means
    to_mean = spectrum.combine(full)[np.arange(n), labels]
    length2 = np.maximum(spectrum.row_norm2 - 2 * to_mean + (means**2).sum(axis=0)[labels], 0.0)
    mean, norm2 = np.trace(within) / (n * d), (within**2).sum() / n**2
    noise, distance = length2 @ length2 / n**2 - norm2 / n, norm2 - d * mean**2
    return float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0 else 1.0
