"""The spectral split: main and residual components of the feature matrix, apart.

F = U S V' as it is, not centred; k is the smallest number of singular values whose sum is at least the
threshold (0.8) of the sum of all; F_m keeps the first k components, F_r = F - F_m the others. The paper's
finding: as pre-training goes on, F_m (which frozen features live on) gets worse for the target and F_r
(which fine-tuning lives on) better.

The paper splits batches of 128 rows. ``batch=128`` does so: rows are put into batches by a permutation
seeded by the target, a partial last batch is dropped, and the batches' parts are put together again (or,
where the score is a number of the split itself, averaged). By default all rows are split at once, which
takes no decomposition beyond the candidate's own.
"""

from collections.abc import Iterator

import numpy as np

from ckptbench import (
    PENALTIES,
    Array,
    Candidate,
    Float,
    InputError,
    Spectrum,
    log_evidence,
    ridge_predictions,
    row_batches,
    stratified_folds,
)

FOLDS = 5


class _Split:
    paper = "Deng et al. 2022, Inadequately Pre-trained Models are Better Feature Extractors"
    readings = ("batch=128",)
    scale: str = "raw"
    threshold: float = 0.8
    batch: int | None = None

    def spectra(self, candidate: Candidate) -> Iterator[Spectrum]:
        """The spectra that are split: of all rows, or of each batch."""
        if self.batch is None:
            yield candidate.spectrum
        else:
            for rows in row_batches(len(candidate.features), self.batch, candidate.rng):
                yield candidate.rows(rows).spectrum

    def split(self, whole: Spectrum, main: bool) -> slice:
        k = whole.split(self.threshold)
        return slice(0, k) if main else slice(k, len(whole.sigma2))

    def logme(self, candidate: Candidate, main: bool) -> float:
        # As in ``logme``, standardised features go with centred labels: they profile out an intercept.
        whole = candidate.centred if self.scale == "std" else candidate.spectrum
        if whole.rank == 0:
            raise InputError("the features are all zero (or constant, once standardised): nothing to split")
        if self.batch is None:
            part = self.split(whole, main)
            rank = len(range(whole.rank)[part])
        else:
            matrix, rows = self.batched(candidate, np.arange(len(candidate.features)), main)
            labels = candidate.onehot[rows]
            whole = Spectrum(matrix, labels - labels.mean(axis=0) if self.scale == "std" else labels)
            part, rank = slice(None), whole.rank
        x2 = whole.projections[part] ** 2
        return float(log_evidence(whole.sigma2[part], x2, whole.label_norm2, whole.n, rank).value.mean())

    def batched(self, candidate: Candidate, rows: Array, main: bool) -> tuple[Float, Array]:
        """The part of some rows, each batch of them split by itself; and which rows were in a full batch."""
        assert self.batch is not None
        parts, batches = [], rows[row_batches(len(rows), self.batch, candidate.rng)]
        for batch in batches:
            whole = Spectrum(candidate.features[batch], candidate.onehot[batch])
            left = whole.left[:, self.split(whole, main)]
            parts.append(left @ (left.T @ candidate.matrix[batch]))
        return np.concatenate(parts), batches.ravel()

    def ridge(self, candidate: Candidate, main: bool) -> float:
        if len(candidate.classes) < 2:
            raise InputError("cross-validation needs at least 2 examples, found 1")
        folds = min(FOLDS, len(candidate.classes))
        fold = stratified_folds(candidate.classes, folds, candidate.rng)
        errors, right, tested = np.zeros(len(PENALTIES)), np.zeros(len(PENALTIES)), 0
        for held in range(folds):
            fitted, train, points, test = self.split_apart(candidate, fold == held, main)
            labels = candidate.onehot[test][:, None]
            predictions = ridge_predictions(Spectrum(fitted, candidate.onehot[train], centred=True), points)
            errors += ((predictions - labels) ** 2).sum(axis=(0, 2))
            right += (predictions.argmax(axis=2) == candidate.classes[test][:, None]).sum(axis=0)
            tested += len(test)
        return float(right[errors.argmin()] / tested)

    def split_apart(self, candidate: Candidate, held: Array, main: bool) -> tuple[Float, Array, Float, Array]:
        """The part of the training rows, which those are, and the same of the held-out rows."""
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        if self.batch is not None:
            return *self.batched(candidate, train, main), *self.batched(candidate, test, main)
        matrix = candidate.matrix
        whole = Spectrum(matrix[train], candidate.onehot[train])
        basis = whole.right[:, self.split(whole, main)]
        if not basis.shape[1]:
            basis = np.zeros((matrix.shape[1], 1))
        return matrix[train] @ basis, train, matrix[test] @ basis, test


