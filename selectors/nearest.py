"""Leave-one-out accuracy of the nearest neighbours."""

import numpy as np

from ckptbench import Candidate


class NearestNeighbours:
    """Share of examples whose class has the majority among their k most similar others.

    Similarity is the cosine; a row of zeros is similar to nothing (0). All rows as similar as the k-th
    count, so that duplicates bring no order of their own; among classes with as many votes the one with the
    larger sum of similarities wins.

    F is N x D and not centred, labels are classes. In [0, 1]. Cost: N^2 D operations, in blocks of rows.
    N < D makes no difference. With fewer than k others all of them vote; the only member of a class is
    always wrong.

    Invariant to row order, rotation, positive factors of the rows and label names.
    """

    name = "knn"
    bounds = (0.0, 1.0)
    paper = "Cover and Hart 1967, Nearest neighbor pattern classification"
    scale: str = "raw"
    k: int = 5

    def score(self, candidate: Candidate) -> float:
        classes, onehot = candidate.classes, candidate.onehot
        unit = np.array(candidate.features, dtype=np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", unit, unit))
        unit /= np.where(norms > 0, norms, 1.0)[:, None]
        n = len(unit)
        k = min(self.k, n - 1)
        if k < 1:
            return 0.0
        step = max(1, 2**22 // n)
        right = 0
        for start in range(0, n, step):
            similarity = unit[start : start + step] @ unit.T
            rows = np.arange(len(similarity))
            similarity[rows, start + rows] = -2.0  # below every cosine: no example is its own neighbour
            kth = np.partition(similarity, n - k, axis=1)[:, n - k]
            near = (similarity >= kth[:, None] - 1e-12).astype(np.float64)
            votes = near @ onehot + (near * similarity) @ onehot / (4.0 * near.sum(axis=1))[:, None]
            right += np.count_nonzero(votes.argmax(axis=1) == classes[start : start + step])
        return right / n
