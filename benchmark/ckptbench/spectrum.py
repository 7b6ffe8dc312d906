"""The singular value decomposition of a feature matrix, computed once and shared by the selectors.

F = U diag(sigma) V' is found from the Gram matrix of its smaller side, G = F'F or FF', in float64 and
in blocks of rows, so that a float16 memory map is never held as a whole in float64. LAPACK reduces G to
tridiagonal form, G = Q T Q'; the eigenvectors W of T are cheap, and the projections of the labels onto
the singular vectors need only W'Q'B for a block B of a few columns. The singular vectors themselves
(Q W, which costs more than all the rest) are formed when a score first asks for them.

Shapes: N examples, D features, C label columns, r = min(N, D).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.linalg import eigh_tridiagonal, lapack
from scipy.linalg.blas import dsyrk

from ckptbench.types import Array, Float, InputError

_BLOCK = 2**22  # float64 numbers in a block of features: 32 MiB


class _Eigen:
    """Eigenpairs of a symmetric matrix (lower triangle, overwritten), largest eigenvalue first."""

    def __init__(self, matrix: Float) -> None:
        n = len(matrix)
        lwork, _ = lapack.dsytrd_lwork(n, lower=1)
        self._reflectors, diagonal, off, self._tau, _ = lapack.dsytrd(
            matrix, lower=1, lwork=int(lwork), overwrite_a=1
        )
        values, vectors = eigh_tridiagonal(diagonal, off)
        self.values: Float = np.asarray(values[::-1], dtype=np.float64)
        self._tridiagonal: Float = np.asarray(vectors[:, ::-1], dtype=np.float64)

    def _rotate(self, block: Float, trans: str) -> Float:
        """Q @ block ("N") or Q' @ block ("T"), the block in Fortran order and overwritten."""
        n = len(block)
        if n > 1:
            reflectors = self._reflectors[1:, : n - 1]
            lwork = int(lapack.dormqr("L", trans, reflectors, self._tau, block[1:], -1)[1][0])
            block[1:] = lapack.dormqr("L", trans, reflectors, self._tau, block[1:], lwork)[0]
        return block

    def project(self, block: Float) -> Float:
        """The transposed eigenvectors times a block."""
        return self._tridiagonal.T @ self._rotate(np.array(block, order="F"), "T")

    @cached_property
    def vectors(self) -> Float:
        """The eigenvectors, one in each column."""
        return self._rotate(np.array(self._tridiagonal, order="F"), "N")


