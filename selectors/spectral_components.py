"""DISCO: how well groups of spectral components tell the classes apart, weighted by their singular values."""

import math
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import softmax

from ckptbench import Candidate, InputError


class Disco:
    """sum over groups g of S_g R_g: how well group g classifies, times its share of the singular values.

    The centred features are reduced to their leading k = min(``components``, rank) principal components and
    these cut, in order, into ``groups`` of s = k // ``groups``. With z_i the coordinates of example i in
    group g, m_c their mean in class c and pi_c its share of the examples,

        S_g = mean over i of p_i(y_i),  p_i = softmax over c of log pi_c - |z_i - m_c|^2/2,

    a nearest-mean classifier under unit covariance, as the authors' code has it (the paper writes class
    covariances); R_g = sum of the group's singular values/sum of all k. Components that do not fill a group
    count in R alone. F is N x D, labels are classes. In [0, 1]. Cost: the centred spectrum and N k C
    operations. For N < D, k is at most N - 1. The examples are classified by means that they are part of.

    Invariant to row order, label names, translation and rotation of the features, not to their scale: unit
    covariance has none. The authors' code sums S R in a second program; that sum is the score.

    Parameters
    ----------
    components : principal components kept; the authors take 128, by a randomised PCA, which is exact here
    groups : into which they are cut
    """

    name = "disco"
    paper = (
        "Zhang et al. 2025, Assessing Pre-trained Models for Transfer Learning through Distribution of "
        "Spectral Components; formula of the authors' code"
    )
    bounds = (0.0, 1.0)
    components: Annotated[int, Field(ge=1)] = 128
    groups: Annotated[int, Field(ge=1)] = 8
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred
        k = min(self.components, spectrum.rank)
        if k == 0:
            raise InputError("disco: every example has the same features, there are no components")
        _, labels, counts = np.unique(candidate.classes, return_inverse=True, return_counts=True)
        points = spectrum.combine(np.eye(len(spectrum.sigma2), k)) * spectrum.sigma[:k]
        onehot = np.eye(len(counts))[labels]
        means = onehot.T @ points / counts[:, None]
        size, total = max(1, k // self.groups), 0.0
        for start in range(0, size * min(self.groups, k), size):
            group = slice(start, start + size)
            z, m = points[:, group], means[:, group]
            # |z|^2 is the same for all classes.
            logits = z @ m.T - 0.5 * np.einsum("cd,cd->c", m, m) + np.log(counts)
            right = float(softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
            total += right * float(spectrum.sigma[group].sum())
        return min(total / math.fsum(spectrum.sigma[:k]), 1.0)
