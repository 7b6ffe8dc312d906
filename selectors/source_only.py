"""How much of what the source head knows does not occur in the target."""

import numpy as np

from ckptbench import Candidate


class SourceOnlyShare:
    """- the share of source classes in fewer top-k predictions than a quarter of an even share, N k / C_s.

    Equations 1 and 2 of the paper, which names neither k nor the bound: k is a hundredth of the source
    classes, at least 1. Source-only classes may linger after fine-tuning and distract, hence the sign. In
    [-1, 0]. Cost: N C_s. Label-free; N < D makes no difference.

    Invariant to row order and to the names of source classes.
    """

    name = "source-only-share"
    needs = ("source_probs",)
    paper = "Anonymous, Detrimental Memories in Transfer Learning"
    bounds = (-1.0, 0.0)

    def score(self, candidate: Candidate) -> float:
        theta = candidate.source_probs
        n, classes = theta.shape
        k = max(1, classes // 100)
        chosen = np.argpartition(-theta, k - 1, axis=1)[:, :k]
        counts = np.bincount(chosen.ravel(), minlength=classes)
        return -float(np.mean(counts < n * k / (4 * classes)))
