"""Repeated cross-validation of a linear probe: each example is predicted by heads that never saw it.

For classes the head is the suites' default FE protocol, L2-penalised softmax regression on standardised
features; of several labels each has one of its own. Its penalty is tuned inside the training folds: for
test fold f, by the log-loss of the heads fitted without folds f and f + 1 (tested on f + 1) and without f - 1
and f (tested on f - 1). Each of those heads serves two test folds, and all folds and repeats are fitted in
one solve. For numbers the head is ridge regression, its penalty that of least leave-one-out error on the
training folds.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import rankdata

from ckptbench import numerics
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.sampling import stratified_folds
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.types import Array, Cell, Float, Key, Metric, Task
from ckptbench.numerics.features import standardise
from ckptbench.numerics.linear import PENALTIES, leave_one_out, ridge_predictions
from ckptbench.numerics.softmax import fit_softmax
from ckptbench.numerics.spectrum import Spectrum
from ckptbench.suites import FE

FOLDS = 5
TOGETHER = 3  # penalties fitted at once, from the strongest on
Folds = NDArray[np.int64]


def make_folds(labels: Array, groups: Array | None, name: str, repeats: int = 2) -> Folds:
    """The fold of each example in each repeat: repeats x N, stratified; a group is never split.

    Of several labels each example's rarest is stratified; numbers are not.

    Raises
    ------
    InputError
        If there are fewer than 3 examples or groups to put into folds.
    """
    units = len(labels) if groups is None else len(np.unique(groups))
    folds = min(FOLDS, units)
    if folds < 3:
        what = "examples" if groups is None else "groups"
        raise InputError(f"cross-validation needs at least 3 {what}, found {units}")
    if labels.ndim == 2:
        is_set = np.isin(labels, (0, 1)).all()
        rarest = np.where(labels > 0, labels.sum(axis=0), np.inf).argmin(axis=1)
        labels = np.where(labels.any(axis=1), rarest + 1, 0) if is_set else np.zeros(len(labels), np.int64)
    made = np.empty((repeats, len(labels)), np.int64)
    for repeat in range(repeats):
        seed = derive_seed(name, "folds", repeat)
        if groups is None:
            made[repeat] = stratified_folds(labels, folds, np.random.default_rng(seed))
            continue
        from sklearn.model_selection import StratifiedGroupKFold

        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
        for fold, (_, held) in enumerate(splitter.split(labels, labels, groups)):
            made[repeat, held] = fold
    return made


def predictions(features: Array, labels: Array, task: Task, n_classes: int, folds: Folds) -> Float:
    """Predictions of each example by heads that were fitted without its fold.

    Returns
    -------
    repeats x N x C logits of the classes; of several labels repeats x N x K log-odds, and of numbers
    repeats x N x K of these.
    """
    if task == "classification":
        return out_of_fold(features, labels, n_classes, folds)
    if task == "regression":
        return _ridge_out_of_fold(features, labels, folds)
    parts = [out_of_fold(features, column.astype(np.int64), 2, folds) for column in labels.T]
    return np.stack([part[..., 1] - part[..., 0] for part in parts], axis=2)


def _ridge_out_of_fold(features: Array, labels: Array, folds: Folds) -> Float:
    x = standardise(features)[0]
    predicted = np.empty((len(folds), *labels.shape))
    for repeat, fold in enumerate(folds):
        for number in range(int(fold.max()) + 1):
            held = fold == number
            predicted[repeat, held] = ridge_heads(x[~held], labels[~held], x[held])
    return predicted


def ridge_heads(features: Float, labels: Array, rows: Float) -> Float:
    """What ridge regression on features (N x D) with labels (N x K) says of other rows (M x D): M x K."""
    spectrum = Spectrum(features, labels, centred=True)
    best = int(np.searchsorted(PENALTIES, leave_one_out(spectrum).penalty))
    return ridge_predictions(spectrum, rows)[:, best]


def out_of_fold(
    features: Array, labels: Array, n_classes: int, folds: Folds, grid: Sequence[float] | None = None
) -> Float:
    """Logits of each example under heads that were fitted without its fold: repeats x N x C.

    Parameters
    ----------
    features : N x D
    labels : N integers in 0..n_classes-1
    folds : repeats x N, at least 3 folds
    grid : penalties to choose from; the FE protocol's by default
    """
    x = standardise(features)[0]
    repeats, n = folds.shape
    count = int(folds.max()) + 1
    number = np.arange(count)
    following = (number + 1) % count
    inner = (folds[:, None] != number[:, None]) & (folds[:, None] != following[:, None])
    inner = inner.reshape(-1, n)
    # Whom a head validates: the rows of its two missing folds, each for the other one's tuning.
    ahead = (folds[:, None] == following[:, None]).reshape(-1, n)
    behind = (folds[:, None] == number[:, None]).reshape(-1, n)
    before = np.roll(np.arange(repeats * count).reshape(repeats, count), 1, axis=1).ravel()
    penalties = np.sort(np.asarray(FE.model_fields["grid"].default if grid is None else grid))[::-1]
    losses = np.empty((0, repeats * count, n))
    for start in range(0, len(penalties), TOGETHER):
        some = penalties[start : start + TOGETHER]
        each = np.repeat(some, len(inner))
        heads = fit_softmax(x, labels, n_classes, each, weights=np.tile(inner, (len(some), 1)), tol=1e-4)
        own = np.stack(
            [
                -log_softmax(x @ coef.T + intercept, axis=1)[np.arange(n), labels]
                for coef, intercept in zip(heads.coef, heads.intercept, strict=True)
            ]
        ).reshape(len(some), len(inner), n)
        # Per test fold (row): the loss of each row of its two validation folds, 0 elsewhere.
        tuned = own * ahead + own[:, before] * behind[before]
        losses = np.concatenate([losses, tuned])
        best = losses.sum(axis=2).argmin(axis=0)
        if all(_exceeds(losses[-1, f], losses[best[f], f], inner[f]) for f in range(len(best))):
            break
    chosen = penalties[losses.sum(axis=2).argmin(axis=0)]
    heads = fit_softmax(x, labels, n_classes, chosen, weights=~behind)
    logits = np.empty((repeats, n, n_classes))
    for h, held in enumerate(behind):
        logits[h // count, held] = x[held] @ heads.coef[h].T + heads.intercept[h]
    return logits


def _exceeds(losses: Float, others: Float, trained: NDArray[np.bool_]) -> bool:
    """Whether the first loss is larger by more than a standard error of the paired differences."""
    difference = (losses - others)[~trained]
    return bool(difference.mean() > difference.std() / np.sqrt(len(difference)))


def contributions(predicted: Float, labels: Array, metric: Metric) -> Float:
    """What each example adds to a metric: N numbers whose mean is the metric, averaged over repeats.

    Their deviations from it are the metric's influence function, so that the mean of a bootstrap sample of
    them varies as the metric does: for AUROC that is DeLong, DeLong and Clarke-Pearson 1988, with one class
    against the others averaged over the classes where there are more than two.

    Parameters
    ----------
    predicted : repeats x N x C (or K), as ``predictions`` gives them
    labels : N classes, or N x K
    """
    if labels.ndim == 2:
        of_column = COLUMN_METRICS[metric]
        truth = labels if metric == "r2" else labels > 0
        parts = [of_column(p[:, k], truth[:, k]) for p in predicted for k in range(labels.shape[1])]
        return np.asarray(np.mean(parts, axis=0))
    classes, counts = np.unique(labels, return_counts=True)
    n = len(labels)
    if metric == "auroc":
        probabilities = np.exp(log_softmax(predicted, axis=2))
        judged = classes[-1:] if len(classes) == 2 else classes
        parts = [_auroc(p[:, c], labels == c) for p in probabilities for c in judged]
        return np.asarray(np.mean(parts, axis=0))
    correct = (predicted.argmax(axis=2) == labels).mean(axis=0)
    if metric == "accuracy":
        return np.asarray(correct)
    result = np.zeros(n)
    recalls = np.array([correct[labels == c].mean() for c in classes])
    for recall, c, count in zip(recalls, classes, counts, strict=True):
        own = labels == c
        result[own] = recalls.mean() + (correct[own] - recall) * n / (len(classes) * count)
    return result


def _auroc(scores: Float, positive: NDArray[np.bool_]) -> Float:
    """Contributions to the AUROC: placements among the others, a tie counting half."""
    n, ones = len(scores), int(positive.sum())
    zeros = n - ones
    ranks = rankdata(scores)
    placed = np.empty(n)
    placed[positive] = (ranks[positive] - rankdata(scores[positive])) / zeros
    placed[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / ones
    area = placed[positive].mean()
    weight = np.where(positive, n / ones, n / zeros)
    return np.asarray(area + weight * (placed - area))


def _average_precision(scores: Float, positive: NDArray[np.bool_]) -> Float:
    """Contributions to the average precision: the mean, over the positives, of the precision down to each.

    With p(s) and q(s) the shares of positives and of all examples at s or above and h = p/q, it is
    E[h(S) | Y = 1]; its derivative in the distribution is
    Y_j (h_j - AP) + E[Y_i 1(S_i <= S_j) (Y_j - h_i)/q_i], over P(Y = 1).
    """
    n, share = len(scores), positive.mean()
    group = np.unique(-scores, return_inverse=True)[1]  # of equal scores, the highest first
    ones = np.bincount(group, positive)
    q = np.bincount(group).cumsum() / n
    h = ones.cumsum() / n / q

    def from_here(values: Float) -> Float:
        return np.asarray(values[::-1].cumsum()[::-1][group] / n)

    area = (ones * h).sum() / (n * share)
    rest = positive * from_here(ones / q) - from_here(ones * h / q)
    return np.asarray(area + (positive * (h[group] - area) + rest) / share)


def _explained(predicted: Float, truth: Float) -> Float:
    """Contributions to R2, the share of the variance that predictions explain: a ratio's linearisation."""
    lost, all_ = (predicted - truth) ** 2, (truth - truth.mean()) ** 2
    share = lost.mean() / all_.mean()
    return np.asarray(1 - share - (lost - share * all_) / all_.mean())


