"""TMI: the entropy of the features within a class, by nearest neighbours.

Source: Xu and Kang 2023, Fast and Accurate Transferability Measurement by Evaluating Intra-class Feature
Variance; the estimator is that of Kozachenko and Leonenko 1987.
"""

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln

from ckptbench import Candidate, Float, InputError


class TMI:
    """sum over classes c of (n_c/N) H(F given c): more spread within classes is taken to transfer better.

        H(F given c) = digamma(n_c) - digamma(k) + log V_D + (D/n_c) sum over i of log r_i

    in nats, where r_i is the distance of example i to its k-th nearest neighbour in its own class and V_D
    the volume of the unit ball in D dimensions. F is N x D, on the scale it comes in: a factor a adds
    D log a, so that only features of one width compare, and a network whose features grow scores higher for
    that alone (``scale=std`` takes the growth out). Unbounded on both sides. Cost: the sum over classes of
    n_c^2 D operations, matrix products for the Euclidean norm. N < D makes no difference.

    A class of k examples or fewer takes its farthest one for the k-th; a class of one has no neighbour
    and is left out, with the weights of the others rescaled.

    Invariant to row order, label names, translation and (Euclidean) rotation.

    Parameters
    ----------
    k : which neighbour
    norm : "euclidean" or "max"; the authors' code takes "max"
    floor : least r_i, so that copies of an example give no log 0; the authors' code takes 1.0, which makes
        the score of small features constant. Their code also divides by C (the mean over classes of n_c/N
        times the entropy), a factor common to all checkpoints, and leaves out classes of k or fewer
    """

    name = "tmi"
    paper = "Xu and Kang 2023, Fast and Accurate Transferability Measurement"
    exempt = ("direction: the spread within a class does not depend on where the others lie",)
    k: int = 3
    norm: str = "euclidean"
    floor: float = 1e-6
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        if self.norm not in ("euclidean", "max"):
            raise InputError(f"tmi: norm={self.norm!r} is not known: euclidean or max")
        d = candidate.features.shape[1]
        ball = d * np.log(2) if self.norm == "max" else d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
        total = weight = 0.0
        for label in np.unique(candidate.classes):
            rows = candidate.features[candidate.classes == label].astype(np.float64)
            rows -= rows.mean(axis=0)  # so that the squared norms do not swamp the distances
            n = len(rows)
            if n < 2:
                continue
            k = min(self.k, n - 1)
            radius = np.maximum(self._neighbour(rows, k), self.floor)
            total += n * (digamma(n) - digamma(k) + ball + d * np.log(radius).mean())
            weight += n
        if not weight:
            raise InputError("tmi needs a class with at least two examples, found none")
        return float(total / weight)

    def _neighbour(self, rows: Float, k: int) -> Float:
        """Distance of each row to its k-th nearest other row."""
        if self.norm == "max":
            distance = cdist(rows, rows, "chebyshev")
        else:
            gram = rows @ rows.T
            norms = gram.diagonal().copy()
            distance = norms[:, None] + norms - 2 * gram
            # What the subtraction leaves of two equal rows is rounding error, not distance.
            distance[distance < rows.shape[1] * np.finfo(float).eps * norms.max()] = 0.0
        np.fill_diagonal(distance, np.inf)
        nearest = np.partition(distance, k - 1, axis=1)[:, k - 1]
        return nearest if self.norm == "max" else np.sqrt(nearest)
