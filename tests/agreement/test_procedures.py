"""Procedures ask for what they may see, are charged for it, and are judged by what they never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import write_results
from scipy import stats

from ckptbench.agreement.procedures import (
    Cells,
    CrossValidate,
    FirstChoice,
    Halving,
    Recorded,
    Request,
    Scores,
    choices,
    drive,
    evaluate,
    procedure_runs,
    recorded_pairs,
    take_last,
)
from ckptbench.agreement.record import COLUMNS, make_record, read_record, write_record
from ckptbench.agreement.track import Track
from ckptbench.base.errors import InputError
from ckptbench.results import Results

LEVEL = np.array([0.2, 0.9, 0.5, 0.7, 0.6, 0.4, 0.3, 0.65])


class Lab:
    """Answers without noise from ``LEVEL``, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> np.ndarray:
        self.asked.append(request)
        if isinstance(request, Scores):
            return LEVEL
        return np.repeat(LEVEL[list(request.checkpoints), None], len(request.folds), axis=1)


def test_taking_the_last_asks_for_nothing():
    lab = Lab()
    assert drive(take_last, 8, lab) == 7
    assert lab.asked == []


def test_each_procedure_asks_for_what_it_says():
    lab = Lab()
    assert drive(FirstChoice("logme"), 8, lab) == 1
    assert lab.asked == [Scores("logme")]
    lab = Lab()
    assert drive(CrossValidate("probe", folds=2), 8, lab) == 1
    assert lab.asked == [Cells("probe", tuple(range(8)), (0, 1))]
    lab = Lab()
    assert drive(CrossValidate("probe", screen="logme", best=2), 8, lab) == 1
    assert lab.asked == [Scores("logme"), Cells("probe", (1, 3, 7), (0, 1, 2))]


def test_equals_go_to_the_later_checkpoint():
    flat = lambda request: np.zeros(8) if isinstance(request, Scores) else np.zeros((8, 3))  # noqa: E731
    assert drive(FirstChoice("s"), 8, flat) == 7
    assert drive(CrossValidate("p"), 8, flat) == 7


@pytest.mark.parametrize("budget", [10, 20, 40, 80])
def test_halving_halves_keeps_the_last_and_ends_on_fresh_folds(budget):
    lab = Lab()
    assert drive(Halving("short", "long", budget), 8, lab) == 1
    *rounds, final = lab.asked
    assert all(request.protocol == "short" and 7 in request.checkpoints for request in rounds)
    sizes = [len(request.checkpoints) for request in lab.asked]
    assert sizes == sorted(sizes, reverse=True)
    assert final.protocol == "long"
    assert 7 in final.checkpoints
    assert len(final.checkpoints) <= 3
    seen = {fold for request in rounds for fold in request.folds}
    assert not seen & set(final.folds)
    spent = sum(len(request.checkpoints) * len(request.folds) for request in lab.asked)
    assert spent <= max(budget, 8 + 5 + 6)  # one fold a round is the least
    folds = [request.folds for request in rounds]
    assert len({fold for some in folds for fold in some}) == sum(map(len, folds))  # each round's are new


def test_halving_can_be_screened_by_a_score():
    lab = Lab()
    assert drive(Halving("short", "long", 20, screen="logme", first=3), 8, lab) == 1
    assert lab.asked[1].checkpoints == (1, 3, 4, 7)[:1] + lab.asked[1].checkpoints[1:]
    assert set(lab.asked[1].checkpoints) <= {1, 3, 7}


# ---------------------------------------------------------------------------------- recorded tables