COLUMN_METRICS: dict[Metric, Callable[[Float, Array], Float]] = {
    "map": _average_precision,
    "auroc": _auroc,
    "r2": _explained,
}


@dataclass(frozen=True, kw_only=True)
class ProbeTask(CellTask):
    """The cross-validated probe of one checkpoint on the examples that the features are of."""

    label: str
    features: Key
    labels: Array
    task: Task = "classification"
    n_classes: int
    folds: Folds
    metric: Metric

    @property
    def name(self) -> str:
        return f"probe {self.label}"

    @property
    def key(self) -> Key:
        return {
            "what": "cv-probe/2",
            "task": self.task,
            "features": self.features,
            "labels": hashlib.sha256(self.labels.tobytes()).hexdigest()[:16],
            "folds": hashlib.sha256(self.folds.tobytes()).hexdigest()[:16],
            "metric": self.metric,
            "numerics": numerics.VERSION,
        }

    def cell_keys(self) -> list[Key]:
        return [self.key]

    def lock_key(self) -> Key:
        return self.key

    def compute(self, store: Store, missing: Sequence[Key]) -> list[Cell]:
        began = time.perf_counter()
        features = store.read_features(self.features, verify=False)
        if features is None:
            raise InputError(f"features of {self.label} are missing from the store: run it again")
        predicted = predictions(features, self.labels, self.task, self.n_classes, self.folds)
        each = contributions(predicted, self.labels, self.metric)
        extra = {"contributions": base64.b64encode(each.astype("<f4").tobytes()).decode()}
        seconds = time.perf_counter() - began
        return [Cell(self.key, "ok", float(each.mean()), "", seconds, extra)]


def read_contributions(cell: Cell) -> Float:
    """The N contributions that a cell of ``ProbeTask`` holds."""
    return np.frombuffer(base64.b64decode(cell.extra["contributions"]), "<f4").astype(np.float64)
