"""Validation cells: measured on folds of the train split alone, kept as a table, counted before they run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import run_suite, write_suite

from ckptbench.base.store import Store
from ckptbench.pipeline import stages
from ckptbench.pipeline.forecast import COUNTS, forecast
from ckptbench.pipeline.provenance import collect
from ckptbench.results import Results
from ckptbench.suites import FT
from ckptbench.truth.tasks import unpack
from ckptbench.truth.validation import FT_FOLDS, fold_of, lengths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("validated")
    return folder, run_suite(write_suite(folder), folder, upto="validate")


def test_folds_share_out_every_class_and_hang_on_the_target_alone() -> None:
    labels = np.repeat([0, 1, 2], [9, 6, 4])
    folds = fold_of(labels, "digits")
    assert np.array_equal(folds, fold_of(labels, "digits"))
    assert not np.array_equal(folds, fold_of(labels, "letters"))
    for c in range(3):
        counts = np.bincount(folds[labels == c], minlength=FT_FOLDS)
        assert counts.max() - counts.min() <= 1


def test_fine_tunings_are_a_third_and_the_whole_of_the_suites() -> None:
    training = {"lr": 0.1}
    long = lengths(FT(name="ft", iterations=150, training=training))
    assert [(one.iterations, one.epochs, one.name) for one in long] == [
        (50, None, "50 iterations"), (150, None, "150 iterations")
    ]  # fmt: skip
    assert [one.epochs for one in lengths(FT(name="ft", epochs=2, training=training))] == [1, 2]
    assert [one.name for one in lengths(FT(name="ft", epochs=1, training=training))] == ["1 epoch"]


def test_cells_are_of_the_train_split_and_their_accuracies_of_what_a_fold_holds(run) -> None:
    _, plan = run
    target = plan.targets["digits"]
    folds = fold_of(target.train.labels, "digits")
    store = Store(plan.store.root)
    tasks = stages.tuning_folds(plan)
    assert {task.fold for task in tasks} == set(range(FT_FOLDS))
    for task in tasks:
        cell = store.read_cell(task.cell_keys()[0])
        assert cell.status == "ok"
        held = int((folds == task.fold).sum())
        assert cell.extra["test_examples"] == held
        assert unpack(cell.extra["correct"], held).mean() == pytest.approx(cell.value)
    for task in stages.probe_folds(plan):
        assert len(task.labels) == len(target.train)
        assert store.read_cell(task.key).status == "ok"


def test_the_test_split_is_never_looked_at(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning is given other images for a test split and gives the same accuracy."""
    _, plan = run
    task = stages.tuning_folds(plan)[0]
    import torch

    images = torch.arange(12 * 3 * 4 * 4, dtype=torch.uint8).reshape(12, 3, 4, 4)
    labels = torch.arange(12) % 2
    train, known, test, truth = task.examples(images, labels, images[:1] * 0, labels[:1])
    assert len(train) + len(test) == 12
    assert len(known) == len(train)
    assert len(truth) == len(test)
    assert not set(map(bytes, train.flatten(1).numpy())) & set(map(bytes, test.flatten(1).numpy()))


def test_the_table_and_the_second_run(run) -> None:
    folder, plan = run
    results = Results.read(folder / "results" / plan.suite.name)
    table = results.validation
    assert table is not None
    counts = table.groupby(["goal", "protocol"]).size().to_dict()
    assert counts == {("fe", "probe"): 4, ("ft", "1 epoch"): 12, ("ft", "2 epochs"): 12}
    assert (table["status"] == "ok").all()
    assert (table["seconds"] > 0).all()
    assert not [task for task in stages.tasks(plan, "validate") if task.missing(plan.store)]
    assert any(done.stage == "validation" for done in results.provenance.computed)


def test_what_is_not_validated_has_no_table_and_is_counted_when_asked(tmp_path: Path) -> None:
    plan = run_suite(write_suite(tmp_path), tmp_path, upto="extract")
    assert collect(plan).validation is None
    assert "validation" not in set(forecast(plan)["stage"])
    table = forecast(plan, validation=True).set_index("what")
    assert set(table["stage"]) == {"pretrain", "extract", "validation"}
    assert table.loc[["probe", "1 epoch", "2 epochs"], COUNTS].to_numpy().tolist() == [
        [4, 0, 4], [12, 0, 12], [12, 0, 12]
    ]  # fmt: skip
