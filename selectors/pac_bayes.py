"""PACTran: PAC-Bayes bounds on the loss of a classifier, with a Gaussian, a Dirichlet and a Gamma prior.

Source: Ding et al. 2022, PACTran: PAC-Bayesian Metrics for Estimating the Transferability of Pretrained
Models to Classification Tasks.
"""

import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, logsumexp

from ckptbench import Candidate, Float, InputError


class PACTranGauss:
    """- min over Q of the PAC-Bayes bound E_Q L + KL(Q, P)/beta on the loss of a softmax classifier.

    L(W, b) is the mean cross-entropy of the logits x W + b on the centred features (N x D, C classes), the
    prior P = N(0, s0 I) on W (b is free) and Q = N(W*, s I). With L expanded to second order and the best s,

        score = - min over W, b of [L + |W|^2/(2 beta s0)] - C D/(2 beta) log(1 + beta s0 tr(H)/(C D)),

    H the Hessian of L in W: tr(H) = (1/N) sum over i of |x_i|^2 (1 - sum over c of p_ic^2). The paper's bound
    is lower for better models; ours is negated. beta s0 = ``ratio`` N and s0 = ``variance``/D.

    <= 0. Cost: the centred spectrum, and L-BFGS with N r C operations a step, r = min(N, D), in the basis of
    the principal components scaled by their curvature, until it has converged. N < D changes nothing. A
    class without examples is left out.

    Invariant to row order, label names, translation and rotation; not to scale.

    Parameters
    ----------
    ratio, variance : of the prior; the authors take ratios of 10, 1 and 0.1 with variances of 100 and of 10
        times the ratio
    reading : "paper" as above; "code" sums the Hessian over examples, where L is a mean, and counts that of b
    """

    name = "pactran-gauss"
    paper = "Ding et al. 2022, PACTran: PAC-Bayesian Metrics for Estimating the Transferability"
    published = "lower"
    bounds = (-math.inf, 0.0)
    readings = ("reading=code",)
    ratio: float = 1.0
    variance: float = 100.0
    reading: str = "paper"
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        if self.reading not in ("paper", "code"):
            raise InputError(f"pactran-gauss: reading={self.reading!r} is not known: paper or code")
        if self.ratio <= 0 or self.variance <= 0:
            raise InputError("pactran-gauss: ratio and variance have to be positive")
        spectrum = candidate.centred
        labels = np.unique(candidate.classes, return_inverse=True)[1]
        n, d, classes = spectrum.n, spectrum.d, labels.max() + 1
        penalty = 1.0 / (self.ratio * n)
        loss, p = _softmax_regression(candidate, labels, penalty)
        doubt = np.einsum("ic,ic->i", p, 1 - p)
        trace = spectrum.row_norm2 @ doubt
        trace = trace + doubt.sum() if self.reading == "code" else trace / n
        parameters = classes * d
        width = self.variance / d * parameters * penalty / 2
        return float(-loss - width * np.log1p(trace / (penalty * parameters)))


class _PACTranHead:
    published = "lower"
    needs = ("labels", "source_probs")
    paper = "Ding et al. 2022, PACTran: PAC-Bayesian Metrics for Estimating the Transferability"
    alpha: float = 1.0

    def bound(self, candidate: Candidate, gamma: bool) -> float:
        """N C times the bound, after ten rounds of its variational fixed point."""
        if self.alpha <= 0:
            raise InputError(f"{self.name}: alpha={self.alpha} is not positive")
        if candidate.source_probs is None:
            raise InputError(f"{self.name} needs source probabilities, found none")
        theta = np.asarray(candidate.source_probs, dtype=np.float64)
        present, labels = np.unique(candidate.classes, return_inverse=True)
        onehot = np.eye(len(present))[labels]
        prior = self.alpha * onehot.mean(axis=0)[:, None] + 1e-10
        log_theta, q = np.log(theta + 1e-10), theta
        for _ in range(10):
            a = prior + onehot.T @ q
            logits = log_theta + onehot @ digamma(a)
            if not gamma:
                logits -= digamma(a.sum(axis=0))
            log_q = logits - logsumexp(logits, axis=1, keepdims=True)
            q = np.exp(log_q)
        divergence = float((q * (log_q - log_theta)).sum())
        if gamma:
            rates = np.log(theta @ a.sum(axis=0))
            return float((gammaln(prior) - gammaln(a)).sum()) + divergence + float((rates - 1.0).sum())
        start = gammaln(prior.sum()) - gammaln(prior).sum()
        end = gammaln(a.sum(axis=0)) - gammaln(a).sum(axis=0)
        return divergence - float((start - end).sum())