class Spectrum:
    """Singular values of F, the labels' projections onto its left singular vectors, vectors on demand.

    With ``centred`` everything is of F minus its column means and of the labels minus theirs.

    Parameters
    ----------
    features : N x D, any floating type, an array or a memory map; never changed
    labels : N x C, one-hot or columns of real targets
    centred : take the means out

    Attributes
    ----------
    n, d : N and D
    features, labels : as given
    mean : (D,), column means of the features as given
    label_mean : (C,), column means of the labels as given
    label_norm2 : (C,), squared norms of the label columns (centred ones when ``centred``)
    row_norm2 : (N,), squared norms of the rows of F (centred ones when ``centred``)
    sigma2 : (r,), squared singular values, largest first, never negative
    rank : how many of them are above rounding error, N or D (the larger) times eps times the largest
    projections : r x C, U'Y; zero past ``rank``, where the vectors carry no information about F
    ones_projection : (r,), U'1; zero when ``centred``

    Raises
    ------
    InputError : NaN or infinity in the features, or no rows or columns
    """

    def __init__(self, features: Array, labels: Array, *, centred: bool = False) -> None:
        self.features = features
        self.labels = labels
        self.centred = centred
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(f"features have shape {features.shape}, expected N x D with both at least 1")
        self.n, self.d = features.shape
        columns = np.asarray(labels, dtype=np.float64)
        self.label_mean: Float = columns.mean(axis=0)
        if centred:
            columns = columns - self.label_mean
        self.label_norm2: Float = np.einsum("ij,ij->j", columns, columns)
        columns = np.column_stack([columns, np.ones(self.n)])

        tall = self.n >= self.d
        if tall:
            gram, block = self._inner(columns)
        else:
            gram, block = self._outer(), columns
        if not np.isfinite(self.row_norm2).all():
            row = int(np.flatnonzero(~np.isfinite(self.row_norm2))[0])
            raise InputError(f"the features of example {row} hold NaN or infinity")

        self._eigen = _Eigen(gram)
        self.sigma2: Float = np.maximum(self._eigen.values, 0.0)
        tolerance = max(self.n, self.d) * np.finfo(np.float64).eps * self.sigma2[0]
        self.rank = int(np.count_nonzero(self.sigma2 > tolerance))
        projected = self._eigen.project(block)
        projected[self.rank :] = 0.0
        if tall:
            projected[: self.rank] /= self.sigma[: self.rank, None]
        self.projections: Float = projected[:, :-1]
        self.ones_projection: Float = np.zeros(len(projected)) if centred else projected[:, -1]

    def _rows(self) -> Iterator[tuple[slice, Float]]:
        """F in blocks of rows, float64, centred if need be."""
        step = max(1, _BLOCK // self.d)
        for start in range(0, self.n, step):
            rows = slice(start, min(start + step, self.n))
            block = np.ascontiguousarray(self.features[rows], dtype=np.float64)
            yield rows, block - self.mean if self.centred else block

    def _columns(self) -> Iterator[tuple[slice, Float]]:
        """F in blocks of columns, likewise."""
        step = max(1, _BLOCK // self.n)
        for start in range(0, self.d, step):
            columns = slice(start, min(start + step, self.d))
            block = np.ascontiguousarray(self.features[:, columns], dtype=np.float64)
            yield columns, block - self.mean[columns] if self.centred else block

    @cached_property
    def mean(self) -> Float:
        total: Float = np.zeros(self.d)
        step = max(1, _BLOCK // self.d)
        for start in range(0, self.n, step):
            total += self.features[start : start + step].sum(axis=0, dtype=np.float64)
        total /= self.n
        return total

    def _inner(self, columns: Float) -> tuple[Float, Float]:
        """F'F (lower triangle) and F' times some columns, in one pass; sets ``row_norm2``."""
        gram = np.zeros((self.d, self.d), order="F")
        block_sums = np.zeros((self.d, columns.shape[1]))
        self.row_norm2 = np.empty(self.n)
        for rows, block in self._rows():
            gram = dsyrk(1.0, block.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
            block_sums += block.T @ columns[rows]
            self.row_norm2[rows] = np.einsum("ij,ij->i", block, block)
        return gram, block_sums

    def _outer(self) -> Float:
        """FF' (lower triangle); sets ``row_norm2``."""
        gram = np.zeros((self.n, self.n), order="F")
        for _, block in self._columns():
            gram = dsyrk(1.0, block.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
        self.row_norm2 = gram.diagonal().copy()
        return gram

    @cached_property
    def sigma(self) -> Float:
        """(r,) singular values, largest first."""
        return np.sqrt(self.sigma2)

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of F."""
        return float(self.row_norm2.sum())

    @cached_property
    def right(self) -> Float:
        """V, D x r; columns past ``rank`` are zero."""
        if self.n >= self.d:
            vectors = self._eigen.vectors.copy()
            vectors[:, self.rank :] = 0.0
            return vectors
        vectors = np.zeros((self.d, self.n))
        left = self.left[:, : self.rank] / self.sigma[: self.rank]
        for columns, block in self._columns():
            vectors[columns, : self.rank] = block.T @ left
        return vectors

    def left_blocks(self) -> Iterator[tuple[slice, Float]]:
        """U in blocks of rows (a slice of the rows, rows x r), never held as a whole."""
        if self.n < self.d:
            yield slice(0, self.n), self.left
            return
        scaled = np.zeros((self.d, self.d))
        scaled[:, : self.rank] = self._eigen.vectors[:, : self.rank] / self.sigma[: self.rank]
        for rows, block in self._rows():
            yield rows, block @ scaled

    @cached_property
    def left(self) -> Float:
        """U, N x r; columns past ``rank`` are zero."""
        if self.n < self.d:
            vectors = self._eigen.vectors.copy()
            vectors[:, self.rank :] = 0.0
            return vectors
        return np.concatenate([block for _, block in self.left_blocks()])

    @cached_property
    def class_sums(self) -> Float:
        """D x C, F'Y: the sum of (centred) features over each class."""
        sums = np.zeros((self.d, self.labels.shape[1]))
        for rows, block in self._rows():
            sums += block.T @ self.labels[rows]
        return sums