def recorded(source: str = "run", target: str = "set", shift: float = 0.0, **changes: object) -> Recorded:
    level = np.roll(LEVEL, int(shift))
    truth = np.repeat(level[:, None], 4, axis=1)
    cells = {
        ("probe", e, fold, 0): (float(level[e]), 2.0 + fold) for e in range(8) for fold in range(3)
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


def test_evaluation_is_over_runs_with_students_interval():
    tables = [recorded(f"r{r}", t, shift=r) for r in range(4) for t in ("a", "b")]
    tables.append(recorded("r9", "a", unsound="diverged"))
    procedures = {"last": take_last, "right": FirstChoice("right"), "probe": CrossValidate("probe", folds=3)}
    found = evaluate(procedures, tables, "fe").set_index("procedure")
    assert found.index.tolist() == ["last", "right", "probe"]  # cheapest first
    assert found["runs"].tolist() == [4, 4, 4]
    assert found["pairs"].tolist() == [8, 8, 8]
    regrets = [100 * (0.9 - np.roll(LEVEL, r)[-1]) for r in range(4)]
    assert found["regret"]["last"] == pytest.approx(np.mean(regrets))
    interval = stats.ttest_1samp(regrets, 0).confidence_interval(0.95)
    assert found.loc["last", ["regret_low", "regret_high"]].tolist() == pytest.approx(list(interval))
    assert found["regret"]["right"] == pytest.approx(0)
    assert found["helped"].tolist() == [0, 4, 4]
    assert found["seconds"]["probe"] == 10 + 8 * 9


def test_what_the_tables_lack_is_said():
    tables = [recorded("r0"), recorded("r1", scores={}, score_seconds={})]
    chosen = choices({"right": FirstChoice("right")}, tables)
    assert chosen["problem"][1] == "r1/set/fe has no scores of 'right'"
    assert chosen["pick"].tolist() == [11, -1]
    found = evaluate({"right": FirstChoice("right"), "deep": Halving("short", "long", 30)}, tables, "fe")
    assert found.set_index("procedure")["lacking"].to_dict() == {"right": 1, "deep": 2}
    assert found.set_index("procedure")["runs"].to_dict() == {"right": 1, "deep": 0}


def test_a_suites_tables_feed_procedures(tmp_path):
    results = Results.read(write_results(tmp_path, sources=2))
    rows = [
        {"source": "run0", "target": "target0", "protocol": "ft-50", "goal": "ft", "epoch": epoch,
         "fold": fold, "seed": 0, "accuracy": epoch / 20, "seconds": 3.0}
        for epoch in range(12) for fold in range(3)
    ]  # fmt: skip
    tables = list(recorded_pairs(results, pd.DataFrame(rows)))
    assert len(tables) == 2 * 2 * 3
    first = tables[0]
    score = results.scores.query("selector == 'logme' and source == 'run0' and target == 'target0'")
    np.testing.assert_allclose(first.scores["logme"], score["score"])
    assert first.score_seconds["logme"] == pytest.approx(score["seconds"].sum())
    assert first.extraction == 12 * 1.5
    assert first.cells["ft-50", 4, 2, 0] == (0.2, 3.0)
    assert first.run(CrossValidate("ft-50", folds=2)) == (11, 72.0)  # no features are read
    procedures = {"last": take_last, "logme": FirstChoice("logme"), "cv": CrossValidate("ft-50")}
    found = evaluate(procedures, tables, "ft").set_index("procedure")
    assert found["lacking"].to_dict() == {"last": 0, "logme": 0, "cv": 3}
    (bare, *_) = recorded_pairs(
        replace(results, scores=results.scores[:0]), pd.DataFrame(rows[:0], columns=list(rows[0]))
    )
    assert bare.scores == bare.cells == {}


# ------------------------------------------------------------------------------------------ the record


def run_rows(gains: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"selector": name, "source": f"r{r}", "unsound": "", "gain": gain, "helped": gain > 1,
             "harmed": gain < -1, "seconds": 0.5}
            for name, values in gains.items() for r, gain in enumerate(values)
        ]
    )  # fmt: skip


def test_the_winner_is_measured_on_the_recipe_that_did_not_choose_it():
    # Each of three scores shines on one recipe alone: whoever wins elsewhere loses here.
    rows = run_rows({"a": [9.0, 0.0, 0.0, 5.0], "b": [-2.0, 3.0, 3.0, -2.0]})
    record = make_record({("fe", "score"): rows}).set_index("name")
    assert list(record.reset_index().columns) != []
    assert record["gain_median"]["a"] == pytest.approx(2.5)
    # Held out in turn, the medians of a are 0, 5, 5, 0 and of b 3, -2, -2, 3: b, a, a, b are taken.
    assert record["gain"]["winner"] == pytest.approx(np.mean([-2, 0, 0, -2]))
    assert record["chosen"].to_dict() == {"a": 2, "b": 2, "winner": 4}
    assert record.loc["a", ["helped", "harmed", "runs"]].tolist() == [2, 0, 4]
    assert record.loc["winner", ["helped", "harmed"]].tolist() == [0, 2]


def test_the_record_leaves_unsound_runs_out_and_comes_back_as_written(tmp_path):
    rows = run_rows({"a": [9.0, 1.0, 2.0], "b": [0.0, 0.0, 0.0]})
    rows.loc[rows["source"] == "r0", "unsound"] = "diverged"
    tables = [recorded(f"r{r}", shift=r) for r in range(3)]
    by_procedure = procedure_runs(choices({"last": take_last}, tables), "fe")
    record = make_record({("fe", "score"): rows, ("fe", "procedure"): by_procedure})
    assert record.set_index("name").loc["a", ["gain_median", "runs"]].tolist() == [1.5, 2]
    assert list(record.columns) == list(COLUMNS)
    write_record(record, tmp_path / "record.csv")
    pd.testing.assert_frame_equal(read_record(tmp_path / "record.csv"), record, check_dtype=False)
    with pytest.raises(InputError, match="there is no record"):
        read_record(tmp_path / "none.csv")
    (tmp_path / "record.csv").write_text("goal,what\n")
    with pytest.raises(InputError, match="lacks the column 'name'"):
        read_record(tmp_path / "record.csv")
    with pytest.raises(InputError, match="rename it"):
        make_record({("fe", "score"): run_rows({"winner": [1.0, 2.0]})})