class MainLogME(_Split):
    """LogME (see ``logme``) of F_m.

    The spectrum of F_m is the first k singular values and projections of F's. F is N x D; labels are
    classes or real columns. Unbounded. Cost: the spectrum of F. Behaves for N < D as ``logme`` does.

    Invariant to row order, rotation and one common scale of the features.

    Parameters
    ----------
    threshold : the share of the sum of singular values that F_m has at least
    batch : rows that are split together; None for all, 128 in the paper
    """

    name = "fm-logme"

    def score(self, candidate: Candidate) -> float:
        return self.logme(candidate, main=True)


class ResidualLogME(_Split):
    """LogME of F_r; all else as ``fm-logme``. An empty F_r explains nothing: the evidence of noise alone."""

    name = "fr-logme"

    def score(self, candidate: Candidate) -> float:
        return self.logme(candidate, main=False)


class MainRidge(_Split):
    """Five-fold accuracy of ridge regression on F_m, the main components of the training rows.

    For each fold V_k is of the other rows alone; ridge regression with an intercept on F V_k there, the
    fold's rows are predicted from theirs. lambda/sigma_1^2 is the one of 19 values from 1e-8 to 10 with the
    least squared error over all folds. With ``batch`` training rows and held-out rows are split in batches of
    their own. (Leave-one-out on the parts of all rows is not honest, as the left-out row shapes the split:
    it gave 1 to 5 % on F_r where five folds give 17 to 34 %.)

    F is N x D, labels are classes, at least 2 examples. In [0, 1]. Folds are stratified and seeded by
    the target. Cost: for each fold two spectra with vectors and N D k operations. N < D makes no difference.

    Invariant to rotation and one common scale of the features, not to row order (folds).

    Parameters
    ----------
    threshold, batch : as in ``fm-logme``
    """

    name = "fm-ridge-cv"
    random = True
    bounds = (0.0, 1.0)

    def score(self, candidate: Candidate) -> float:
        return self.ridge(candidate, main=True)


class ResidualRidge(_Split):
    """Five-fold accuracy of ridge regression on F_r, the other components; all else as ``fm-ridge-cv``."""

    name = "fr-ridge-cv"
    random = True
    bounds = (0.0, 1.0)

    def score(self, candidate: Candidate) -> float:
        return self.ridge(candidate, main=False)


class MainShare(_Split):
    """norm(U_m'Y)^2/norm(U'Y)^2, Y the centred labels: the share of explained label energy in F_m.

    F is N x D; labels are classes or real columns. In [0, 1]; 0 where F explains nothing. Cost: the spectrum
    of F. For N <= D and full rank U'Y is all of Y, and the share is that of Y itself.

    Invariant to row order, rotation, one common scale of the features and label names.

    Parameters
    ----------
    threshold, batch : as in ``fm-logme``; with batches the mean of their shares
    """

    name = "fm-share"
    bounds = (0.0, 1.0)

    def score(self, candidate: Candidate) -> float:
        shares = []
        for whole in self.spectra(candidate):
            explained = whole.projections - np.outer(whole.ones_projection, whole.label_mean)
            energy = np.square(explained).sum(axis=1)
            shares.append(energy[: whole.split(self.threshold)].sum() / (energy.sum() or 1.0))
        return float(np.mean(shares))


class SplitRank(_Split):
    """-k/min(N, D): few singular values carry most of their sum.

    F is N x D. In [-1, 0). Cost: the spectrum of F. For N < D k is out of N.

    Invariant to row order, rotation and one common scale of the features.

    Parameters
    ----------
    threshold, batch : as in ``fm-logme``; with batches the mean over them
    """

    name = "k80"
    bounds = (-1.0, 0.0)
    needs = ("features",)

    def score(self, candidate: Candidate) -> float:
        return -float(np.mean([s.split(self.threshold) / len(s.sigma) for s in self.spectra(candidate)]))
