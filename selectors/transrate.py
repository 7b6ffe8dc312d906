"""TransRate: how many more nats it takes to code the features than to code them class by class.

Source: Huang et al. 2022, Frustratingly Easy Transferability Estimation.
"""

import math

import numpy as np

from ckptbench import Candidate, Float, InputError


class TransRate:
    """R(F) - sum over classes c of (n_c/N) R(F_c), with R(Z) = 1/2 log det(I + Z'Z/(n eps)), F centred.

    F is N x D, F_c its n_c rows of class c, centred by the mean of all rows. At least 0, since log det is
    concave (with equal weights there is no bound). Cost: the centred spectrum of F for R(F), and one
    determinant of size min(n_c, D) for each class. For N < D the missing singular values are zero and add
    nothing. A class without examples is left out.

    Invariant to row order, label names and rotation; not to scale, because of eps.

    Parameters
    ----------
    eps : the distortion at which the features are coded
    weights : "size" as above; "equal" takes the plain mean over classes, as some public code does
    normalise : divide the centred F by its Frobenius norm first, as other public code does
    """

    name = "transrate"
    bounds = (0.0, math.inf)
    paper = "Huang et al. 2022, Frustratingly Easy Transferability Estimation"
    eps: float = 1e-4
    weights: str = "size"
    normalise: bool = False
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        if self.weights not in ("size", "equal"):
            raise InputError(f"transrate: weights={self.weights!r} is not known: size or equal")
        spectrum = candidate.centred
        energy = spectrum.sigma2[: spectrum.rank].sum() if self.normalise else 1.0
        inverse = 1.0 / (self.eps * energy) if energy > 0 else 0.0
        rounding = max(spectrum.n, spectrum.d) * np.finfo(float).eps * spectrum.sigma2[0]
        classes, counts = np.unique(candidate.classes, return_counts=True)
        weights = counts / counts.sum() if self.weights == "size" else np.full(len(counts), 1 / len(counts))
        within = 0.0
        for label, count, weight in zip(classes, counts, weights, strict=True):
            rows = candidate.features[candidate.classes == label] - spectrum.mean
            gram = rows @ rows.T if count < spectrum.d else rows.T @ rows
            within += weight * _rate(gram * (inverse / count), rounding * inverse / count)
        return float(0.5 * np.log1p(spectrum.sigma2[: spectrum.rank] * inverse / spectrum.n).sum() - within)


def _rate(gram: Float, rounding: float) -> float:
    """1/2 log det(I + G); where G's rounding error would count, eigenvalues below it are taken for zero."""
    if rounding < 1e-5:
        return 0.5 * float(np.linalg.slogdet(np.eye(len(gram)) + gram)[1])
    values = np.linalg.eigvalsh(gram)
    return 0.5 * float(np.log1p(values[values > rounding]).sum())
