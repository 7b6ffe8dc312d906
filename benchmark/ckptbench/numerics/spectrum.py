"""The singular value decomposition of a feature matrix, computed once and shared by the selectors.

F = U diag(sigma) V' is found from the Gram matrix of its smaller side, in float64 and in blocks of rows,
so that a float16 memory map is never held as a whole in float64. The Gram matrix is taken of the centred
features: putting the mean back in is a stable rank-one update, taking it out is not, so one pass over the
features serves both spectra. LAPACK reduces the Gram matrix to tridiagonal form, G = Q T Q'; the
eigenvectors W of T are cheap, and the labels' projections need only W'Q'B for a block B of a few columns.
The singular vectors themselves (Q W, dearer than all the rest) are formed when a score first asks.

Shapes: N examples, D features, C label columns, r = min(N, D).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy.linalg import eigh_tridiagonal, lapack
from scipy.linalg.blas import dsyr, dsyr2, dsyrk

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Float, locked
from ckptbench.numerics.features import main_components

_BLOCK = 2**22  # float64 numbers in a block of features: 32 MiB
_EPS = float(np.finfo(np.float64).eps)


class _Eigen:
    """Eigenpairs of a symmetric matrix (lower triangle, overwritten), largest eigenvalue first."""

    def __init__(self, matrix: Float) -> None:
        lwork, _ = lapack.dsytrd_lwork(len(matrix), lower=1)
        self._reflectors, diagonal, off, self._tau, _ = lapack.dsytrd(
            matrix, lower=1, lwork=int(lwork), overwrite_a=1
        )
        values, vectors = eigh_tridiagonal(diagonal, off)
        self.values: Float = np.asarray(values[::-1], dtype=np.float64)
        self._tridiagonal: Float = np.asarray(vectors[:, ::-1], dtype=np.float64)

    def _rotate(self, block: Float, trans: str) -> Float:
        """Q @ block ("N") or Q' @ block ("T"), in a new array."""
        block = np.array(block, order="F")
        n = len(block)
        if n > 1:
            reflectors = self._reflectors[1:, : n - 1]
            lwork = int(lapack.dormqr("L", trans, reflectors, self._tau, block[1:], -1)[1][0])
            block[1:] = lapack.dormqr("L", trans, reflectors, self._tau, block[1:], lwork)[0]
        return block

    def project(self, block: Float) -> Float:
        """The transposed eigenvectors times a block."""
        return self._tridiagonal.T @ self._rotate(block, "T")

    @cached_property
    def vectors(self) -> Float:
        """The eigenvectors, one in each column."""
        return self._rotate(self._tridiagonal, "N")


