"""Cross-validated accuracy of the suites' default FE protocol: what a cheaper score has to beat."""

import numpy as np

from ckptbench import FE, Candidate, InputError, fit_softmax, stratified_folds


class ProbeCV:
    """Accuracy of L2-penalised softmax regression on the examples of the fold it was not fitted on.

    max over penalties of 1/N sum_i [argmax_c of the head fitted without i's fold = y_i], on features
    standardised over all rows, as the default FE protocol has them: hence no parameter ``scale``. Folds are
    stratified and seeded by the target. All folds and penalties are fitted together, as heads that differ
    in their row weights. In [0, 1]; the best of nine penalties is a little optimistic, for every checkpoint.

    Cost: one eigenproblem of side min(N, D), then folds x penalties heads of 2 N D C operations a step, some
    ten to some hundred steps. Invariant to shift and scale of each feature.

    Parameters
    ----------
    folds : from 2 to N
    penalty : ``tuned`` over the FE protocol's grid, or a number
    """

    name = "probe-cv"
    bounds = (0.0, 1.0)
    random = True
    cheap = False
    folds: int = 5
    penalty: str = "tuned"

    def score(self, candidate: Candidate) -> float:
        y, X = candidate.classes, candidate.standardised.matrix
        if not 2 <= self.folds <= len(y):
            raise InputError(f"probe-cv: folds={self.folds} is not between 2 and {len(y)}, the examples")
        penalties = self._penalties()
        fold = stratified_folds(y, self.folds, candidate.rng)
        weights = np.repeat(fold != np.arange(self.folds)[:, None], len(penalties), axis=0)
        heads = fit_softmax(
            X, y, max(2, candidate.n_classes), np.tile(penalties, self.folds), weights=weights
        )
        right = np.zeros(len(penalties))
        for h, (coef, intercept) in enumerate(zip(heads.coef, heads.intercept, strict=True)):
            held = ~weights[h]
            predicted = np.argmax(X[held] @ coef.T + intercept, axis=1)
            right[h % len(penalties)] += np.sum(predicted == y[held])
        return float(right.max() / len(y))

    def _penalties(self) -> tuple[float, ...]:
        if self.penalty == "tuned":
            return FE(name="default").grid
        try:
            return (float(self.penalty),)
        except ValueError:
            raise InputError(f"probe-cv: penalty={self.penalty!r} is neither tuned nor a number") from None
