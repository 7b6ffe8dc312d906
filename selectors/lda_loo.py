"""Leave-one-out accuracy of shrunken linear discriminant analysis, without refitting."""

from typing import Annotated

from pydantic import Field

from ckptbench import Candidate, lda_leave_one_out


class LDALeaveOneOut:
    """Share of the examples that linear discriminant analysis of all other examples puts in their class.

    F is N x D, W = sum over i of r_i r_i', r_i = x_i - m_y the residual from the class mean. The classifier
    takes the largest log prior - u'S^-1 u/2 over classes k, u = x - m_k, S = (1 - s) W/N + rho I and
    rho = s tr(W)/(N D); s is Ledoit and Wolf's shrinkage of the residuals. Without example i of class c

        m_c moves by -r_i/(n_c - 1); the priors are (n_c - 1)/(N - 1), and n_k/(N - 1) for the others;
        S = B - g r_i r_i', B = (1 - s) W/(N - 1) + rho I, g = (1 - s) n_c/((n_c - 1)(N - 1)),

    while s and rho keep their values of all rows, and by Sherman and Morrison
    u'S^-1 u = u'B^-1 u + g (u'B^-1 r_i)^2/(1 - g r_i'B^-1 r_i). A tie counts as wrong, and so does the only
    example of a class.

    In [0, 1]. Cost: N r^2 operations, r = min(N, D), for the principal components and one triangular
    solve. For N < D it is the shrinkage that keeps S regular.

    Invariant to row order, label names, rotation and one common scale of the features.

    Parameters
    ----------
    shrinkage : s in [0, 1]; Ledoit and Wolf's when not given
    """

    name = "lda-loo"
    bounds = (0.0, 1.0)
    paper = "Lachenbruch and Mickey 1968, Estimation of Error Rates in Discriminant Analysis"
    shrinkage: Annotated[float | None, Field(ge=0, le=1)] = None
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        return lda_leave_one_out(candidate.centred, candidate.classes, self.shrinkage)
