"""Papers' tables beside ours: changes with the whole of their noise, and verdicts of direction alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import edit, write_results

from ckptbench.base.errors import InputError
from ckptbench.pages.paper_table import (
    methods_table,
    paired_change,
    published_markdown,
    published_page,
    published_table,
)
from ckptbench.results import Results
from ckptbench.suites import FT, Published, Training

ROW = {"what": "FE", "values": [90.0, 80.0], "protocols": ["tuned", "raw"]}
QUOTED = {"paper": "A Paper, Table 1", "epochs": [5, 200], "ours": [2, 9], "rows": [ROW]}


def quoting(folder: Path, **published: object) -> Results:
    """The results of a folder, their suite quoting a paper."""
    results = Results.read(folder)
    quoted = {"published": Published.model_validate(QUOTED | published)}
    return replace(results, suite=results.suite.model_copy(update=quoted))


# ------------------------------------------------------------------------------ changes and their noise


def simulated(rng: np.random.Generator, share: float, noise: float) -> tuple[np.ndarray, ...]:
    """Correctness of two checkpoints, S x T each, whose true difference is 0.

    A training example moves the chance of being right of one of them; a seed draws ``share`` of one pool
    (a fresh training set of its own at 0), and the test examples are drawn once for both.
    """
    seeds, examples, pool = 5, 400, 200
    drawn = int((share or 0.8) * pool)
    influence = rng.normal(0, noise, pool)
    easy = rng.random(examples)
    correct = []
    for _ in range(seeds):
        own = rng.permutation(influence)[:drawn] if share else rng.normal(0, noise, drawn)
        level = rng.random(examples)
        correct.append((easy + 0.2 * level < 0.7, easy + 0.2 * rng.random(examples) < 0.7 + own.mean()))
    return tuple(np.array(side) for side in zip(*correct, strict=True))


@pytest.mark.parametrize(("share", "noise"), [(0.8, 0.25), (0.5, 0.25), (0.0, 0.25), (0.8, 0.0)])
def test_intervals_hold_what_fresh_training_sets_and_test_examples_would_give(
    share: float, noise: float
) -> None:
    rng = np.random.default_rng(3)
    held, naive = 0, 0
    for _ in range(300):
        before, after = simulated(rng, share, noise)
        accuracies = before.mean(axis=1), after.mean(axis=1)
        change = paired_change(*accuracies, share, (before, after))
        held += change.low <= 0 <= change.high
        alone = paired_change(*accuracies)
        naive += alone.low <= 0 <= alone.high
    assert held >= 0.93 * 300
    if share == 0.8 and noise:
        assert naive < 0.75 * 300  # what the spread of the seeds alone would say


def test_a_change_of_seeds_alone_is_students_paired_interval() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    before, after = rng.random(6), rng.random(6)
    interval = stats.ttest_rel(after, before).confidence_interval(0.95)
    change = paired_change(before, after)
    assert change == pytest.approx((float(np.mean(after - before)), interval.low, interval.high))
    # Draws of 80 % of one training set: 1/6 + 4 in the place of 1/6.
    wide = paired_change(before, after, 0.8)
    assert wide.high - wide.mean == pytest.approx((change.high - change.mean) * np.sqrt(25))
    one = paired_change(before[:1], after[:1])
    assert one.mean == after[0] - before[0]
    assert np.isnan(one.low)
    assert np.isnan(paired_change(before[:0], after[:0]).mean)


# --------------------------------------------------------------------------------------- a quoted table


def test_changes_are_paired_and_carry_overlap_and_test_examples(tmp_path: Path) -> None:
    write_results(tmp_path, targets=1, seeds=4)
    source = {"what": "source", "values": [70.0, 95.0]}
    results = quoting(tmp_path, rows=[ROW, source])
    table = published_table(results)
    truth = results.truth[results.truth["protocol"] == "tuned"]
    cells = [truth[truth["epoch"] == epoch].sort_values("seed") for epoch in (2, 9)]
    early, late = (100 * own["accuracy"].to_numpy() for own in cells)
    packed = results.correct["run0|target0"]
    correct = [np.unpackbits(packed[own["row"]], axis=1, count=803).astype(bool) for own in cells]
    row = table.iloc[0]
    assert row["paper 5"] == 90
    assert row["paper change"] == -10
    assert [row["ours 2"], row["ours 9"]] == pytest.approx([early.mean(), late.mean()])
    expected = paired_change(early / 100, late / 100, 0.8, (correct[0], correct[1]))
    assert [row["our change"], row["low"], row["high"]] == pytest.approx([100 * v for v in expected])
    seeds_alone = paired_change(early, late)
    assert row["high"] - row["low"] > 2 * (seeds_alone.high - seeds_alone.low)
    assert table["protocol"].tolist() == ["tuned", "raw", ""]
    assert table.iloc[2]["our change"] == pytest.approx(100 * 0.8 * 7 / 12)
    assert table.iloc[2]["verdict"] == "same direction"


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-0.3, "same direction"), (0.3, "other direction"), (0.0, "not resolved")]
)
def test_the_verdict_is_of_the_direction_alone(tmp_path: Path, shift: float, verdict: str) -> None:
    write_results(tmp_path, targets=1, seeds=4)

    def shifted(truth: pd.DataFrame) -> pd.DataFrame:
        last = truth["epoch"] == 9
        noise = np.where(truth["seed"] % 2 == 0, 0.01, -0.01) * last
        return truth.assign(accuracy=0.5 + noise + shift * last, row=-1)

    edit(tmp_path, "truth", shifted)
    results = quoting(tmp_path)
    assert published_table(results)["verdict"].tolist() == [verdict, verdict]


def test_a_missing_cell_leaves_a_blank(tmp_path: Path) -> None:
    write_results(tmp_path, targets=1)
    results = quoting(tmp_path, ours=[2, 77])
    table = published_table(results)
    assert table["ours 77"].isna().all()
    assert table["verdict"].tolist() == ["", ""]
    assert "nan" not in published_markdown(results)


def test_the_page_says_both_tables_and_each_change_with_its_interval(tmp_path: Path) -> None:
    write_results(tmp_path, targets=1, seeds=4)
    results = quoting(tmp_path)
    row = published_table(results).iloc[0]
    text = published_markdown(results)
    assert "A Paper, Table 1" in text
    assert "epoch 2 of ours beside its epoch 5; epoch 9 of ours beside its epoch 200" in text
    assert f"{row['our change']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})" in text
    assert "| source |" not in text  # one pair needs no names
    heads = [column.title for column in published_page(results).columns]
    assert heads[-3:] == ["paper change", "our change", "verdict"]


def test_a_suite_that_quotes_nobody_says_so(tmp_path: Path) -> None:
    write_results(tmp_path)
    with pytest.raises(InputError, match="quotes no paper"):
        published_table(Results.read(tmp_path))


# ---------------------------------------------------------------------------------------------- methods


def methods_results(folder: Path) -> Results:
    """Two methods at two rates; delta is 3 points below l2 for every seed, whatever seeds do."""
    training = Training(lr=0.01)
    named = [(f"ft-{m}-{r}", m, r) for m in ("l2", "delta") for r in (0.5, 1.0)]
    write_results(
        folder,
        targets=1,
        epochs=4,
        seeds=3,
        protocols=tuple((name, "ft") for name, *_ in named),
        selectors={},
    )
    luck = {0: -0.02, 1: 0.0, 2: 0.02}

    def paired(truth: pd.DataFrame) -> pd.DataFrame:
        lost = 0.03 * truth["protocol"].str.contains("delta") + 0.0004 * (truth["seed"] == 1)
        return truth.assign(accuracy=0.6 + truth["seed"].map(luck) - lost, row=-1)

    edit(folder, "truth", paired)
    ft = tuple(FT(name=n, epochs=1, training=training, rate=r, penalties=(m,)) for n, m, r in named)
    results = Results.read(folder)
    return replace(results, suite=results.suite.model_copy(update={"ft": ft}))


def test_methods_show_paired_differences_that_the_seeds_deviations_hide(tmp_path: Path) -> None:
    table = methods_table(methods_results(tmp_path))
    assert table.columns.tolist() == [
        "source",
        "target",
        "method",
        "50 %",
        "50 % - l2",
        "100 %",
        "100 % - l2",
    ]
    first, second = table.to_dict("records")
    assert first["100 %"] == "59.99±2.00"
    assert first["100 % - l2"] == ""
    assert second["100 %"] == "56.99±2.00"
    assert second["100 % - l2"] == "-3.00±0.00"


def test_methods_need_fine_tuning_cells_of_one_epoch(tmp_path: Path) -> None:
    results = methods_results(tmp_path)
    with pytest.raises(InputError, match="no fine-tuning cells of epoch 77"):
        methods_table(results, 77)
    with pytest.raises(InputError, match="has no fine-tuning cells: ckptbench truth fake"):
        methods_table(replace(results, truth=results.truth[:0]))
    early = (results.truth["epoch"] == 0) == (results.truth["protocol"] == "ft-l2-1.0")
    with pytest.raises(InputError, match="no epoch of suite fake was fine-tuned under every protocol"):
        methods_table(replace(results, truth=results.truth[early]))
