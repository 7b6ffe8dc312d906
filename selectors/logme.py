"""LogME: the maximum log evidence of a Bayesian linear model of the labels."""

import warnings

import numpy as np

from ckptbench import Candidate, Float, InputError, Spectrum, log_evidence


class LogME:
    """Mean over the label columns of the maximum log evidence per example.

    The model is y_c = F w + noise with w ~ N(0, I/alpha), noise ~ N(0, I/beta). With F = U diag(sigma) V',
    x = U'y_c, r = norm(y_c)^2 - norm(x)^2, t = alpha/beta and q(t) = sum x^2/(1 + sigma^2/t) + r,

        evidence = max over t of -[N log(2 pi q(t)/N) + sum log(1 + sigma^2/t) + N]/(2N),

    both limits of t included (``ckptbench.log_evidence`` has the search). F is N x D and not centred. Labels
    are classes (one-hot columns; a class that no example has is left out), or N x K real columns for
    regression and multi-label targets. With ``scale=std`` the labels are centred too, which profiles out an
    intercept. Features that are all zero are refused.

    At least the evidence of noise alone, -log(2 pi e norm(y_c)^2/N)/2; no bound above. Where the features
    explain a column exactly (rank N - 1 and standardised, say) rounding is what bounds the evidence, and it
    warns. Cost: one spectrum of F. For N < D the singular values past the rank are zero and add nothing.

    Invariant to row order, rotation and one common scale of the features, and to label names.

    Parameters
    ----------
    reading : "paper" as above; "code" is the authors' fixed point, at most 11 rounds from alpha = beta = 1.
        It stops below the maximum on noise and moves with the features' scale, and its log term stops at
        min(N, D) of the D dimensions, which for N < D is off by (D - N)/(2 N) log alpha
    """

    name = "logme"
    paper = "You et al. 2021, LogME: Practical Assessment of Pre-trained Models for Transfer Learning"
    readings = ("reading=code",)
    scale: str = "raw"
    reading: str = "paper"

    def score(self, candidate: Candidate) -> float:
        if self.reading not in ("paper", "code"):
            raise InputError(f"logme: reading={self.reading!r} is not known: paper or code")
        spectrum = candidate.centred if self.scale == "std" else candidate.spectrum
        if spectrum.rank == 0:
            raise InputError("logme: the features are all zero (or constant, once standardised)")
        if self.reading == "code":
            return float(np.mean(_fixed_point(spectrum)))
        evidence = log_evidence(
            spectrum.sigma2, spectrum.projections**2, spectrum.label_norm2, spectrum.n, spectrum.rank
        )
        if evidence.perfect.any():
            warnings.warn(
                "perfect fit: the features explain a label column exactly, and rounding bounds its evidence",
                stacklevel=2,
            )
        return float(evidence.value.mean())


def _fixed_point(spectrum: Spectrum) -> Float:
    """Of each column: alpha = g/(m + 1e-5), beta = (N - g)/(e + 1e-5) until t moves by less than 1e-3.

    g = sum sigma^2/(sigma^2 + t), m = sum sigma^2 x^2/(t + sigma^2)^2 and e = sum x^2/(1 + sigma^2/t)^2 + r;
    m and e stay what they were in the last round.
    """
    n, sigma2 = spectrum.n, spectrum.sigma2
    values = []
    for x2, norm2 in zip(spectrum.projections.T**2, spectrum.label_norm2, strict=True):
        if norm2 == 0:
            continue
        missing, t = max(norm2 - x2.sum(), 0.0), 1.0
        for _ in range(11):
            ratio = 1.0 / (sigma2 + t)
            g, m = sigma2 @ ratio, sigma2 @ (x2 * ratio**2)
            e = x2 @ (t * ratio) ** 2 + missing
            # N - g as a sum of positive terms: g comes close to N where N < D.
            rest = n - len(sigma2) + (t * ratio).sum()
            alpha, beta = g / (m + 1e-5), rest / (e + 1e-5)
            before, t = t, alpha / beta
            if abs(t - before) <= 1e-3 * before:
                break
        logs = np.log(alpha + beta * sigma2).sum() - spectrum.d * np.log(alpha)
        values.append(0.5 * (n * np.log(beta / (2 * np.pi)) - logs - beta * e - alpha * m) / n)
    return np.array(values)
