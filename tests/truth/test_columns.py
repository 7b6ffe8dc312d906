"""Truth of several labels and of numbers: from a suite's TOML to its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, r2_score
from tests.helpers.tiny import SUITE, run_suite, write_suite

from ckptbench import InputError
from ckptbench.data.targets import load_target
from ckptbench.suites import FE, Data, load_suite
from ckptbench.truth.columns import column_probe

DATA = {"name": "digits", "per_class": 120, "test_per_class": 150, "size": 8}


@pytest.mark.parametrize(("task", "columns"), [("regression", 1), ("multilabel", 10)])
def test_a_sets_classes_are_read_as_labels_or_numbers(task: str, columns: int) -> None:
    target = load_target(Data.model_validate({**DATA, "task": task}), "digits")
    assert target.train.labels.shape == (120, columns)
    assert target.test.labels.shape == (150, columns)
    classes = load_target(Data.model_validate({**DATA, "per_class": 12, "test_per_class": 15}), "digits")
    assert target.digest != classes.digest
    with pytest.raises(ValueError, match="takes neither classes nor label_map"):
        Data.model_validate({**DATA, "task": task, "classes": 3})


def test_labels_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(8):
        path = tmp_path / "7" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    with pytest.raises(InputError, match="label '0' is the same on the train split"):
        load_target(Data.model_validate({"name": f"folder:{tmp_path}", "task": "regression"}), "ages")


def test_fe_of_columns_is_what_others_heads_give() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    noisy = x[:, :2] + rng.normal(size=(300, 2))
    train, test = slice(0, 200), slice(200, None)
    protocol = FE(name="fe", penalty=1e-2, scale="raw", sample=1.0)
    ones = (noisy > 0.5).astype(float)
    found = column_probe((x[train], ones[train]), (x[test], ones[test]), "multilabel", protocol, 0)
    expected = []
    for column in ones.T:
        head = LogisticRegression(C=2 / (200 * 1e-2), tol=1e-8, max_iter=1000).fit(x[train], column[train])
        expected.append(average_precision_score(column[test], head.decision_function(x[test])))
    assert found == pytest.approx(np.mean(expected), abs=1e-3)
    tuned = FE(name="fe", sample=1.0)
    found = column_probe((x[train], noisy[train]), (x[test], noisy[test]), "regression", tuned, 0)
    best = np.linalg.lstsq(np.c_[x[train], np.ones(200)], noisy[train], rcond=None)[0]
    assert found == pytest.approx(r2_score(noisy[test], np.c_[x[test], np.ones(100)] @ best), abs=0.02)
    with pytest.raises(InputError, match="'fe' is not defined for the task regression"):
        column_probe((x[train], noisy[train]), (x[test], noisy[test]), "regression", protocol, 0)


def test_a_suite_has_truth_of_both_and_scores_that_are_defined_on_them(tmp_path: Path) -> None:
    head, _, tail = SUITE.partition("[[targets]]")
    targets = "".join(
        f"""
[[targets]]
name = "{task}"
[targets.data]
name = "digits"
per_class = 80
test_per_class = 100
train_range = [0.5, 1.0]
size = 8
task = "{task}"
"""
        for task in ("regression", "multilabel")
    )
    rest = tail[tail.index("[[fe]]") :].replace("epochs = 2\nseeds = 2", "epochs = 10\nseeds = 1")
    suite = write_suite(tmp_path, head + targets + rest)
    assert load_suite(suite).digest != load_suite(write_suite(tmp_path, name="other")).digest
    run_suite(suite, tmp_path)
    truth = pd.read_csv(tmp_path / "results" / "tiny" / "truth.csv")
    assert (truth["status"] == "ok").all()
    assert (truth["row"] == -1).all()
    value = truth.groupby(["target", "goal"])["accuracy"].max()
    assert value["multilabel", "fe"] > 0.5  # of a tenth by guessing
    assert value["regression", "fe"] > 0.1
    assert value["multilabel", "ft"] > 0.12
    assert value["regression", "ft"] > -0.2  # the mean has 0
    scores = pd.read_csv(tmp_path / "results" / "tiny" / "scores.csv")
    status = scores.groupby("selector")["status"].unique().str.join("")
    assert status["logme"] == "ok"
    assert status["leep"] == "failed"
    assert scores.loc[scores["status"] == "failed", "message"].str.len().min() > 0
