"""Linear discriminant analysis on a spectrum, each example left out in closed form."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.spatial.distance import cdist

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Float
from ckptbench.numerics.spectrum import Spectrum


def lda_leave_one_out(spectrum: Spectrum, classes: Array, shrinkage: float | None = None) -> float:
    """Share of examples that shrunken LDA of all the others puts in their class, without refitting.

    The classifier and the updates are those that the selector ``lda-loo`` writes out.

    Parameters
    ----------
    spectrum : centred, N x D, with the one-hot labels
    classes : N class numbers, the columns of the spectrum's labels
    shrinkage : in [0, 1]; Ledoit and Wolf's of the residuals when None

    Raises
    ------
    InputError
        If there are fewer than 2 examples.
    """
    n, d, eps = spectrum.n, spectrum.d, np.finfo(float).eps
    if n < 2:
        raise InputError("leaving one out needs at least 2 examples, found 1")
    present, labels, counts = np.unique(classes, return_inverse=True, return_counts=True)
    r = max(1, spectrum.rank)
    sigma = spectrum.sigma[:r]
    means = sigma[:, None] * spectrum.projections[:r, present] / counts
    within = np.diag(sigma**2) - means * counts @ means.T
    s = _ledoit_wolf(spectrum, means, labels, within) if shrinkage is None else shrinkage

    rounding = 8 * max(n, d) * eps * sigma[0] ** 2 / n + np.finfo(float).tiny
    rho = max(s * np.trace(within) / (n * d), rounding)
    # B is diagonal less the classes' part, A - V V'. By Woodbury, u'B^-1 u is the squared length of A^-1/2 u
    # beside L^-1 V'A^-1 u, with LL' = I - V'A^-1 V: C further coordinates in the place of a factor of B.
    unit = 1 / np.sqrt((1 - s) * sigma**2 / (n - 1) + rho)
    means = unit[:, None] * means
    part = means * np.sqrt((1 - s) * counts / (n - 1))
    factor = cholesky(np.eye(len(counts)) - part.T @ part, lower=True)
    further = solve_triangular(factor, part.T, lower=True).T
    means = np.hstack([means.T, means.T @ further])

    apart = cdist(means, means, "sqeuclidean")

    right = 0
    for rows, left in spectrum.left_blocks():
        own = labels[rows]
        points = left[:, :r] * (sigma * unit)
        points = np.hstack([points, points @ further])
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
        right += int(np.count_nonzero((best > logits.max(axis=1)) & (counts[own] > 1)))
    share: float = right / n
    return share


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
