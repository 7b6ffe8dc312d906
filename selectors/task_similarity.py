"""Scores that compare similarities: those of the examples' features with those of their labels.

PARC and LFC correlate the two N x N matrices; the two gram scores ask how complex the labels are for the
kernel of an infinitely wide two-layer network whose inputs are the features. All work on at most
``rows`` examples, sampled by class.
"""

import math

import numpy as np
from scipy.linalg import lstsq

from ckptbench import (
    Array,
    Candidate,
    Float,
    InputError,
    arc_cosine,
    centred_onehot,
    kernel_weights,
    label_complexity,
)


def _sample(candidate: Candidate, rows: int) -> Candidate:
    """The candidate on at most ``rows`` examples, drawn with its seed, each class in proportion."""
    if len(candidate.classes) <= rows:
        return candidate
    chosen = _by_class(candidate.classes, rows, candidate.rng)
    return candidate.rows(chosen)


def _by_class(classes: Array, rows: int, rng: np.random.Generator) -> Array:
    """Indices of ``rows`` examples, each class in proportion."""
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    counts = np.bincount(classes)
    # The j-th of n_c examples of a class stands at (j + 1/2)/n_c: the front of all classes is a sample.
    place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return np.sort(order[np.argsort(place, kind="stable")[:rows]])


class PARC:
    """100 times Spearman's correlation of the pairs' distances in features and in labels.

    F (N x D) is reduced to its first min(``dims``, rank) principal components, each divided by its standard
    deviation; a pair's distance is 1 - the cosine of the two rows, and in labels 0 within a class and one and
    the same number between classes. Ties get average ranks. (The paper takes Pearson's correlation of the two
    rows, which depends on each component's sign, and a principal component has none of its own.)

    In [-100, 100]; 0 where all distances are equal (features without variance, labels of one class). Cost:
    the centred spectrum, N^2 dims operations and a sort of N(N - 1)/2 numbers. For N < D nothing
    changes. The paper's bonus for a network's depth depends on the table of networks and is left out.

    Invariant to row order (up to ``rows``), label names, translation, rotation and scale.

    Parameters
    ----------
    dims : principal components kept
    rows : examples used at most, drawn by class
    reading : "cosine" as above; "code" repeats the authors' steps: a randomised PCA of one power iteration
        (seed 1919), Pearson's correlation of rows under scikit-learn's signs, and ranks of label distances
        as they come out of floating point, where the pairs of some classes differ from those of others in
        the last digit
    """

    name = "parc"
    paper = "Bolya et al. 2021, Scalable Diverse Model Selection for Accessible Transfer Learning"
    random = True
    bounds = (-100.0, 100.0)
    readings = ("reading=code",)
    dims: int = 32
    rows: int = 5000
    reading: str = "cosine"
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        if self.reading not in ("cosine", "code"):
            raise InputError(f"parc: reading={self.reading!r} is not known: cosine or code")
        sample = _sample(candidate, self.rows)
        if self.reading == "code":
            return self._as_published(sample)
        spectrum, classes = sample.centred, sample.classes
        k = min(self.dims, spectrum.rank)
        # The left singular vectors are the principal components at one common length.
        points = spectrum.combine(np.eye(len(spectrum.sigma2), k))
        length = np.linalg.norm(points, axis=1, keepdims=True)
        points /= np.where(length > 1e-12, length, np.inf)
        below = np.tri(spectrum.n, k=-1, dtype=bool)
        # Rounded: where k is N - 1 all pairs are equally far apart, and rounding error would rank them.
        distance = np.round(1.0 - (points @ points.T)[below], 10)
        same = (classes[:, None] == classes)[below]
        return 100.0 * _spearman_binary(distance, same)

    def _as_published(self, sample: Candidate) -> float:
        from scipy.stats import spearmanr
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        k = min(self.dims, *sample.features.shape)
        pca = PCA(k, svd_solver="randomized", random_state=1919, iterated_power=1)
        points = StandardScaler().fit_transform(pca.fit_transform(sample.matrix))
        upper = np.triu_indices(len(points), 1)
        features, labels = (1 - np.corrcoef(x)[upper] for x in (points, sample.onehot))
        return float(100 * spearmanr(features, labels)[0])


def _spearman_binary(values: Float, lower: Array) -> float:
    """Spearman's correlation with a variable that is low where ``lower`` and high elsewhere."""
    n, m = len(values), int(np.count_nonzero(lower))
    if m in (0, n):
        return 0.0
    ordered = np.sort(values)
    _, ties = np.unique(ordered, return_counts=True)
    spread = (n**3 - n - float((ties.astype(np.float64) ** 3 - ties).sum())) / 12  # sum of squared ranks
    if spread <= 0:
        return 0.0
    chosen = np.sort(values[lower])
    ranks = 0.5 * (np.searchsorted(ordered, chosen) + np.searchsorted(ordered, chosen, "right") + 1)
    covariance = m * (n + 1) / 2 - ranks.sum()
    return float(covariance / np.sqrt(spread * m * (n - m) / n))


