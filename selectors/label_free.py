"""Scores of the shape of the feature spectrum alone: no labels, no source head."""

import math

import numpy as np

from ckptbench import Candidate, InputError


class RankMe:
    """Effective rank, exp(-sum of p log p) with p = sigma/(sum of sigma) + 1e-7.

    F is N x D and not centred. From 1 (one direction) to min(N, D) (all alike), up to the 1e-7. Cost: one
    spectrum of F. For N < D the sum runs over N singular values. A public variant puts the eigenvalues of the
    covariance, sigma^2 of the centred F, in the place of sigma.

    Invariant to row order, rotation and one common scale of the features.

    Parameters
    ----------
    squared : True for that variant
    """

    name = "rankme"
    bounds = (0.99, math.inf)
    needs = ("features",)
    paper = "Garrido et al. 2023, RankMe: Assessing the Downstream Performance of Pretrained Representations"
    scale: str = "raw"
    squared: bool = False

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred if self.squared else candidate.spectrum
        values = np.zeros(len(spectrum.sigma))
        values[: spectrum.rank] = (spectrum.sigma2 if self.squared else spectrum.sigma)[: spectrum.rank]
        p = values / (values.sum() or 1.0) + 1e-7
        return float(np.exp(-(p @ np.log(p))))


class AlphaReq:
    """-abs(alpha - 1), alpha the decay lambda_i ~ i^-alpha of the eigenvalues of the covariance.

    alpha is minus the slope of the least-squares line through (log i, log lambda_i) with weights 1/i, so
    that each octave of i counts alike (Stringer et al. 2019, whose fit the paper takes). F is N x D and
    centred. <= 0, best at 0. Cost: the centred spectrum of F. For N < D there are N - 1 eigenvalues; those
    below rounding error are left out. Fewer than two eigenvalues have no slope, which is an error.

    Invariant to row order, rotation and one common scale of the features.

    Parameters
    ----------
    first, last : the first and the last i of the fit (None: all). The authors' code takes 12 and 50 on
        most data sets; the paper does not fix them
    """

    name = "alpha-req"
    bounds = (-math.inf, 0.0)
    needs = ("features",)
    paper = (
        "Agrawal et al. 2022, alpha-ReQ: Assessing Representation Quality by Measuring Eigenspectrum Decay"
    )
    scale: str = "raw"
    first: int = 1
    last: int | None = None

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred
        eigenvalues = spectrum.sigma2[: spectrum.rank][self.first - 1 : self.last]
        if len(eigenvalues) < 2:
            raise InputError(
                f"alpha-req needs two eigenvalues above rounding error to find a slope, "
                f"found {len(eigenvalues)}"
            )
        index = np.arange(self.first, self.first + len(eigenvalues))
        # polyfit squares its weights
        slope = np.polyfit(np.log(index), np.log(eigenvalues), 1, w=index**-0.5)[0]
        return float(-abs(-slope - 1.0))


class StableRank:
    """Sum of sigma^2/sigma_1^2, the squared ratio of Frobenius and spectral norm.

    F is N x D and not centred. In [1, min(N, D)]; 0 for features that are all zero. Cost: one spectrum of
    F. N < D makes no difference.

    Invariant to row order, rotation and one common scale of the features.
    """

    name = "stable-rank"
    bounds = (0.0, math.inf)
    needs = ("features",)
    paper = "Rudelson and Vershynin 2007, Sampling from large matrices"
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        sigma2 = candidate.spectrum.sigma2
        return float(sigma2.sum() / (sigma2[0] or 1.0))
