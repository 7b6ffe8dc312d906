"""Scores that ask how well linear discriminants explain the labels: SFDA, ETran and NCTI.

All rest on the posterior of linear discriminant analysis with a shrunken within-class covariance,

    delta_c(x) = x'S^-1 m_c - m_c'S^-1 m_c / 2 + log(n_c/N),   p(c given x) = softmax of delta(x) over c,
    S = (1 - lam) S_w + lam t I,   S_w = sum over i of (x_i - m_y)(x_i - m_y)'/N,   t = 1 or tr(S_w)/D.

The papers put it as a generalised eigenproblem S_b v = mu S v with V'SV = I. VV' = S^-1 on all that tells
classes apart, so a Cholesky factor of S does. Nothing here depends on the axes, so S_w is written on the
right singular vectors of the centred features, where it is diag(sigma^2)/N less the classes' part.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import logsumexp, softmax

from ckptbench import Candidate, Float, InputError

_EPS = np.finfo(np.float64).eps


class _Discriminant:
    """Linear discriminant analysis on the first k principal components (at least one, at most the rank)."""

    def __init__(self, candidate: Candidate, k: int | None = None) -> None:
        self.spectrum = spectrum = candidate.centred
        self.k = k = max(1, min(k or spectrum.rank, spectrum.rank))
        present, self.labels, counts = np.unique(candidate.classes, return_inverse=True, return_counts=True)
        self.priors = counts / spectrum.n
        self.sigma = spectrum.sigma[:k]
        self.means = (self.sigma[:, None] * spectrum.projections[:k, present] / counts).T
        between = self.means.T * self.priors @ self.means
        self.total = np.diag(self.sigma**2 / spectrum.n)
        self.within = self.total - between
        # S may not fall below the rounding error of S_w: collapsed classes would divide by it.
        self.floor = 8 * max(spectrum.n, k) * _EPS * spectrum.sigma2[0] / spectrum.n + np.finfo(float).tiny

    def shrink(self, matrix: Float, lam: float, target: float) -> Float:
        return (1 - lam) * matrix + max(lam * target, self.floor) * np.eye(len(matrix))

    def logits(self, within: Float, means: Float, lam: float, target: float) -> tuple[Float, Float]:
        """k x C coefficients and C constants of delta, for scatter and means (C x k) in any basis."""
        coefficients = cho_solve(cho_factor(self.shrink(within, lam, target)), means.T)
        return coefficients, np.log(self.priors) - 0.5 * np.einsum("ck,kc->c", means, coefficients)

    def components(self, coefficients: Float | None = None) -> Float:
        """The principal components (N x k), or some combinations of them."""
        weights = np.eye(self.k) if coefficients is None else coefficients
        full = np.zeros((len(self.spectrum.sigma2), weights.shape[1]))
        full[: self.k] = self.sigma[:, None] * weights
        return self.spectrum.combine(full)

    def posterior(self, lam: float, target: float) -> Float:
        """N x C."""
        coefficients, constants = self.logits(self.within, self.means, lam, target)
        return softmax(self.components(coefficients) + constants, axis=1)

    def true_class(self, posterior: Float) -> Float:
        """(N,) each example's posterior of its own class."""
        return posterior[np.arange(len(posterior)), self.labels]

    def shrinkage(self) -> float:
        """exp(-5 lambda_1(S_w)), at least 1e-10."""
        largest = eigh(self.within, eigvals_only=True, subset_by_index=[self.k - 1, self.k - 1])[0]
        return max(np.exp(-5 * max(largest, 0.0)), 1e-10)

    def shrinkage_by_rounds(self) -> float:
        """The same with public code's estimate of lambda_1: six products with S_w, from its row sums."""
        y = x = self.within @ self.spectrum.right[:, : self.k].sum(axis=0)
        for _ in range(3):
            y = self.within @ x
            y = y / (np.linalg.norm(y) or 1.0)
            x = self.within @ y
            x = x / (np.linalg.norm(x) or 1.0)
        return max(np.exp(-5 * (x @ self.within @ y)), 1e-10)


class SFDA:
    """Mean posterior of the true class after the examples were made harder by their own uncertainty.

    F is N x D. (1) LDA with lam = max(exp(-5 lambda_1(S_w)), 1e-10) and t = 1 gives p_i, the posterior of
    example i's own class. (2) Each example moves towards the other classes, x_i <- p_i x_i + (1 - p_i) o_y,
    o_y the mean of the other classes' means; LDA again, same lam. The score, in (0, 1], is the mean
    posterior of the true class.

    Cost: N r^2 operations, r = min(N, D), on the centred spectrum. For N < D the classes can be separated
    without error, and wherever lam is near its floor every model then scores 1.0, by definition.

    Invariant to row order, label names, translation and rotation; not to scale, because of lam.

    Parameters
    ----------
    reading : "paper" as above, with the mean posterior that the authors' code has for the paper's sum of
        logarithms; "code" also shrinks towards the mean variance (t = tr(S_w)/D), takes the softmax of the
        posterior once more before mixing, and estimates lambda_1 by six products from S_w's row sums
    """

    name = "sfda"
    bounds = (0.0, 1.0)
    readings = ("reading=code",)
    paper = "Shao et al. 2022, Not All Models Are Equal: Predicting Model Transferability in a Fisher Space"
    reading: str = "paper"
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        _known("sfda", self.reading)
        lda = _Discriminant(candidate)
        paper = self.reading == "paper"
        lam = lda.shrinkage() if paper else lda.shrinkage_by_rounds()
        d = candidate.features.shape[1]
        posterior = lda.posterior(lam, 1.0 if paper else np.trace(lda.within) / d)
        confidence = lda.true_class(posterior if paper else softmax(posterior, axis=1))[:, None]

        others = (lda.means.sum(axis=0) - lda.means) / max(len(lda.means) - 1, 1)
        harder = lda.components()
        harder *= confidence
        harder += (1 - confidence) * others[lda.labels]
        means = np.eye(len(others))[lda.labels].T @ harder / (lda.priors * len(harder))[:, None]
        harder -= means[lda.labels]
        within = harder.T @ harder / len(harder)
        target = 1.0 if paper else np.trace(within) / d
        coefficients, constants = lda.logits(within, means, lam, target)
        logits = harder @ coefficients + (means @ coefficients)[lda.labels] + constants
        return float(lda.true_class(softmax(logits, axis=1)).mean())


