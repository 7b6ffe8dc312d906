"""Verdicts over runs: each number against its definition, each test against simulations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import DIGEST, write_results
from scipy import stats

from ckptbench.agreement.inference import across_runs, crossed_interval, sign_flips, step_down_p
from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.runs import BOARD, compare, leaderboard, run_table
from ckptbench.agreement.tables import Design, agreement_table
from ckptbench.base.errors import InputError
from ckptbench.results import Results


def slow_step_down(d: np.ndarray) -> list[float]:
    """Westfall and Young's algorithm 2.8 with Student's t, flip by flip."""

    def t(x: np.ndarray) -> np.ndarray:
        return x.mean(axis=0) / x.std(axis=0, ddof=1)

    order = list(np.argsort(-t(d)))
    p, floor = [0.0] * d.shape[1], 0.0
    for step, k in enumerate(order):
        rest = order[step:]
        hits = [
            t(d * np.array(signs)[:, None])[rest].max() >= t(d)[k] - 1e-9
            for signs in product((1, -1), repeat=len(d))
        ]
        floor = max(floor, float(np.mean(hits)))
        p[k] = floor
    return p


def test_step_down_is_its_definition():
    d = np.random.default_rng(1).normal([0.1, 0.5, 0.9, -0.3], 1, size=(8, 4))
    np.testing.assert_allclose(step_down_p(d), slow_step_down(d))


def test_step_down_of_one_column_is_the_plain_one_sided_test():
    d = np.random.default_rng(2).normal(0.4, 1, size=(9, 1))
    flips = np.array(list(product((1, -1), repeat=9)))
    plain = np.mean((flips @ d) >= d.sum() - 1e-9)
    assert step_down_p(d)[0] == pytest.approx(plain)
    assert step_down_p(d)[0] + step_down_p(-d)[0] == pytest.approx(1 + 1 / 2**9)
    np.testing.assert_allclose(step_down_p(np.ones((8, 2))), 1 / 2**8)
    np.testing.assert_allclose(step_down_p(np.zeros((8, 2))), 1)


def test_many_runs_are_sampled():
    assert len(sign_flips(16)) == len(sign_flips(40)) == 2**16
    assert (sign_flips(40)[0] == 1).all()
    d = np.random.default_rng(3).normal(0.25, 1, size=(40, 1))
    student = stats.ttest_1samp(d[:, 0], 0, alternative="greater").pvalue
    assert step_down_p(d)[0] == pytest.approx(student, abs=0.01)


def test_a_missing_run_is_left_out():
    d = np.random.default_rng(4).normal(size=(9, 1))
    with_gap = np.vstack([d, [[np.nan]]])
    assert step_down_p(with_gap)[0] == pytest.approx(step_down_p(d)[0])


def test_interval_across_runs_is_students():
    x = np.random.default_rng(5).normal(size=(7, 2))
    low, high = across_runs(x)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    np.testing.assert_allclose([low, high], [expected.low, expected.high])
    assert np.isnan(across_runs(x[:1])).all()


@pytest.mark.parametrize("missing", [0, 3])
def test_the_crossed_interval_covers_with_random_runs_and_families(missing):
    rng, covered = np.random.default_rng(6), []
    for _ in range(400):
        cube = (
            rng.normal(scale=0.2, size=(12, 1, 1)) + rng.normal(scale=0.15, size=(1, 7, 1))
            + rng.normal(scale=0.2, size=(12, 7, 1))
        )  # fmt: skip
        gaps = rng.choice(84, missing, replace=False)
        cube.reshape(84, 1)[gaps] = np.nan
        low, high = crossed_interval(cube)
        covered.append(low[0] <= 0 <= high[0])
    assert 0.92 <= np.mean(covered) <= 0.98


def test_the_crossed_interval_of_a_balanced_table_is_the_anova():
    x = np.random.default_rng(7).normal(size=(5, 4))
    runs, families = x.mean(axis=1), x.mean(axis=0)
    ms_runs, ms_families = 4 * runs.var(ddof=1), 5 * families.var(ddof=1)
    rest = x - runs[:, None] - families + x.mean()
    ms_rest = (rest**2).sum() / 12
    total = max(ms_runs + ms_families - ms_rest, ms_runs, ms_families, ms_rest)
    df = total**2 / (ms_runs**2 / 4 + ms_families**2 / 3 + ms_rest**2 / 12)
    half = stats.t.ppf(0.975, df) * np.sqrt(total / 20)
    low, high = crossed_interval(x[..., None])
    np.testing.assert_allclose([low[0], high[0]], [x.mean() - half, x.mean() + half])


# ------------------------------------------------------------------------------------------- the board


def table(taus: dict[str, np.ndarray], goal: str = "fe", protocols: int = 1) -> pd.DataFrame:
    """An agreement table with the given tau per run (x target), the same under every protocol."""
    taus = {name: np.asarray(values).reshape(len(values), -1) for name, values in taus.items()}
    shape = next(iter(taus.values())).shape
    taus = {"last-epoch": np.zeros(shape), "source-accuracy": np.zeros(shape)} | taus
    rows = [
        {"suite_digest": DIGEST, "source": f"r{r:02d}", "target": f"t{t}", "protocol": f"p{p}", "goal": goal,
         "selector": name, "tau": values[r, t], "tau_sd": 0.1, "tau_low": 0.0, "tau_high": 1.0,
         "tau_resolved": values[r, t], "tau_epoch": np.nan, "regret": 1.0, "gain": 10 * values[r, t],
         "gain_sd": 1.0, "best_gain": 2.0, "best_resolved": 1.0, "cells": 5, "wanted": 6, "seconds": 0.5,
         "origin": "built in", "problem": ""}
        for name, values in taus.items() for r in range(shape[0]) for t in range(shape[1])
        for p in range(protocols)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def board_of(rows: pd.DataFrame, **design: object) -> pd.DataFrame:
    return leaderboard(rows, "fe", Design(**design)).set_index("selector")


def test_verdicts_need_eight_runs():
    rng = np.random.default_rng(19)
    up, noise = 0.3 + 0.05 * rng.normal(size=8), 0.3 * rng.normal(size=8)
    scores = {"up": up, "down": -up, "noise": noise}
    board = board_of(table(scores))
    assert board["verdict"][["up", "down", "noise"]].tolist() == ["better", "worse", "not told apart"]
    assert board["verdict"]["last-epoch"] == ""
    # Of 2^8 flips, "up" is reached by itself and by all signs turned, where "down" is.
    assert board["p"]["up"] == board["p"]["down"] == 2 / 2**8
    few = board_of(table({name: values[:7] for name, values in scores.items()}))
    assert set(few["verdict"][["up", "down", "noise", "source-accuracy"]]) == {"too few runs"}
    assert few["p"].isna().all()


def test_targets_of_one_run_are_no_further_runs():
    """Thirty pairs of three runs gave verdicts once; they are three runs."""
    board = board_of(table({"up": np.full((3, 10), 0.4)}))
    assert board["verdict"]["up"] == "too few runs"
    assert board.loc["up", ["runs", "pairs", "tracks"]].tolist() == [3, 30, 30]


def test_confirmatory_scores_are_a_family_of_their_own():
    rng = np.random.default_rng(20)
    scores = {f"s{k:02d}": rng.normal(0.1, 0.15, size=12) for k in range(40)}
    one, all_ = board_of(table(scores), confirmatory=("s00",)), board_of(table(scores))
    alone = step_down_p(scores["s00"][:, None])[0]
    assert one["p"]["s00"] == pytest.approx(min(alone, 1 - alone + 1 / 2**12))
    assert all_["p"]["s00"] > one["p"]["s00"]
    assert one["family"][["s00", "s01"]].tolist() == ["confirmatory", "exploratory"]
    # Scores named beforehand do not cost the others anything, nor the others them.
    rest = np.stack([scores[f"s{k:02d}"] for k in range(1, 40)] + [np.zeros(12)], axis=1)
    assert one["p"]["s01"] == pytest.approx(min(step_down_p(rest)[0], step_down_p(-rest)[0]))


def test_a_family_of_targets_counts_once():
    taus = {"a": np.array([[0.6, 0.6, 0.0]] * 2)}
    families = {"t0": "digits", "t1": "digits", "t2": "clothes"}
    assert board_of(table(taus))["tau"]["a"] == pytest.approx(0.4)
    assert board_of(table(taus), families=families)["tau"]["a"] == pytest.approx(0.3)


def test_protocols_of_a_pair_are_averaged_not_counted():
    taus = {"a": [0.5, 0.1], "b": [0.2, 0.3]}
    one, four = (board_of(table(taus, protocols=n)) for n in (1, 4))
    assert four.loc["a", ["runs", "pairs", "tracks"]].tolist() == [2, 2, 8]
    pd.testing.assert_frame_equal(one.drop(columns="tracks"), four.drop(columns="tracks"))
    assert one["cells"]["a"] == 10


def test_the_two_intervals():
    taus = np.array([[0.5, 0.3], [0.1, 0.1], [0.4, 0.0]])
    board = board_of(table({"a": taus})).loc["a"]
    runs = taus.mean(axis=1)
    half = stats.t.ppf(0.975, 2) * runs.std(ddof=1) / np.sqrt(3)
    assert board["tau_high"] - board["tau"] == pytest.approx(half)
    assert board["difference_low"] == pytest.approx(board["tau_low"])  # last-epoch has tau 0 everywhere
    assert board["noise_high"] - board["tau"] == pytest.approx(1.96 * 0.1 / np.sqrt(6))
    assert np.isnan(board_of(table({"a": taus[:1]})).loc["a", "tau_low"])
    blank = table({"a": taus})
    blank.loc[blank["target"] == "t1", "tau_sd"] = np.nan
    assert board_of(blank)["noise_low"].isna().all()


def test_gain_in_points_with_runs_helped_and_harmed():
    taus = {"a": np.array([[0.9, 0.5], [-0.5, -0.3], [0.1, 0.0]])}  # points: 7, -4, 0.5; sd 1/sqrt 2
    board = board_of(table(taus)).loc["a"]
    assert board["gain"] == pytest.approx(3.5 / 3)
    assert board["gain_median"] == pytest.approx(0.5)
    assert (board["helped"], board["harmed"]) == (1, 1)


def test_runs_that_did_not_learn_are_shown_and_in_no_verdict():
    taus = {"a": np.full(9, 0.3)}
    unsound = {"r03": "loss above chance"}
    board = board_of(table(taus), unsound=unsound)
    assert board["runs"]["a"] == 8
    assert board["p"]["a"] == 1 / 2**8
    assert board_of(table(taus), unsound=unsound | {"r04": "diverged"})["verdict"]["a"] == "too few runs"
    runs = run_table(table(taus), "fe", Design(unsound=unsound))
    assert len(runs[runs["selector"] == "a"]) == 9
    assert set(runs.loc[runs["source"] == "r03", "unsound"]) == {"loss above chance"}
    none = board_of(table(taus), unsound={f"r{r:02d}": "diverged" for r in range(9)})
    assert none["verdict"]["a"] == "no sound run"
    assert none["tau"]["a"] == pytest.approx(0.3)


def test_label_controls_tell_whether_a_score_uses_the_labels():
    rng = np.random.default_rng(21)
    taus = {
        "labels": 0.5 + 0.05 * rng.normal(size=10), "labels@permuted": 0.05 * rng.normal(size=10),
        "trend": np.full(10, 0.4), "trend@permuted": 0.4 + 0.01 * rng.normal(size=10),
        "noisy": 0.1 + 0.4 * rng.normal(size=10), "noisy@permuted": 0.4 * rng.normal(size=10),
        "alone": np.full(10, 0.2),
    }  # fmt: skip
    board = board_of(table(taus))
    names = ["labels", "trend", "noisy", "alone"]
    assert board["labels"][names].tolist() == ["uses the labels", "does not", "unknown", ""]
    assert sorted(name for name in board.index if name not in REFERENCE) == sorted(names)
    low, high = across_runs((taus["labels"] - taus["labels@permuted"])[:, None])
    assert board.loc["labels", "control_low"] == pytest.approx(low[0])
    assert board.loc["labels", "control_high"] == pytest.approx(high[0])


def test_the_board_is_in_order_with_the_reference_rows_last(tmp_path):
    agreement = agreement_table(Results.read(write_results(tmp_path)))
    for goal in ("fe", "ft"):
        board = leaderboard(agreement, goal)
        assert list(board.columns) == list(BOARD)
        ranked = board[board["rank"].notna()]
        assert ranked["tau"].is_monotonic_decreasing
        assert ranked["rank"].tolist() == [1, 2, 3]
        assert board["selector"].tolist()[-5:] == list(REFERENCE)
        rows = agreement[(agreement["goal"] == goal) & (agreement["selector"] == "logme")]
        logme, oracle = (board.set_index("selector").loc[name] for name in ("logme", "oracle"))
        assert logme["tau"] == pytest.approx(rows["tau"].mean())
        assert logme["worst"] == rows["tau"].min()
        assert oracle["gain"] <= oracle["best_gain"]
        assert 0 <= oracle["best_resolved"] <= 1
        assert np.isnan(logme["best_gain"])
    assert list(leaderboard(agreement, "none").columns) == list(BOARD)
    assert leaderboard(agreement, "none").empty


def test_rows_of_two_suites_are_refused():
    rows = table({"a": [0.5, 0.1]})
    rows.loc[0, "suite_digest"] = "another"
    with pytest.raises(InputError, match="another"):
        leaderboard(rows, "fe")


def test_compare_is_the_paired_test():
    rng = np.random.default_rng(20)
    a, b = rng.normal(0.4, 0.1, size=12), rng.normal(0.2, 0.1, size=12)
    rows = table({"a": a, "b": b}, protocols=2)
    found = compare(rows, "a", "b", "fe")
    assert len(found.runs) == found.pairs == 12
    assert len(found.tracks) == 24
    assert found.difference == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(across_runs((a - b)[:, None])[0][0])
    assert found.p == pytest.approx(step_down_p((a - b)[:, None])[0])
    assert found.verdict == "better"
    assert compare(rows, "b", "a", "fe").verdict == "worse"
    unsound = Design(unsound={f"r{r:02d}": "diverged" for r in range(5)})
    assert compare(rows, "a", "b", "fe", unsound).verdict == "too few runs"
    with pytest.raises(InputError, match="did you mean 'last-epoch'"):
        compare(rows, "a", "lastepoch", "fe")
    with pytest.raises(InputError, match="no judged FT track"):
        compare(rows, "a", "b", "ft")
