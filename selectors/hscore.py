"""H-score and its shrunken form: how much of the features' covariance lies between the classes.

Both are read off the singular value decomposition of the centred features, U diag(sigma) V'. With G the
rows replaced by their class means, X = U'Y and n_c the size of class c, the i-th principal direction has
the variance sigma_i^2/N, of which s_i = sum over c of X_ic^2/n_c is the share between classes.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from ckptbench import Candidate, InputError


def _between(candidate: Candidate) -> NDArray[np.float64]:
    """(r,) the share of each principal direction's variance that lies between the classes."""
    counts = np.bincount(candidate.classes, minlength=candidate.n_classes)
    return candidate.centred.projections**2 @ (1.0 / np.maximum(counts, 1))


class HScore:
    """tr(pinv(cov F) cov G) = sum over i of s_i, G the rows of F replaced by their class mean.

    F is N x D, labels are classes. In [0, min(D, C - 1)]. Cost: the centred spectrum of F. A class that no
    example has plays no part. Directions without variance (up to float64's rounding) are left out, as the
    pseudo-inverse leaves them out; public code in float32 inverts them and gets values far outside the bound.

    Once the centred features have rank N - 1 (all but certain for N <= D) every direction of the labels is
    explained and the score is C - 1 whatever the features are, noise too: it then warns.

    Invariant to row order, label names and every invertible linear map of the features.
    """

    name = "h-score"
    bounds = (0.0, lambda classes: classes - 1.0)
    paper = "Bao et al. 2019, An Information-Theoretic Approach to Transferability in Task Transfer Learning"
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred
        value = float(_between(candidate).sum())
        if spectrum.rank == spectrum.n - 1:
            warnings.warn(
                f"the H-score says nothing here: features of rank {spectrum.rank} fit any labels of "
                f"{spectrum.n} examples, and it is classes - 1 whatever they are",
                stacklevel=2,
            )
        return value


class DebiasedHScore:
    """H - (C - 1)(r - H)/(N - C), H the H-score and r the rank of the centred features.

    Features that know nothing of the labels have an H of (C - 1) r/(N - 1) on average, so that H rises with
    the rank alone; this takes that out: 0 on average for noise, exactly 0 where r = N - 1 and H is C - 1
    whatever the features are, and H itself as N grows. (It is H's share of r, corrected as R^2 is for the
    number of regressors.)

    F is N x D, labels are classes, more examples than classes. At most C - 1; below 0 where the features
    fit the labels worse than noise would. Cost: the centred spectrum of F.

    Invariant to row order, label names and every invertible linear map of the features.
    """

    name = "h-score-debiased"
    paper = "Bao et al. 2019, An Information-Theoretic Approach to Transferability in Task Transfer Learning"
    bounds = (-math.inf, lambda classes: classes - 1.0)
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        spectrum, classes = candidate.centred, len(np.unique(candidate.classes))
        if spectrum.n <= classes:
            raise InputError(
                f"{self.name} needs more examples than classes, found {spectrum.n} of {classes} classes"
            )
        value = float(_between(candidate).sum())
        return value - (classes - 1) * (spectrum.rank - value) / (spectrum.n - classes)


class ShrunkHScore:
    """(1 - d) tr(pinv(S) cov G), S = (1 - d) cov F + d (tr(cov F)/D) I after Ledoit and Wolf.

    cov F is over N and cov G over N - 1, as in the authors' code; d is Ledoit and Wolf's shrinkage. With
    v_i = sigma_i^2/N and mu = mean of v over D:

        d = min(1, b/a), a = sum v_i^2 - D mu^2, b = (1/N^2) sum over rows of norm(f)^4 - (1/N) sum v_i^2
        score = (1 - d) N/(N - 1) sum over i of s_i v_i/((1 - d) v_i + d mu).

    F is N x D, labels are classes. In [0, N/(N - 1) min(D, C - 1)]. Cost: the centred spectrum of F. For
    N < D shrinkage makes S invertible and keeps the score from saturating. Without any (d = 0, which a
    single feature always has) it is the H-score times N/(N - 1); features without variance score 0.

    Invariant to row order, label names, rotation and one common scale of the features.

    Parameters
    ----------
    ddof : of cov G; 1 is the published code's, 0 puts N everywhere (Iris: 1.17784, 1.16999)
    """

    name = "h-score-shrunk"
    bounds = (0.0, lambda classes: 2.0 * (classes - 1.0))
    paper = "Ibrahim et al. 2021, Newer is not always better: Rethinking transferability metrics"
    scale: str = "raw"
    ddof: int = 1

    def score(self, candidate: Candidate) -> float:
        spectrum = candidate.centred
        n = spectrum.n
        if spectrum.rank == 0:
            return 0.0
        variance = spectrum.sigma2 / n
        mean = variance.sum() / spectrum.d
        squares = float(variance @ variance)
        spread = squares - spectrum.d * mean**2
        noise = max(0.0, float(spectrum.row_norm2 @ spectrum.row_norm2) / n**2 - squares / n)
        if spectrum.d == 1:  # one feature is its own multiple of the identity: nothing to shrink to
            shrinkage = 0.0
        else:
            shrinkage = noise / spread if noise < spread else 1.0
        shares = _between(candidate)
        kept = shares > 0
        ratio = variance[kept] / ((1 - shrinkage) * variance[kept] + shrinkage * mean)
        return float((1 - shrinkage) * n / (n - self.ddof) * (shares[kept] @ ratio))