class Moments:
    """What one pass over the features gives: their mean, and second moments about it.

    Attributes
    ----------
    mean : (D,)
    gram : r x r, lower triangle: the centred features' Gram matrix of the smaller side
    class_sums : D x C, F'Y with F centred
    row_norm2, row_mean : (N,), the products of each centred row with itself and with the mean
    """

    def __init__(self, features: Array, labels: Array) -> None:
        self.features = features
        n, d = features.shape
        self.mean = self._mean()
        self.row_norm2: Float = np.empty(n)
        self.row_mean: Float = np.empty(n)
        self.class_sums: Float = np.zeros((d, labels.shape[1]))
        tall = n >= d
        self.gram: Float = np.zeros((min(n, d),) * 2, order="F")
        if not tall:
            for block in self._columns():
                self.gram = dsyrk(1.0, block.T, trans=1, beta=1.0, c=self.gram, lower=1, overwrite_c=1)
        for rows, block in self.rows():
            if tall:
                self.gram = dsyrk(1.0, block.T, beta=1.0, c=self.gram, lower=1, overwrite_c=1)
            self.class_sums += block.T @ labels[rows]
            self.row_norm2[rows] = np.einsum("ij,ij->i", block, block)
            self.row_mean[rows] = block @ self.mean
        for array in (self.mean, self.gram, self.row_norm2, self.row_mean, self.class_sums):
            locked(array)

    def sums_of(self, labels: Array) -> Float:
        """D x C, F'Y with F centred, for other labels."""
        sums: Float = np.zeros((self.features.shape[1], labels.shape[1]))
        for rows, block in self.rows():
            sums += block.T @ labels[rows]
        return sums

    def _mean(self) -> Float:
        n, d = self.features.shape
        total: Float = np.zeros(d)
        step = max(1, _BLOCK // d)
        for start in range(0, n, step):
            block = self.features[start : start + step]
            with np.errstate(invalid="ignore"):  # infinity of both signs: reported below
                sums = block.sum(axis=0, dtype=np.float64)
            if not np.isfinite(sums).all():
                row = start + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise InputError(f"the features of example {row} hold NaN or infinity")
            total += sums
        total /= n
        return total

    def rows(self) -> Iterator[tuple[slice, Float]]:
        """The centred features in blocks of rows, float64."""
        n, d = self.features.shape
        step = max(1, _BLOCK // d)
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            yield rows, self.features[rows] - self.mean

    def _columns(self) -> Iterator[Float]:
        n, d = self.features.shape
        step = max(1, _BLOCK // n)
        for start in range(0, d, step):
            columns = slice(start, start + step)
            yield np.ascontiguousarray(self.features[:, columns] - self.mean[columns])


class Spectrum:
    """Singular values of F, the labels' projections onto its left singular vectors, vectors on demand.

    With ``centred`` everything is of F minus its column means and of the labels minus theirs.

    Parameters
    ----------
    features : N x D, any floating type, an array or a memory map; never changed
    labels : N x C, one-hot or columns of real targets
    centred : take the means out
    moments : of the same features and labels where they are known already: the centred and the
        uncentred spectrum need the same ones

    Attributes
    ----------
    n, d : N and D
    features, labels : as given
    mean : (D,), column means of the features as given
    label_mean : (C,), column means of the labels as given
    label_norm2 : (C,), squared norms of the label columns
    row_norm2 : (N,), squared norms of the rows of F
    class_sums : D x C, F'Y
    sigma2 : (r,), squared singular values, largest first, never negative
    rank : how many of them stand above rounding error: more than max(N, D) eps sigma_1^2
    projections : r x C, U'Y; zero past ``rank``, where U carries no information about F
    ones_projection : (r,), U'1; zero when ``centred``

    Raises
    ------
    InputError : NaN or infinity in the features, no rows, or no columns
    """

    def __init__(
        self, features: Array, labels: Array, *, centred: bool = False, moments: Moments | None = None
    ) -> None:
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(f"features have shape {features.shape}, expected N x D with both at least 1")
        self.features = features
        self.centred = centred
        self.n, self.d = features.shape
        self.moments = moments = moments or Moments(features, labels)
        self.mean = moments.mean

        matrix = moments.gram.copy(order="F")
        if centred:
            self.row_norm2 = moments.row_norm2
        else:
            mean2 = float(self.mean @ self.mean)
            self.row_norm2 = moments.row_norm2 + 2.0 * moments.row_mean + mean2
            if self.n >= self.d:
                matrix = dsyr(self.n, self.mean, a=matrix, lower=1, overwrite_a=1)
            else:
                ones = np.ones(self.n)
                matrix = dsyr2(1.0, moments.row_mean + 0.5 * mean2, ones, a=matrix, lower=1, overwrite_a=1)
        self._eigen = _Eigen(matrix)
        self.sigma2: Float = np.maximum(self._eigen.values, 0.0)
        # The second term: what is left of constant features when their mean, itself rounded, is taken out.
        noise = self.n * float(self.mean @ self.mean) * (16 * _EPS) ** 2
        tolerance = max(max(self.n, self.d) * _EPS * self.sigma2[0], noise)
        self.rank = int(np.count_nonzero(self.sigma2 > tolerance))
        locked(self.row_norm2)
        locked(self.sigma2)
        self._project(labels, moments.class_sums)

    def with_labels(self, labels: Array) -> Spectrum:
        """The same features under other labels (N x C): nothing is decomposed again."""
        other = copy.copy(self)
        other._project(labels, self.moments.sums_of(labels))
        return other

    def _project(self, labels: Array, centred_sums: Float) -> None:
        """All that depends on the labels; ``centred_sums`` is F'Y with F centred."""
        tall = self.n >= self.d
        self.labels = labels
        self.label_mean: Float = np.mean(labels, axis=0, dtype=np.float64)
        targets = labels - self.label_mean if self.centred else np.asarray(labels, dtype=np.float64)
        self.label_norm2: Float = np.einsum("ij,ij->j", targets, targets)
        self.class_sums = centred_sums
        if not self.centred:
            self.class_sums = centred_sums + np.outer(self.mean, labels.sum(axis=0))
        block = np.column_stack([self.class_sums, self.n * self.mean] if tall else [targets, np.ones(self.n)])
        projected = self._eigen.project(block)
        projected[self.rank :] = 0.0
        if tall:
            projected[: self.rank] /= self.sigma[: self.rank, None]
        self.projections: Float = projected[:, :-1]
        self.ones_projection: Float = np.zeros(len(projected)) if self.centred else projected[:, -1]
        for name in ("label_mean", "label_norm2", "class_sums", "projections", "ones_projection"):
            locked(getattr(self, name))

    @cached_property
    def sigma(self) -> Float:
        """(r,) singular values, largest first."""
        return locked(np.sqrt(self.sigma2))

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of F."""
        return float(self.row_norm2.sum())

    def rows(self) -> Iterator[tuple[slice, Float]]:
        """F in blocks: a slice of the rows, and those rows in float64 (centred if the spectrum is)."""
        for rows, block in self.moments.rows():
            yield rows, block if self.centred else block + self.mean

    @cached_property
    def right(self) -> Float:
        """V, D x r; columns past ``rank`` are zero."""
        if self.n >= self.d:
            vectors = self._eigen.vectors.copy()
            vectors[:, self.rank :] = 0.0
            return locked(vectors)
        vectors = np.zeros((self.d, self.n))
        left = self.left[:, : self.rank] / self.sigma[: self.rank]
        for rows, block in self.rows():
            vectors[:, : self.rank] += block.T @ left[rows]
        return locked(vectors)

    @cached_property
    def left(self) -> Float:
        """U, N x r; columns past ``rank`` are zero."""
        if self.n >= self.d:
            return locked(np.concatenate([block for _, block in self.left_blocks()]))
        vectors = self._eigen.vectors.copy()
        vectors[:, self.rank :] = 0.0
        return locked(vectors)

    def left_blocks(self) -> Iterator[tuple[slice, Float]]:
        """U in blocks (a slice of the rows, rows x r), so that N x r numbers need never be held."""
        if self.n < self.d:
            yield slice(0, self.n), self.left
            return
        scaled = self._scaled_right()
        for rows, block in self.rows():
            yield rows, block @ scaled

    def combine(self, coefficients: Float) -> Float:
        """U times r x K coefficients, N x K, without forming U."""
        if self.n < self.d:
            return self.left @ coefficients
        weights = self._scaled_right() @ coefficients
        return np.concatenate([block @ weights for _, block in self.rows()])

    def _scaled_right(self) -> Float:
        scaled = np.zeros((self.d, self.d))
        scaled[:, : self.rank] = self._eigen.vectors[:, : self.rank] / self.sigma[: self.rank]
        return scaled

    def split(self, threshold: float = 0.8) -> int:
        """The smallest number of singular values whose sum is at least ``threshold`` of the sum of all."""
        return main_components(self.sigma[: max(self.rank, 1)], threshold)
