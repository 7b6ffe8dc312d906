"""N-LEEP: LEEP with the components of a Gaussian mixture in place of source classes.

Source: Li et al. 2021, Ranking Neural Checkpoints.
"""

import math
import warnings

import numpy as np

from ckptbench import Candidate, Float


class NLEEP:
    """mean over i of log sum over z of P(y_i given z) theta_iz, theta the posteriors of a Gaussian mixture.

    F (N x D) is reduced to the fewest principal components that hold more than ``variance`` of its variance,
    and divided by the standard deviation of all numbers kept: the mixture adds an absolute 1e-6 to its
    covariances. A mixture of K Gaussians with full covariances is fitted there by EM (scikit-learn's, from
    k-means, seeded by the candidate); theta is N x K and P(y, z) = (1/N) sum over i of theta_iz [y_i = y].

    In [-log N, 0]. Cost: k principal components of the centred spectrum, then up to 100 rounds of EM of
    N K k^2 operations each: by far the dearest score here. For N < D there are fewer components to
    keep, nothing else changes. Features without variance put all examples into one Gaussian, and the score is
    minus the entropy of the labels.

    Invariant to label names and one common scale; to row order and rotation only up to where EM stops.

    Parameters
    ----------
    components : K, at most N; 5 for each class when not given, as in the paper. Public code differs:
        PACTran's takes max(min(C, N/5), N/10)
    variance : share of the variance that is kept
    log : False gives the mean prediction itself, as SFDA's code does
    """

    name = "n-leep"
    cheap = False
    paper = "Li et al. 2021, Ranking Neural Checkpoints"
    random = True
    components: int | None = None
    variance: float = 0.8
    log: bool = True
    scale: str = "raw"

    @property
    def bounds(self) -> tuple[float, float]:
        return (-math.inf, 0.0) if self.log else (0.0, 1.0)

    def score(self, candidate: Candidate) -> float:
        theta = self._posteriors(candidate)
        labels, counts = np.unique(candidate.classes, return_inverse=True, return_counts=True)[1:]
        joint = np.eye(len(counts))[labels].T @ theta
        mass = joint.sum(axis=0)
        given = joint / np.where(mass > 0, mass, 1.0)
        predicted = np.einsum("iz,iz->i", theta, given[labels])
        return float(np.mean(np.log(predicted) if self.log else predicted))

    def _posteriors(self, candidate: Candidate) -> Float:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        spectrum = candidate.centred
        if spectrum.rank == 0:
            return np.ones((spectrum.n, 1))
        share = np.cumsum(spectrum.sigma2) / spectrum.sigma2.sum()
        k = min(int(np.searchsorted(share, self.variance, side="right")) + 1, spectrum.rank)
        reduced = spectrum.combine(np.eye(len(spectrum.sigma2), k) * spectrum.sigma[:k])
        reduced /= reduced.std()
        components = self.components or 5 * len(np.unique(candidate.classes))
        mixture = GaussianMixture(
            min(components, spectrum.n), random_state=int(candidate.rng.integers(2**31))
        )
        with warnings.catch_warnings():
            # As published: EM stops after 100 rounds, converged or not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return mixture.fit(reduced).predict_proba(reduced)
