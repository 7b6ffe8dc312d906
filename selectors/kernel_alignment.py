"""KITE: are the features' similarities those of the labels, and unlike those of a random network?"""

import math
from collections.abc import Sequence

import numpy as np

from ckptbench import Candidate, Float


class Kite:
    """CKA(K, K_Y)/CKA(K, K_0): alignment with the labels over alignment with a random network's features.

    CKA is the cosine of two kernels after centring; K = FF', K_Y = YY' with one-hot Y, and K_0 is the kernel
    of the random network's features, which is the pool's first checkpoint: epoch 0 where the pool has it, and
    the first candidate where epochs are not known. With linear kernels and centred F, Y and F_0,

        CKA(K, K_Y) = |F'Y|^2/(|F'F| |Y'Y|),  CKA(K, K_0) = |F'F_0|^2/(|F'F| |F_0'F_0|)

    in Frobenius norms, so that |F'F| cancels. A pool selector; F is N x D, labels are classes or real
    columns. >= 0. Cost: the centred spectra and N D min(N, D) operations per candidate. N < D makes no
    difference. Constant features, here or in the random network, score 0.

    The definition was read in a summary of the paper, which says that the choice of kernel matters little:
    the linear one is ours.

    Invariant to row order, label names, translation, rotation and one common scale of the features.
    """

    name = "kite"
    paper = "Guo 2024, KITE: A Kernel-based Improved Transferability Estimation Method"
    bounds = (0.0, math.inf)
    exempt = ("checkpoint facts: the first epoch of the pool is the random network",)
    scale: str = "raw"

    def score_pool(self, candidates: Sequence[Candidate]) -> Float:
        epochs = [c.checkpoint.epoch if c.checkpoint is not None else 0 for c in candidates]
        first = candidates[int(np.argmin(epochs))]
        origin = first.matrix - first.matrix.mean(axis=0)
        return np.array([self._ratio(candidate, first, origin) for candidate in candidates])

    def _ratio(self, candidate: Candidate, first: Candidate, origin: Float) -> float:
        spectrum = candidate.centred
        if spectrum.rank == 0 or first.centred.rank == 0:
            return 0.0
        labels = candidate.onehot - candidate.onehot.mean(axis=0)
        target = float(np.linalg.norm(spectrum.class_sums) ** 2 / (np.linalg.norm(labels.T @ labels) or 1.0))
        if len(origin) < origin.shape[1]:  # |F'F_0|^2 = <FF', F_0 F_0'>
            features = np.concatenate([block for _, block in spectrum.rows()])
            cross = float(np.sum((features @ features.T) * (origin @ origin.T)))
        else:
            cross = float(np.linalg.norm(sum(block.T @ origin[rows] for rows, block in spectrum.rows())) ** 2)
        own = float(np.linalg.norm(first.centred.sigma2))
        return target * own / cross