class LFC:
    """Cosine of the kernel FF' and the label kernel (1 within a class, -1 between), each less its mean.

    The mean is that of all N^2 entries, so the score is Pearson's correlation of the entries, in [-1, 1].
    F is N x D and not centred. Neither kernel is formed: with s_c the sum of F over class c, s that over
    all, and L the label kernel,

        <FF', L> = 2 sum over c of |s_c|^2 - |s|^2,   |FF'|^2 = sum of sigma^4,   sum of entries: |s|^2.

    Cost: the spectrum of F. N < D makes no difference. 0 where either kernel is constant.

    Invariant to row order (up to ``rows``), label names, rotation and scale; not to translation.

    Parameters
    ----------
    rows : examples used at most, drawn by class
    norm : "frobenius" as above; "spectral" divides by the kernels' largest eigenvalues instead, as some
        public code reads the paper's norm (no bound but N)
    """

    name = "lfc"
    random = True
    paper = "Deshpande et al. 2021, A linearized framework and a new benchmark for model selection"
    rows: int = 5000
    norm: str = "frobenius"
    scale: str = "raw"

    @property
    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0) if self.norm == "frobenius" else (-math.inf, math.inf)

    def score(self, candidate: Candidate) -> float:
        if self.norm not in ("frobenius", "spectral"):
            raise InputError(f"lfc: norm={self.norm!r} is not known: frobenius or spectral")
        sample = _sample(candidate, self.rows)
        n, spectrum = len(sample.classes), sample.spectrum
        counts = np.bincount(sample.classes).astype(np.float64)
        sums = spectrum.class_sums
        total = sums.sum(axis=1)
        kernel_sum, label_sum = total @ total, 2 * counts @ counts - n**2
        product = 2 * (sums**2).sum() - kernel_sum - kernel_sum * label_sum / n**2
        kernel2 = spectrum.sigma2 @ spectrum.sigma2 - (kernel_sum / n) ** 2
        label2 = n**2 - (label_sum / n) ** 2
        if kernel2 <= 1e-12 * (kernel_sum / n) ** 2 or label2 <= 0:
            return 0.0
        if self.norm == "frobenius":
            return float(product / np.sqrt(kernel2 * label2))
        features, onehot = sample.matrix, sample.onehot
        kernel = features @ features.T - kernel_sum / n**2
        labels = 2 * onehot @ onehot.T - 1 - label_sum / n**2
        return float(product / (np.linalg.norm(kernel, 2) * np.linalg.norm(labels, 2)))


class Gram:
    """- mean over classes of y'H^-1 y: how complex the labels are for a wide two-layer network on F.

    H_ij = x_i'x_j (pi - arccos x_i'x_j)/(2 pi), x_i the rows of F (N x D) at unit length, y the centred
    one-hot column of a class. y'H^-1 y bounds how far a network trained from scratch on these inputs
    moves its weights, and so its generalisation error (Arora et al. 2019). A row of zeros has no
    direction and counts as orthogonal to all others (H_ii = 1/2).

    <= 0. Cost: N^2 (D + C) + N^3/3 operations. N < D makes no difference. Equal rows make H singular: 1e-6 of
    its mean diagonal is added to the diagonal at every checkpoint, so that an image that is there twice with
    two labels costs all checkpoints alike. A class without examples is left out of the mean.

    Invariant to row order (up to ``rows``), label names, rotation and each row's length; not to translation.

    Parameters
    ----------
    rows : examples used at most, drawn by class
    """

    name = "gram"
    random = True
    published = "lower"
    bounds = (-math.inf, 0.0)
    paper = "Liu et al. 2019, Towards Understanding the Transferability of Deep Representations"
    rows: int = 5000
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        sample = _sample(candidate, self.rows)
        return -float(label_complexity(arc_cosine(sample.matrix), centred_onehot(sample.classes)).mean())


class GramTransfer:
    """- mean over classes of e'H_Q^-1 e, e what the source's labels do not explain of the target's.

    With Q the target, P the source rows and H the kernel of ``gram`` within and across them,

        A = H_PQ'H_P^-1 Y_P,   e = the columns of Y_Q - A B, B by least squares:

    A carries the source's labels over to the target, and B is there because the two have different
    classes. Labels are centred one-hot. By the paper's theorem 2 this bounds how far fine-tuning moves
    the weights.

    <= 0. Cost: gram's, and N_P^3/3 + N N_P (D + C_P) operations. N < D makes no difference. Equal rows,
    rows of zeros and classes without examples are treated as in ``gram``, and the invariances are gram's;
    a rotation is of target and source alike.

    Parameters
    ----------
    rows, source_rows : examples of the target and of the source used at most, drawn by class
    """

    name = "gram-transfer"
    random = True
    published = "lower"
    bounds = (-math.inf, 0.0)
    needs = ("features", "labels", "source")
    paper = "Liu et al. 2019, Towards Understanding the Transferability of Deep Representations"
    rows: int = 5000
    source_rows: int = 1000
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        source, sample = candidate.source, _sample(candidate, self.rows)
        if source is None:
            raise InputError("gram-transfer needs rows of the source set, found none")
        inputs, classes = np.asarray(source.features, dtype=np.float64), source.labels
        if len(classes) > self.source_rows:
            chosen = _by_class(classes, self.source_rows, candidate.rng)
            inputs, classes = inputs[chosen], classes[chosen]
        weights = kernel_weights(arc_cosine(inputs), centred_onehot(classes))
        carried = arc_cosine(sample.matrix, inputs) @ weights
        labels = centred_onehot(sample.classes)
        # Centred columns add up to zero: cond keeps what is left of their sum from being fitted.
        residual = labels - carried @ lstsq(carried, labels, cond=1e-10, lapack_driver="gelsy")[0]
        return -float(label_complexity(arc_cosine(sample.matrix), residual).mean())