class ETran:
    """.85 minmax(LDA) + .15 minmax(energy), each brought to [0, 1] over the pool; a pool selector.

    LDA is the mean posterior of the true class, S shrunk towards its mean variance with
    lam = max(exp(-5 lambda_1(S_w)), 1e-10); energy the mean over examples of log sum over d of exp F_id.
    F is N x D. In [0, 1]; a term that is the same for the whole pool counts 0. Cost: r^3 operations for
    each candidate, r = min(N, D), on the centred spectrum. For N < D the LDA term is near 1 for all.

    Invariant to row order and label names; the energy is neither to rotation nor to scale.

    Parameters
    ----------
    reading : "paper" as above; "code" has public code's LDA, which decomposes the non-symmetric S^-1 S_b with
        a routine for symmetric matrices: the vectors come out orthonormal, S drops out and the nearest
        class mean is left; and its energy, of the lowest 0.5 % of the examples only (one at least)
    """

    name = "etran"
    bounds = (0.0, 1.0)
    paper = "Gholami et al. 2023, ETran: Energy-Based Transferability Estimation"
    reading: str = "paper"
    scale: str = "raw"

    def score_pool(self, candidates: Sequence[Candidate]) -> Float:
        _known("etran", self.reading)
        terms = np.array([self._terms(candidate) for candidate in candidates])
        return _minmax(terms) @ [0.85, 0.15]

    def _terms(self, candidate: Candidate) -> tuple[float, ...]:
        lda = _Discriminant(candidate)
        energy = np.sort(logsumexp(candidate.features.astype(np.float64), axis=1))
        if self.reading == "code":
            posterior = lda.posterior(1.0, 1.0)
            energy = energy[: max(len(energy) * 5 // 1000, 1)]
        else:
            posterior = lda.posterior(lda.shrinkage(), np.trace(lda.within) / candidate.features.shape[1])
        return lda.true_class(posterior).mean(), energy.mean()


class NCTI:
    """Three signs of neural collapse, each brought to [0, 1] over the pool; a pool selector.

    H is F (N x D) on its first k = min(``dims``, rank) principal components, exact, and
    lam = max(exp(-v), 1e-10), v the variance of the first 32 of them. S_w is shrunk towards its mean variance
    with lam, or is not shrunk and taken over N - C where lam is at its floor; z_i is the posterior of example
    i that LDA with it gives. The score is the sum of

        the nuclear norm of H on its C - 1 discriminants (those of S_b against S_w, S_w-orthonormal),
        the mean posterior of the true class,
        minus the logarithm of the sum over classes of the nuclear norm of Z_c, the class's posteriors,

    after minmax over the pool of each of the first two and of the third without its sign. In [-1, 2]; a
    term that is the same for the whole pool counts 0. Cost: N D k operations for each candidate on the
    centred spectrum, and the singular values of N x C posteriors. For N < D there are at most N - 1
    components.

    As in the authors' code, but for its PCA, which is randomised and not seeded. An account of the paper that
    leaves out the discriminants and the logarithm ranks checkpoints the other way round for N < D.

    Invariant to row order, label names, translation and rotation; not to scale.

    Parameters
    ----------
    dims : principal components kept
    """

    name = "ncti"
    paper = "Wang et al. 2023, How Far Pre-trained Models Are from Neural Collapse on the Target Dataset"
    bounds = (-1.0, 2.0)
    dims: int = 64
    scale: str = "raw"

    def score_pool(self, candidates: Sequence[Candidate]) -> Float:
        terms = _minmax(np.array([self._terms(candidate) for candidate in candidates]))
        return terms @ [1.0, 1.0, -1.0]

    def _terms(self, candidate: Candidate) -> tuple[float, ...]:
        lda = _Discriminant(candidate, self.dims)
        n, classes = len(lda.labels), len(lda.priors)
        lam = max(np.exp(-(lda.sigma[:32] ** 2).sum() / max(n - 1, 1)), 1e-10)
        if lam == 1e-10:
            lam = 0.0
            lda.within *= n / max(n - classes, 1)
            lda.floor *= n
        target = np.trace(lda.within) / lda.k
        shrunk = lda.shrink(lda.within, lam, target)
        between = lda.shrink(lda.total, lam, np.trace(lda.total) / lda.k) - shrunk
        directions = eigh(between, shrunk)[1][:, ::-1][:, : classes - 1]
        geometry = np.linalg.norm(lda.sigma[:, None] * directions, "nuc")
        posterior = lda.posterior(lam, target)
        spread = sum(np.linalg.norm(posterior[lda.labels == c], "nuc") for c in range(classes))
        return geometry, lda.true_class(posterior).mean(), np.log(spread)


def _known(name: str, reading: str) -> None:
    if reading not in ("paper", "code"):
        raise InputError(f"{name}: reading={reading!r} is not known: paper or code")


def _minmax(terms: Float) -> Float:
    """Each column brought to [0, 1]; a constant one to 0."""
    span = np.ptp(terms, axis=0)
    return (terms - terms.min(axis=0)) / np.where(span > 0, span, 1.0)
