"""The cross-validated probe: out of fold, penalty tuned inside, metrics that are means of contributions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from ckptbench import InputError
from ckptbench.numerics.features import standardise
from ckptbench.truth.crossval import contributions, make_folds, out_of_fold

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [30, 20, 10])
FEATURES = RNG.normal(size=(60, 8)) + 0.8 * np.eye(3, 8)[LABELS]


def test_logits_are_those_of_heads_that_never_saw_the_fold() -> None:
    """With one penalty to choose from, against scikit-learn fold by fold."""
    folds = make_folds(LABELS, None, "x")
    logits = out_of_fold(FEATURES, LABELS, 3, folds, [0.1])
    x = standardise(FEATURES)[0]
    for repeat, fold in np.ndindex(2, 5):
        held = folds[repeat] == fold
        # scikit-learn's penalty is |W|^2/(2C) on the sum of the losses.
        other = LogisticRegression(C=1 / (0.1 * (~held).sum()), tol=1e-8, max_iter=5000)
        expected = other.fit(x[~held], LABELS[~held]).decision_function(x[held])
        np.testing.assert_allclose(logits[repeat, held], expected, atol=2e-4)


def test_the_penalty_is_chosen_without_the_test_fold() -> None:
    """Other labels in one fold change nothing that is said of that fold."""
    folds = make_folds(LABELS, None, "x")[:1]
    other = LABELS.copy()
    held = folds[0] == 2
    other[held] = RNG.permutation(other[held])
    grid = [1e-3, 1e-1, 10.0]
    one, two = (out_of_fold(FEATURES, labels, 3, folds, grid) for labels in (LABELS, other))
    np.testing.assert_allclose(one[0, held], two[0, held], atol=1e-9)
    assert not np.allclose(one[0, ~held], two[0, ~held], atol=1e-3)


def test_metrics_are_means_of_contributions() -> None:
    logits = RNG.normal(size=(2, 60, 3)) + np.eye(3)[LABELS]
    shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    predicted = logits.argmax(axis=2)
    expected = {
        "accuracy": np.mean(predicted == LABELS),
        "balanced": np.mean([balanced_accuracy_score(LABELS, row) for row in predicted]),
        "auroc": np.mean([roc_auc_score(LABELS, row, multi_class="ovr") for row in shares]),
    }
    for metric, value in expected.items():
        assert contributions(logits, LABELS, metric).mean() == pytest.approx(value, abs=1e-12)
    two = contributions(logits[:1, :50, :2], LABELS[:50], "auroc")
    assert two.mean() == pytest.approx(roc_auc_score(LABELS[:50], logits[0, :50, 1] - logits[0, :50, 0]))


def test_the_spread_of_contributions_is_that_of_the_metric() -> None:
    """Over new samples, the standard error from one sample's contributions is the metric's deviation."""
    found: dict[str, list[tuple[float, float]]] = {"balanced": [], "auroc": []}
    for _ in range(300):
        labels = (RNG.random(80) < 0.3).astype(int)
        score = RNG.normal(size=80) + labels
        logits = np.stack([np.zeros(80), score - 0.5], axis=1)[None]
        for metric, rows in found.items():
            each = contributions(logits, labels, metric)
            rows.append((each.mean(), each.std() / np.sqrt(80)))
    for rows in found.values():
        values, errors = np.array(rows).T
        assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_folds_are_stratified_and_never_split_a_group() -> None:
    folds = make_folds(LABELS, None, "x")
    assert folds.shape == (2, 60)
    assert (folds[0] != folds[1]).any()
    for fold in range(5):
        assert np.bincount(LABELS[folds[0] == fold]).tolist() == [6, 4, 2]
    groups = np.arange(60) % 7
    for row in make_folds(LABELS, groups, "x"):
        assert all(len(np.unique(row[groups == group])) == 1 for group in range(7))
    with pytest.raises(InputError, match="at least 3 groups, found 2"):
        make_folds(LABELS, np.arange(60) % 2, "x")
