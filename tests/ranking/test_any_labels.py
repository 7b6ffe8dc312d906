"""Several labels and numbers as targets: heads, metrics, guessing, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from ckptbench import InputError, rank
from ckptbench.agreement.certainty import guessing_p
from ckptbench.data.labels import read_labels
from ckptbench.numerics.linear import PENALTIES
from ckptbench.ranking.reading import read_source
from ckptbench.truth.crossval import COLUMN_METRICS, contributions, make_folds, predictions

SCORES = {"map": average_precision_score, "auroc": roc_auc_score, "r2": r2_score}


def drawn(metric: str, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Truth and predictions, some of them equal."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=n)
    predicted = np.round(truth + rng.normal(size=n), 1)
    return (truth if metric == "r2" else truth > 0.4), predicted


@pytest.mark.parametrize("metric", SCORES)
def test_contributions_have_the_metric_as_mean_and_its_derivative_as_deviation(metric: str) -> None:
    truth, predicted = drawn(metric)
    score, n = SCORES[metric], len(truth)
    found = COLUMN_METRICS[metric](predicted, truth)
    value = score(truth, predicted)
    assert found.mean() == pytest.approx(value)
    for i in range(0, n, 7):  # more weight on one example
        weights = np.full(n, (1 - 1e-6) / n)
        weights[i] += 1e-6
        slope = (score(truth, predicted, sample_weight=weights) - value) / 1e-6
        assert found[i] - found.mean() == pytest.approx(slope, abs=1e-4, rel=1e-3)


def test_metrics_of_columns_and_repeats_are_averaged() -> None:
    parts = [drawn("map"), drawn("map", 40)]
    labels = np.column_stack([truth for truth, _ in parts]).astype(float)
    predicted = np.stack([np.column_stack([p for _, p in parts])] * 2)
    each = contributions(predicted, labels, "map")
    assert each.mean() == pytest.approx(np.mean([average_precision_score(t, p) for t, p in parts]))


def test_ridge_out_of_fold_is_ridge_fitted_without_the_fold() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5))
    labels = features[:, :2] + 0.3 * rng.normal(size=(40, 2))
    folds = make_folds(labels, None, "a")
    found = predictions(features, labels, "regression", 2, folds)
    x = StandardScaler().fit_transform(features)
    held = folds[1] == 2
    inside, y = x[~held], labels[~held]
    centred, mean = inside - inside.mean(axis=0), y.mean(axis=0)
    largest = np.linalg.norm(centred, 2) ** 2

    def fit(rows: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
        return np.linalg.solve(rows.T @ rows + penalty * largest * np.eye(5), rows.T @ targets)

    def left_out(penalty: float) -> float:
        lost = 0.0
        for i in range(len(inside)):
            others = np.arange(len(inside)) != i
            shift, level = inside[others].mean(axis=0), y[others].mean(axis=0)
            weights = fit(inside[others] - shift, y[others] - level, penalty)
            lost += float(np.square(y[i] - level - (inside[i] - shift) @ weights).sum())
        return lost

    best = min(PENALTIES, key=left_out)
    expected = mean + (x[held] - inside.mean(axis=0)) @ fit(centred, y - mean, best)
    np.testing.assert_allclose(found[1, held], expected, atol=1e-8)


def test_guessing_of_numbers_is_seen() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(50, 4))
    told = features[:, :1] + 0.5 * rng.normal(size=(50, 1))
    assert guessing_p([features], told, permutations=99) == pytest.approx(0.01)
    p = [guessing_p([features], rng.normal(size=(50, 2)), permutations=99, seed=i) for i in range(12)]
    assert 0.2 < np.mean(p) < 0.8
    groups = np.repeat(np.arange(10), 5)  # numbers of groups: nothing is told inside of one
    shared = np.repeat(rng.normal(size=(10, 1)), 5, axis=0)
    assert (
        guessing_p([np.repeat(rng.normal(size=(10, 9)), 5, axis=0)], shared, groups, permutations=99) > 0.05
    )


def test_rank_answers_for_several_labels_and_for_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(80, 2))
    wide = np.pad(truth, ((0, 0), (0, 4)))
    features = [rng.normal(size=(80, 6)) + share * wide for share in (0.2, 1.5)]
    options = {"store": tmp_path, "workers": 1}
    found = rank(features, data=truth, task="regression", **options)
    assert found.pick.epoch == 1
    assert found.facts["metric"] == "r2"
    assert "always answering the mean gives 0.0 %" in found.verdict["Expect"]
    sets = truth > 0.3
    names = [";".join(np.array(["left", "right"])[row]) for row in sets]
    by_name = rank(features, data=names, task="multilabel", **options)
    by_matrix = rank(features, data=sets, task="multilabel", **options)
    assert by_name.pick.epoch == 1
    np.testing.assert_allclose(by_name.measured, by_matrix.measured)
    assert f"left {sets[:, 0].sum()}" in by_name.used["data"]
    with pytest.raises(InputError, match="the metric of regression can be r2, not auroc"):
        rank(features, data=truth, task="regression", metric="auroc", **options)
    with pytest.raises(InputError, match="task='multilabel' and task='regression' take N x K"):
        rank(features, data=truth, **options)


def test_a_label_that_hardly_anybody_has_is_said_and_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((60, 3)) < [0.4, 0.5, 0.05]
    features = rng.normal(size=(60, 4)) + labels[:, :1]
    found = rank([features], data=labels, task="multilabel", store=tmp_path, workers=1)
    assert "fewer than 10 examples with it, or without: 2." in found.verdict["Note"]
    with pytest.raises(InputError, match="no column of the labels can be measured"):
        rank([features], data=np.ones((60, 1)), task="regression", store=tmp_path, workers=1)


def test_a_budget_measures_those_that_a_cheap_score_puts_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = [rng.normal(size=(60, 5)) + share * labels[:, None] for share in (0, 2, 0.3, 0.1, 0.5)]
    found = rank(features, data=labels, budget=0.001, store=tmp_path, workers=1)
    assert found.table["measured"].notna().sum() == 2
    assert found.pick.epoch == 1
    assert found.table["ridge-loo"].notna().all()
    assert "nothing is claimed of the other 3" in found.verdict["Measured"]
    whole = rank(features, data=labels, budget="1h", store=tmp_path, workers=1)
    assert whole.table["measured"].notna().all()


@pytest.mark.parametrize(
    ("task", "labels", "columns"),
    [
        ("multilabel", ["a;b", "", "b"], [[1, 1], [0, 0], [0, 1]]),
        ("multilabel", [["b"], ["a", "b"], []], [[0, 1], [1, 1], [0, 0]]),
        ("multilabel", [[1, 0], [0, 0], [1, 1]], [[1, 0], [0, 0], [1, 1]]),
        ("regression", ["0.5", "1", "2"], [[0.5], [1], [2]]),
        ("regression", [[0.5, 1], [2, 3], [4, 5]], [[0.5, 1], [2, 3], [4, 5]]),
    ],
)
def test_labels_are_read(task: str, labels: list, columns: list) -> None:
    np.testing.assert_array_equal(read_labels(labels, task)[1], columns)


@pytest.mark.parametrize(
    ("task", "labels", "sentence"),
    [
        ("multilabel", np.array([[0, 2]]), "should be 0 or 1"),
        ("multilabel", ["", ""], "no example has a label"),
        ("regression", ["a", "1"], "should be numbers"),
        ("regression", [1.0, np.nan], "finite numbers"),
    ],
)
def test_labels_that_do_not_fit_are_a_sentence(task: str, labels: list, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_labels(labels, task)


def test_items_of_a_data_set_may_be_mappings() -> None:
    image = Image.new("RGB", (8, 8))
    found = read_source([{"image": image, "label": 3}, {"image": image, "label": 4}], None)
    assert found.found.classes == ("3", "4")
    with pytest.raises(InputError, match=r"item 0 .* is neither \(image, label\) nor a mapping"):
        read_source([{"pixels": image, "label": 3}], None)


def test_tables_of_paths_and_of_texts_hold_them(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = pd.DataFrame({"path": ["a.png"] * 3, "label": ["0.1", "0.2", "0.3"], "who": ["x", "x", "y"]})
    table.to_csv(tmp_path / "a.csv", index=False)
    found = read_source(tmp_path / "a.csv", "who", (), "regression")
    np.testing.assert_array_equal(found.columns, [[0.1], [0.2], [0.3]])
    texts = read_source(pd.DataFrame({"text": ["good", "bad"], "label": ["+", "-"]}), None)
    assert texts.found.train.texts == ["good", "bad"]
    with pytest.raises(InputError, match="the data are texts"):
        texts.found.train.image(0)
    with pytest.raises(InputError, match="has one class for each example"):
        read_source(tmp_path, None, (), "regression")
