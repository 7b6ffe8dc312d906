"""CDNV and its directional form: the spread within classes against the distance between them."""

import math

import numpy as np
from scipy.spatial.distance import pdist, squareform

from ckptbench import Candidate, Float, InputError


class _ClassDistance:
    published = "lower"
    bounds = (-math.inf, 0.0)
    scale: str = "raw"

    def moments(self, candidate: Candidate) -> tuple[Float, Float, Float]:
        """Class means about the overall mean (C x D), their squared distances (C x C), and class sizes."""
        counts = np.bincount(candidate.classes)
        present = counts > 0
        means = (candidate.centred.class_sums[:, present] / counts[present]).T
        distance2 = squareform(pdist(means, "sqeuclidean"))
        np.fill_diagonal(distance2, np.inf)
        # Below this the distance of two means is rounding error.
        largest = float(candidate.centred.row_norm2.max())
        if len(means) > 1 and distance2.min() <= 1e-24 * largest:
            raise InputError(
                f"{self.name}: two classes have the same mean, there is no distance to divide by"
            )
        return means, distance2, counts[present].astype(np.float64)


class CDNV(_ClassDistance):
    """- mean over pairs of classes of (v_i + v_j)/(2 |m_i - m_j|^2): the class-distance normalised variance.

    m_c is the mean of class c and v_c the mean of |x - m_c|^2 over its examples. F is N x D, labels are
    classes, at least two. <= 0, and 0 where classes have collapsed to points. Cost: the moments of the
    centred spectrum and C^2 D operations. N < D makes no difference. A class of one example has v_c = 0.
    The paper has low for good; ours is negated. Two classes of one mean are refused.

    Invariant to row order, label names, translation, rotation and one common scale of the features.
    """

    name = "cdnv"
    paper = "Galanti et al. 2022, On the Role of Neural Collapse in Transfer Learning"

    def score(self, candidate: Candidate) -> float:
        means, distance2, counts = self.moments(candidate)
        labels = np.unique(candidate.classes, return_inverse=True)[1]
        spread = np.bincount(labels, candidate.centred.row_norm2) / counts - (means**2).sum(axis=1)
        variance = np.maximum(spread, 0.0)
        pairs = (variance[:, None] + variance) / (2.0 * distance2)
        return -float(pairs.sum() / (len(means) * (len(means) - 1)))


class DirectionalCDNV(_ClassDistance):
    """- mean over ordered pairs of classes of var_i(u'x)/|m_i - m_j|^2, u the direction from m_i to m_j.

    As ``cdnv``, but only the variance along the line between the two classes counts, which is what a nearest
    mean can confuse them by. F is N x D, labels are classes, at least two. <= 0. Cost: N D C operations on
    top of ``cdnv``. N < D makes no difference. The paper has low for good; ours is negated.

    Invariant to row order, label names, translation, rotation and one common scale of the features.
    """

    name = "cdnv-directional"
    paper = "Luthra et al. 2026, Directional Neural Collapse Explains Few-Shot Transfer"

    def score(self, candidate: Candidate) -> float:
        means, distance2, _ = self.moments(candidate)
        labels = np.unique(candidate.classes, return_inverse=True)[1]
        gram = means @ means.T
        total = 0.0
        projected = np.concatenate([block @ means.T for _, block in candidate.centred.rows()])
        for c in range(len(means)):
            rows = projected[labels == c]
            # (x - m_c)'(m_j - m_c) for the rows of class c and all j
            along = rows - rows[:, c, None] - (gram[c] - gram[c, c])
            total += float(((along**2).mean(axis=0) / distance2[c] ** 2).sum())
        return -total / (len(means) * (len(means) - 1))
