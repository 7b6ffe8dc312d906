"""Procedures on recorded tables: charged for what they read, judged by what they never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import write_results
from scipy import stats

from ckptbench.agreement import record as room
from ckptbench.agreement.procedures import Cells, CrossValidate, FirstChoice, Halving, Scores, take_last
from ckptbench.agreement.record import (
    COLUMNS,
    in_words,
    make_record,
    publish_record,
    published_record,
    read_record,
    record_of,
)
from ckptbench.agreement.recorded import Recorded, choices, procedures_of, recorded_pairs
from ckptbench.agreement.track import Track
from ckptbench.base.errors import InputError
from ckptbench.results import Results, make_table

LEVEL = np.array([0.2, 0.9, 0.5, 0.7, 0.6, 0.4, 0.3, 0.65])


def recorded(source: str = "run", target: str = "set", shift: float = 0.0, **changes: object) -> Recorded:
    level = np.roll(LEVEL, int(shift))
    truth = np.repeat(level[:, None], 4, axis=1)
    cells = {
        ("probe", e, fold): (float(level[e]), 2.0 + fold) for e in range(8) for fold in range(3)
    }  # fmt: skip
    given = {
        "track": Track(truth, np.arange(10, 18), source=source, target=target, protocol="fe", goal="fe"),
        "scores": {"wrong": -level, "right": level, "holed": np.where(level > 0.8, np.nan, level)},
        "score_seconds": {"wrong": 0.5, "right": 0.25, "holed": 0.1}, "cells": cells, "extraction": 10.0,
        "on_features": frozenset({"probe"}),
    }  # fmt: skip
    return Recorded(**(given | changes))


def test_seconds_are_charged_once_for_what_is_read():
    table = recorded()
    assert table.run(take_last) == (7, 0.0)
    assert table.run(FirstChoice("right")) == (1, 10.25)
    assert table.run(CrossValidate("probe", folds=2)) == (1, 10.0 + 8 * (2 + 3))

    def twice(checkpoints: int):
        yield Scores("right")
        yield Scores("right")
        cells = yield Cells("probe", (0,), (0,))
        assert cells.shape == (1, 1)
        yield Cells("probe", (0,), (0, 1))
        return 0

    assert table.run(twice) == (0, 10.0 + 0.25 + 2 + 3)
    assert recorded(on_features=frozenset()).run(CrossValidate("probe", folds=1)) == (1, 16.0)
    assert table.run(FirstChoice("holed"))[0] == 3  # a failed score is never first


def test_picks_are_judged_by_test_truth_in_points():
    table = recorded()
    assert table.judge(1) == pytest.approx({"regret": 0.0, "gain": 25.0, "gain_sd": 0.0})
    assert table.judge(0)["regret"] == pytest.approx(70.0)


def test_a_score_that_knows_no_features_pays_for_none():
    table = recorded(scores={"source-accuracy": LEVEL}, score_seconds={"source-accuracy": 0.5})
    assert table.run(FirstChoice("source-accuracy")) == (1, 0.5)


def test_the_record_is_over_sound_runs_with_students_interval():
    tables = [recorded(f"r{r}", t, shift=r) for r in range(4) for t in ("a", "b")]
    tables.append(recorded("r9", "a", unsound="diverged"))
    procedures = {"last": take_last, "right": FirstChoice("right"), "probe": CrossValidate("probe", folds=3)}
    found = make_record(choices({"fe": procedures}, tables)).set_index("name")
    assert found["what"].to_dict() == {
        "right": "score", "probe": "procedure", "last": "procedure", "winner": "procedure"
    }  # fmt: skip
    assert found["runs"].tolist() == [4, 4, 4, 4]
    assert found["pairs"].tolist() == [8, 8, 8, 8]
    regrets = [100 * (0.9 - np.roll(LEVEL, r)[-1]) for r in range(4)]
    assert found["regret"]["last"] == pytest.approx(np.mean(regrets))
    interval = stats.ttest_1samp(regrets, 0).confidence_interval(0.95)
    assert found.loc["last", ["regret_low", "regret_high"]].tolist() == pytest.approx(list(interval))
    assert found["regret"]["right"] == pytest.approx(0)
    assert found["helped"].to_dict() == {"last": 0, "right": 4, "probe": 4, "winner": 4}
    assert found["seconds"]["probe"] == 10 + 8 * 9
    assert found["gain"]["right"] == pytest.approx(np.mean(regrets))


def test_what_the_tables_lack_is_said():
    tables = [recorded("r0"), recorded("r1", scores={}, score_seconds={})]
    procedures = {"fe": {"right": FirstChoice("right"), "deep": Halving("short", "long", 30)}}
    chosen = choices(procedures, tables)
    assert chosen.query("selector == 'right'")["problem"].tolist() == [
        "",
        "r1/set/fe has no scores of 'right'",
    ]
    assert chosen["pick"].tolist() == [11, -1, -1, -1]
    found = make_record(chosen).set_index("name")
    assert found["lacking"].to_dict() == {"right": 1, "deep": 2}
    assert found["runs"].to_dict() == {"right": 1, "deep": 0}


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Ten runs on two targets, with a probe and short and whole fine-tunings that know the truth nearly."""
    folder = tmp_path_factory.mktemp("validated")
    results = Results.read(write_results(folder, sources=10, epochs=6, examples=200))
    level = results.truth.groupby(["source", "target", "epoch"])["accuracy"].mean()
    rows = [
        {"source": source, "target": target, "protocol": protocol, "goal": goal, "epoch": epoch, "fold": fold,
         "accuracy": value, "status": "ok", "seconds": seconds}
        for (source, target, epoch), value in level.items()
        for goal, protocol, folds, seconds in (
            ("fe", "probe", 1, 2.0), ("ft", "50 iterations", 3, 3.0), ("ft", "1,000 iterations", 3, 9.0)
        )
        for fold in range(folds)
    ]  # fmt: skip
    return replace(results, validation=make_table("validation", rows))


