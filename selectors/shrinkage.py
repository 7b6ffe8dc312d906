"""Singular-value shrinkage: how far the small singular values of batches of features are suppressed.

The penalty of Chen et al. 2019 on fine-tuning is eta times the sum of the k smallest sigma^2 of a batch's
feature matrix F_b (48 x D, not centred, min(48, D) singular values); these scores read it, and the
truncation of their Figure 3a, off a frozen checkpoint. Rows are put into batches by a permutation seeded
by the target; a partial last batch is dropped, and fewer rows than a batch are one batch.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ckptbench import Candidate, Spectrum, leave_one_out, row_batches

_PAPER = "Chen et al. 2019, Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage"


def _batch_spectra(candidate: Candidate, size: int) -> NDArray[np.float64]:
    """Squared singular values of the batches, smallest first: batches x min(size, D)."""
    spectra = []
    for rows in row_batches(len(candidate.features), size, candidate.rng):
        block = np.asarray(candidate.features[rows], dtype=np.float64)
        gram = block @ block.T if len(block) < block.shape[1] else block.T @ block
        spectra.append(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    return np.array(spectra)


def _smallest_share(spectra: NDArray[np.float64], k: int) -> float:
    total = spectra.sum(axis=1)
    return float((spectra[:, :k].sum(axis=1) / np.where(total > 0, total, 1.0)).mean())


class BatchSpectralShrinkage:
    """Minus the mean over batches of (sum of the k smallest sigma^2)/(sum of all sigma^2).

    F is N x D. In [-k/min(48, D), 0]: 0 where the small ones are gone. Cost: N 48 D operations. N < D
    makes no difference; features of which fewer than min(48, D) are alive score 0.

    Invariant to rotation and one common scale of the features, not to row order (batches).

    Parameters
    ----------
    k : how many of the smallest singular values, the paper's default
    batch : rows in a batch, the paper's
    """

    name = "bss"
    published = "lower"
    bounds = (-1.0, 0.0)
    needs = ("features",)
    random = True
    paper = _PAPER
    scale: str = "raw"
    k: int = 1
    batch: int = 48

    def score(self, candidate: Candidate) -> float:
        return -_smallest_share(_batch_spectra(candidate, self.batch), self.k)


class BatchSpectralShrinkageRaw:
    """Minus the mean over batches of the sum of the k smallest sigma^2: the penalty as published.

    As ``bss`` without the division: <= 0, and it moves with the square of the features' scale.
    """

    name = "bss-raw"
    bounds = (-math.inf, 0.0)
    needs = ("features",)
    random = True
    paper = _PAPER
    published = "lower"
    scale: str = "raw"
    k: int = 1
    batch: int = 48

    def score(self, candidate: Candidate) -> float:
        return -float(_batch_spectra(candidate, self.batch)[:, : self.k].sum(axis=1).mean())


class BatchSpectralTail:
    """As ``bss`` for the smaller half of the singular values (Figure 1d). In [-1/2, 0]."""

    name = "bss-tail"
    published = "lower"
    bounds = (-0.5, 0.0)
    needs = ("features",)
    random = True
    paper = _PAPER
    scale: str = "raw"
    batch: int = 48

    def score(self, candidate: Candidate) -> float:
        spectra = _batch_spectra(candidate, self.batch)
        return -_smallest_share(spectra, spectra.shape[1] // 2)


class TruncatedSvd:
    """Gain in leave-one-out squared error from dropping the r smallest components of each batch.

    As in the paper's Figure 3a every batch's F_b = U S V' is replaced by its first min(48, D) - r
    components (at least one stays); the score is the least leave-one-out squared error per example of
    ridge regression (as in ``ridge-loo``) on the rows as they are minus that on the truncated rows.
    Positive where the small components hurt.

    F is N x D; labels are classes or real columns. Unbounded. Cost: a thin SVD of each batch and
    two centred spectra of N x D. N < D makes no difference.

    Invariant to rotation and one common scale of the features, not to row order (batches).

    Parameters
    ----------
    r : how many components to drop; the paper has 1, 2, 4 and 8
    batch : rows in a batch, the paper's
    """

    name = "tsvd"
    random = True
    paper = _PAPER
    exempt = ("direction: compares a checkpoint with itself truncated, not its classes with each other",)
    scale: str = "raw"
    r: int = 8
    batch: int = 48

    def score(self, candidate: Candidate) -> float:
        rows = row_batches(len(candidate.features), self.batch, candidate.rng)
        labels = candidate.onehot[rows.ravel()]
        matrix = np.asarray(candidate.features[rows.ravel()], dtype=np.float64)
        before = leave_one_out(Spectrum(matrix, labels, centred=True)).error
        for block in matrix.reshape(*rows.shape, -1):
            u, sigma, vt = np.linalg.svd(block, full_matrices=False)
            kept = max(1, len(sigma) - self.r)
            block[:] = (u[:, :kept] * sigma[:kept]) @ vt[:kept]
        return before - leave_one_out(Spectrum(matrix, labels, centred=True)).error
