"""A fusion of seven cheap scores by their mean ranks."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from ckptbench import Candidate, Float, InputError, member_score


class Borda:
    """Mean rank within the pool under seven scores that estimate class separation in different ways.

    Ridge regression left one out (accuracy and log-loss, standardised features), LogME (standardised),
    shrunken LDA left one out, nearest neighbours left one out, PARC and CDNV. Each becomes ranks within the
    pool (ties share their mean rank) over the number of candidates; the score is the mean of the seven. All
    look for features in which the target's classes lie apart and their errors differ, so that the mean errs
    less than each; ranks need no common unit. A candidate that a member refuses (``cdnv`` where two classes
    have one mean) comes last under that member, and it warns.

    A pool selector. F is N x D, labels are classes, at least 2 examples. In (0, 1]. Cost: two spectra,
    N r (r + 19 C) operations for ridge regression, N r^2 for LDA and two N x N similarities. Works alike for
    N < D. Random above 5,000 rows, as PARC is. Meant for linear probes (FE).

    Invariant to row order, label names and one common scale of the features.
    """

    name = "borda"
    paper = "this suite; ranks are pooled as in Borda 1784, Memoire sur les elections au scrutin"
    members = (
        "ridge-loo:scale=std", "ridge-loo-logloss:scale=std", "logme:scale=std", "lda-loo", "knn", "parc",
        "cdnv",
    )  # fmt: skip
    random = True
    bounds = (0.0, 1.0)

    def score_pool(self, candidates: Sequence[Candidate]) -> Float:
        scores = np.empty((len(self.members), len(candidates)))
        _ = candidates[0].classes  # refuses labels that are not classes
        for at, label in enumerate(self.members):
            for place, candidate in enumerate(candidates):
                try:
                    scores[at, place] = member_score(label, candidate)
                except InputError as error:
                    scores[at, place] = -np.inf
                    warnings.warn(f"last under {label} for borda: {error}", stacklevel=2)
        # What differs by rounding alone is a tie.
        ranks = rankdata(np.round(scores, 9), axis=1)
        return ranks.mean(axis=0) / len(candidates)
