"""GBC: how much the classes overlap when each is taken for a spherical Gaussian.

Source: Pandy et al. 2022, Transferability Estimation using Bhattacharyya Class Separability.
"""

import numpy as np
from scipy.spatial.distance import cdist

from ckptbench import Candidate, InputError


class GBC:
    """- sum over ordered pairs of classes i != j of exp(-D_B(i, j)), the Bhattacharyya coefficients.

    On the first k = min(``dims``, rank) principal components, class c has mean m_c (k numbers) and one
    variance v_c, the mean of its k variances and at least ``floor``. With v = (v_i + v_j)/2

        D_B = |m_i - m_j|^2 / (8 v) + k/2 log(v / sqrt(v_i v_j)).

    F is N x D. In [-C(C-1), 0]. Cost: k components of the centred spectrum, N D k operations. For N < D
    there are at most N - 1 components. A class of one example has the variance ``floor``; a class without
    examples is left out.

    Invariant to row order, label names, rotation and (above the floor) one common scale of the features.

    Parameters
    ----------
    dims : principal components kept
    floor : least variance of a class
    reading : "paper" as above; "code" counts the logarithm once instead of k times, though its Gaussians
        have k dimensions, and applies the floor to each dimension's variance before averaging
    """

    name = "gbc"
    bounds = (lambda classes: -classes * (classes - 1.0), 0.0)
    paper = "Pandy et al. 2022, Transferability Estimation using Bhattacharyya Class Separability"
    dims: int = 64
    floor: float = 1e-4
    reading: str = "paper"
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        if self.reading not in ("paper", "code"):
            raise InputError(f"gbc: reading={self.reading!r} is not known: paper or code")
        spectrum = candidate.centred
        k = max(1, min(self.dims, spectrum.rank))
        components = spectrum.combine(np.eye(len(spectrum.sigma2), k) * spectrum.sigma[:k])
        labels, counts = np.unique(candidate.classes, return_inverse=True, return_counts=True)[1:]
        onehot = np.eye(len(counts))[labels]
        means = onehot.T @ components / counts[:, None]
        variances = onehot.T @ (components - means[labels]) ** 2 / counts[:, None]
        if self.reading == "code":
            variance = np.maximum(variances, self.floor).mean(axis=1)
        else:
            variance = np.maximum(variances.mean(axis=1), self.floor)
        pair = (variance[:, None] + variance) / 2
        shape = np.log(pair) - (np.log(variance)[:, None] + np.log(variance)) / 2
        distance = cdist(means, means, "sqeuclidean") / (8 * pair)
        distance += 0.5 * (k if self.reading == "paper" else 1) * shape
        np.fill_diagonal(distance, np.inf)
        return float(-np.exp(-distance).sum())