class PACTranDirichlet(_PACTranHead):
    """- PAC-Bayes bound, per example and class, with a Dirichlet prior on P(y given z), z the source class.

    theta is N x C_s, the head's probabilities; a_yz = alpha n_y/N + sum over i with y_i = y of q_iz, and
    q_i is proportional to theta_iz exp(digamma(a_(y_i)z) - digamma(a_.z)), ten rounds from q = theta. The
    bound is

        [sum over i, z of q log(q/theta) - sum over z of (log B0 - log B_z)]/(N C),

    B0 and B_z the normalising constants of the prior's and of column z's Dirichlet. As the authors' code,
    negated: they have low for good. Unbounded. Cost: ten times N C_s C operations. Needs no features. A
    target class without examples is left out.

    Invariant to row order and to the names of target and source classes.

    Parameters
    ----------
    alpha : strength of the prior; the authors take 1
    """

    name = "pactran-dirichlet"

    def score(self, candidate: Candidate) -> float:
        n, classes = len(candidate.classes), len(np.unique(candidate.classes))
        return -self.bound(candidate, gamma=False) / (n * classes)


class PACTranGamma(_PACTranHead):
    """- PAC-Bayes bound with a Gamma prior on the rates of (y, z), z the source head's class.

    As ``pactran-dirichlet`` with independent Gamma(a_yz, 1) rates: q_i is proportional to
    theta_iz exp(digamma(a_(y_i)z)), and the bound is

        [sum over y, z of log(G(a0_y)/G(a_yz)) + sum over i, z of q log(q/theta)
         + sum over i of (log sum over z of theta_iz a_.z - 1)]/(N C) + 1,

    G the Gamma function, a0_y = alpha n_y/N. As the authors' code, negated. Unbounded. Cost, needs and
    invariances are those of ``pactran-dirichlet``.

    Parameters
    ----------
    alpha : strength of the prior; the authors take 1
    """

    name = "pactran-gamma"

    def score(self, candidate: Candidate) -> float:
        n, classes = len(candidate.classes), len(np.unique(candidate.classes))
        return -(self.bound(candidate, gamma=True) / (n * classes) + 1.0)


def _softmax_regression(candidate: Candidate, labels: Float, penalty: float) -> tuple[float, Float]:
    """Least mean cross-entropy + penalty/2 |W|^2 with a free intercept, and the N x C posteriors."""
    spectrum = candidate.centred
    n, classes, rank = spectrum.n, int(labels.max()) + 1, spectrum.rank
    sigma = spectrum.sigma[:rank]
    # The Hessian's diagonal is q sigma^2/N + penalty, q the mean of p (1 - p): about 1/C at the start and a
    # hundredth of that at the end. In units for a tenth it takes the fewest steps.
    q = 0.1 / classes
    unit = 1.0 / np.sqrt(q * sigma**2 / n + penalty)
    design = np.column_stack(
        [spectrum.combine(np.eye(len(spectrum.sigma2), rank) * (sigma * unit)), np.full(n, q**-0.5)]
    )
    decay = np.append(penalty * unit**2, 0.0)[:, None]

    def posterior(weights: Float) -> tuple[Float, float]:
        logits = design @ weights
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(n), labels]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1)
        logits /= total[:, None]
        return logits, float(np.mean(np.log(total) - own))

    def objective(flat: Float) -> tuple[float, Float]:
        weights = flat.reshape(-1, classes)
        p, loss = posterior(weights)
        p[np.arange(n), labels] -= 1.0
        shrunk = decay * weights
        return loss + 0.5 * np.vdot(shrunk, weights), (design.T @ p / n + shrunk).ravel()

    found = minimize(
        objective,
        np.zeros((rank + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "maxcor": 20, "gtol": 1e-8, "ftol": 0.0},
    )
    return float(found.fun), posterior(found.x.reshape(-1, classes))[0]
