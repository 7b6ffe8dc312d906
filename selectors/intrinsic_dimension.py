"""TwoNN: the intrinsic dimension of the features, from the distances to the two nearest neighbours."""

import math

import numpy as np
from scipy.spatial.distance import cdist

from ckptbench import Candidate, InputError


class TwoNN:
    """Minus the intrinsic dimension d, at which mu = r_2/r_1 follows F(mu) = 1 - mu^-d.

    r_1 and r_2 are an example's distances to its two nearest neighbours. With the mu sorted and F(mu_i) =
    i/N, i = 0..N-1, d is the slope of the line through the origin fitted to -log(1 - F) against log mu, the
    largest tenth of the mu left out. Networks whose last features have a lower dimension were found to
    classify better (Ansuini et al. 2019), hence the sign.

    F is N x D. <= 0. Cost: N^2 D operations on at most ``rows`` examples. N < D makes no difference. Copies
    of an example, at distance 0, are left out; fewer than 10 different examples, or features in which all
    distances are equal, are refused.

    Invariant to row order (up to ``rows``), translation, rotation and one common scale of the features.

    Parameters
    ----------
    discard : share of the largest mu that is left out
    rows : examples used at most, drawn at random
    """

    name = "two-nn"
    needs = ("features",)
    paper = (
        "Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal "
        "neighborhood information"
    )
    published = "lower"
    random = True
    bounds = (-math.inf, 0.0)
    discard: float = 0.1
    rows: int = 5000
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        if not 0 <= self.discard < 1:
            raise InputError(f"two-nn: discard={self.discard} is not in [0, 1)")
        matrix = np.asarray(candidate.features, dtype=np.float64)
        if len(matrix) > self.rows:
            matrix = matrix[np.sort(candidate.rng.permutation(len(matrix))[: self.rows])]
        matrix = np.unique(matrix, axis=0)
        if len(matrix) < 10:
            raise InputError(f"two-nn needs at least 10 different examples, found {len(matrix)}")
        ratios = []
        for start in range(0, len(matrix), 512):
            distance = np.partition(cdist(matrix[start : start + 512], matrix), 2, axis=1)[:, :3]
            distance.sort(axis=1)
            ratios.append(distance[:, 2] / distance[:, 1])
        log_mu = np.sort(np.log(np.concatenate(ratios)))
        kept = int(len(log_mu) * (1 - self.discard))
        x, y = log_mu[:kept], -np.log1p(-np.arange(kept) / len(log_mu))
        if x @ x <= 0:
            raise InputError("two-nn: every example is as far from its second neighbour as from its first")
        return -float(x @ y / (x @ x))