def test_a_suites_tables_feed_procedures(validated):
    tables = list(recorded_pairs(validated))
    assert len(tables) == 10 * 2 * 3
    first = tables[0]
    score = validated.scores.query("selector == 'logme' and source == 'run0' and target == 'target0'")
    np.testing.assert_allclose(first.scores["logme"], score["score"])
    assert first.score_seconds["logme"] == pytest.approx(score["seconds"].sum())
    assert first.extraction == 6 * 1.5
    assert first.cells["50 iterations", 4, 2][1] == 3.0
    assert first.run(CrossValidate("50 iterations", folds=2))[1] == 36.0  # no features are read
    assert first.run(CrossValidate("probe", folds=1))[1] == 9 + 12


def test_a_suites_procedures_are_those_that_its_cells_allow(validated):
    found = procedures_of(validated)
    scores = ["logme", "ridge-loo", "random-gmm"]
    assert list(found["fe"]) == ["last-epoch", *scores, "cross-validated probe"]
    assert list(found["ft"])[5:] == [
        "50 iterations on 1 fold", "50 iterations on 3 folds", "1,000 iterations on 1 fold",
        "1,000 iterations on 3 folds", "halving: 50 iterations, finalists 1,000 iterations",
    ]  # fmt: skip
    suite = validated.suite.model_copy(update={"confirmatory": ("gbc", "logme")})
    screened = procedures_of(replace(validated, suite=suite))["fe"]
    assert screened["cross-validated probe, of the 3 best by logme"] == CrossValidate("probe", 1, "logme")
    bare = procedures_of(replace(validated, validation=None))
    assert list(bare["ft"]) == ["last-epoch", *scores]


def test_the_record_of_a_suite(validated, tmp_path, monkeypatch):
    record = record_of(validated)
    assert list(record.columns) == list(COLUMNS)
    assert set(record["suite"]) == {"fake"}
    assert record.groupby("goal")["truth"].first().to_dict() == {"fe": "linear probe", "ft": "10 epochs"}
    fe = record[record["goal"] == "fe"].set_index("name")
    assert (record["lacking"] == 0).all()
    assert fe["regret"]["cross-validated probe"] < 1
    assert fe["runs"]["winner"] == 10
    assert publish_record(record, tmp_path / "results")
    pd.testing.assert_frame_equal(
        read_record(tmp_path / "results" / "record.csv"), record, check_dtype=False, rtol=1e-5
    )
    monkeypatch.setattr(room, "results_roots", lambda: [tmp_path / "none", tmp_path / "results"])
    assert published_record()["name"].tolist() == record["name"].tolist()
    said = in_words(published_record(), "fe")
    assert said.startswith("Take what this chooses: ")
    assert "on 10 source runs of fake (linear probe)" in said


