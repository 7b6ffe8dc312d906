"""A consensus of three closed-form estimates of a linear head, each on raw and on standardised features."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from ckptbench import Candidate, Float, InputError, Spectrum, lda_leave_one_out, leave_one_out, log_evidence


class Consensus:
    """Mean rank within the pool under LogME and the leave-one-out accuracies of ridge regression and LDA.

    Six numbers per candidate: maximum log evidence (``logme``), leave-one-out accuracy of ridge regression
    (``ridge-loo``) and of shrunken LDA (``lda-loo``), each on the features as they are and on features at
    mean 0 and variance 1. Each becomes ranks within the pool (ties share their mean rank) over the number of
    candidates; the score is the mean of the six. The three estimate the same thing with different errors,
    which scale suits differs between runs, and ranks need no common unit.

    A pool selector. F is N x D, labels are classes, at least 2 examples. In (0, 1]. Cost: two spectra and
    four passes of N r (r + 19 C) operations, what its members cost together. Works alike for N < D. Meant
    for linear probes (FE); for fine-tuning no score so far beats the last checkpoint.

    Invariant to row order, label names, translation and one common scale of the features, but for the
    evidence of raw features, which translation moves.
    """

    name = "consensus"
    paper = "this suite"
    bounds = (0.0, 1.0)

    def score_pool(self, candidates: Sequence[Candidate]) -> Float:
        members = np.array([_members(candidate) for candidate in candidates])
        # Evidence that differs by rounding alone is a tie.
        ranks = rankdata(np.round(members, 9), axis=0)
        return np.mean(ranks, axis=1) / len(candidates)


def _members(candidate: Candidate) -> list[float]:
    numbers = []
    for scaled, is_raw in ((candidate, True), (candidate.standardised, False)):
        centred = scaled.centred
        if centred.rank == 0:
            raise InputError("consensus: every example has the same features")
        numbers += [
            _evidence(scaled.spectrum if is_raw else centred),
            leave_one_out(centred).accuracy,
            lda_leave_one_out(centred, candidate.classes),
        ]
    return numbers


def _evidence(spectrum: Spectrum) -> float:
    found = log_evidence(
        spectrum.sigma2, spectrum.projections**2, spectrum.label_norm2, spectrum.n, spectrum.rank
    )
    return float(found.value.mean())