def test_too_few_sound_runs_publish_nothing(validated, tmp_path):
    few = replace(
        validated,
        **{name: getattr(validated, name).query("source in ['run0', 'run1', 'run2']")
           for name in ("truth", "scores", "checkpoints", "validation")},
    )  # fmt: skip
    assert not publish_record(record_of(few), tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ the record


def chosen_rows(gains: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"selector": name, "what": "score", "goal": "fe", "source": f"r{r}", "target": "t",
             "target_family": "t", "unsound": "", "regret": 9 - gain, "gain": gain, "gain_sd": 0.5,
             "seconds": 0.5, "problem": ""}
            for name, values in gains.items() for r, gain in enumerate(values)
        ]
    )  # fmt: skip


def test_the_winner_is_measured_on_the_recipe_that_did_not_choose_it():
    # Each of two scores shines on some recipes alone: whoever wins elsewhere loses here.
    record = make_record(chosen_rows({"a": [9.0, 0.0, 0.0, 5.0], "b": [-2.0, 3.0, 3.0, -2.0]}))
    record = record.set_index("name")
    assert record["gain_median"]["a"] == pytest.approx(2.5)
    # Held out in turn, the medians of a are 0, 5, 5, 0 and of b 3, -2, -2, 3: b, a, a, b are taken.
    assert record["gain"]["winner"] == pytest.approx(np.mean([-2, 0, 0, -2]))
    assert record["chosen"].to_dict() == {"a": 2, "b": 2, "winner": 4}
    assert record.loc["a", ["helped", "harmed", "runs"]].tolist() == [2, 0, 4]
    assert record.loc["winner", ["helped", "harmed"]].tolist() == [0, 2]


def test_unsound_runs_are_in_no_record():
    rows = chosen_rows({"a": [9.0, 1.0, 2.0], "b": [0.0, 0.0, 0.0]})
    rows.loc[rows["source"] == "r0", "unsound"] = "diverged"
    assert make_record(rows).set_index("name").loc["a", ["gain_median", "runs"]].tolist() == [1.5, 2]
    with pytest.raises(InputError, match="rename it"):
        make_record(chosen_rows({"winner": [1.0, 2.0]}))
    assert make_record(rows[:0]).empty
    assert make_record(rows.assign(unsound="diverged")).empty


def test_a_record_that_cannot_be_read_is_said(tmp_path: Path):
    with pytest.raises(InputError, match="there is no record"):
        read_record(tmp_path / "none.csv")
    (tmp_path / "record.csv").write_text("goal,what\n")
    with pytest.raises(InputError, match="lacks the column 'suite'"):
        read_record(tmp_path / "record.csv")


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (
            {"last-epoch": [0.0] * 4, "a": [-1.0] * 4},
            "the last checkpoint: on 4 source runs of zoo (150 it",
        ),
        ({"last-epoch": [0.0] * 4, "a": [9.0, -9.0, 9.0, -9.0]}, "nothing has won anything over it"),
        (
            {"last-epoch": [0.0] * 4, "a": [2.0, 3.0, 4.0, 5.0]},
            "Take what this chooses: the first choice of a",
        ),
        ({"a": [2.0, 3.0, 4.0, 5.0]}, "won 3.5 points over the last in the median (helped 4, harmed 0)."),
        ({"a": [-9.0, 1.0, 1.0, -9.0]}, "choosing by what did best on the other runs lost 4.0 points"),
    ],
)
def test_the_record_in_words(gains: dict[str, list[float]], said: str):
    record = make_record(chosen_rows(gains)).assign(suite="zoo", truth="150 iterations")
    assert said in in_words(record, "fe")
    assert in_words(record, "ft").startswith("No published record")
    assert in_words(None, "ft").startswith("No published record")
