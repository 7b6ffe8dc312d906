"""Each statistic against scipy or its slow definition, and against simulations whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from ckptbench.agreement.judge import REFERENCE, first_choice, judge_track, rel_at_k
from ckptbench.agreement.statistics import tau_b
from ckptbench.agreement.track import (
    Track,
    ceiling,
    chance_p,
    complete,
    overlap_variance,
    resample_truth,
    resolved_pairs,
    resolved_tau,
    split_truth,
    surrogates,
)

# Few distinct values, so that ties of every pattern come up.
coarse = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(7)), elements=st.integers(-3, 3))


def row(frame: pd.DataFrame, selector: str) -> pd.Series:
    return frame.set_index("selector").loc[selector]


def ar(rng: np.random.Generator, shape: tuple[int, ...], rho: float = 0.9) -> np.ndarray:
    """Stationary autoregressive curves of unit variance along the last axis."""
    x = rng.normal(size=shape)
    for e in range(1, shape[-1]):
        x[..., e] = rho * x[..., e - 1] + np.sqrt(1 - rho**2) * x[..., e]
    return x


# ---------------------------------------------------------------------------- choices and their cost


@given(
    hnp.arrays(np.float64, 6, elements=st.integers(0, 3)),
    hnp.arrays(np.float64, 6, elements=st.integers(1, 9)),
    st.integers(1, 7),
)
@settings(deadline=None, max_examples=40)
def test_rel_at_k_averages_over_all_orders_of_the_ties(score, truth, k):
    values = []
    for order in permutations(range(6)):
        if all(score[a] >= score[b] for a, b in pairwise(order)):
            values.append(max(truth[list(order[:k])]) / truth.max())
    assert rel_at_k(truth, score, k) == pytest.approx(np.mean(values), abs=1e-12)


def test_rel_at_k_is_blank_without_a_positive_truth():
    assert np.isnan(rel_at_k(np.array([-1.0, -2.0, 0.0]), np.arange(3.0), 1))


def test_first_choice_is_shared_by_ties():
    np.testing.assert_allclose(first_choice(np.array([[1.0, 3, 3], [5, 1, 2]])), [[0, 0.5, 0.5], [1, 0, 0]])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_splits_measure_on_seeds_that_did_not_choose(seeds):
    # Checkpoint e is right under seed e alone: each side shows which seeds it saw.
    left, right = split_truth(Track(np.eye(seeds)), np.random.default_rng(0))
    assert left.shape == (40, seeds)
    assert not np.any((left > 0) & (right > 0))
    np.testing.assert_allclose(left.sum(axis=1), 1)
    np.testing.assert_allclose(right.sum(axis=1), 1)
    assert set((left > 0).sum(axis=1)) == {seeds // 2, seeds - seeds // 2}


def test_splits_measure_on_examples_that_did_not_choose():
    examples = 9
    correct = np.repeat(np.eye(examples, dtype=bool)[:, None], 4, axis=1)
    left, right = split_truth(Track(correct.mean(axis=2), correct=correct), np.random.default_rng(0))
    assert not np.any((left > 0) & (right > 0))
    np.testing.assert_allclose(left.sum(axis=1), 1)


def test_splits_of_one_seed_use_examples_and_of_nothing_the_truth_itself():
    rng = np.random.default_rng(0)
    correct = rng.random((5, 1, 10)) < 0.7
    left, right = split_truth(Track(correct.mean(axis=2), correct=correct), rng)
    np.testing.assert_allclose((left + right) / 2, np.tile(correct.mean(axis=(1, 2)), (40, 1)))
    alone = Track(rng.random((5, 1)))
    left, right = split_truth(alone, rng)
    np.testing.assert_allclose(left, right)
    np.testing.assert_allclose(left[0], alone.mean)


def test_a_pick_among_equals_loses_nothing():
    """Ten equal checkpoints, noisy truth: the best that anyone sees is luck, and cross-fitting knows it."""
    rng = np.random.default_rng(2)
    regrets, naive = [], []
    for _ in range(60):
        correct = rng.random((10, 4, 100)) < 0.8
        track = Track(correct.mean(axis=2), np.arange(10), correct)
        frame = judge_track(track, {"s": rng.normal(size=10)}, resamples=2, surrogate_scores=1)
        regrets.append(row(frame, "s")["regret"])
        naive.append(track.mean.max() - track.mean.mean())
    assert abs(np.mean(regrets)) < 3 * np.std(regrets) / np.sqrt(60)
    assert np.mean(naive) > 0.02


# --------------------------------------------------------------------------- resolved pairs, ceiling


def slow_resolved(truth: np.ndarray, correct: np.ndarray | None) -> list[bool]:
    size, seeds = truth.shape
    mean, by_seed, all_ = truth.mean(axis=1), truth.mean(axis=0), truth.mean()
    residual = [[truth[e, s] - mean[e] - by_seed[s] + all_ for s in range(seeds)] for e in range(size)]
    pooled = np.square(residual).sum() / ((size - 1) * (seeds - 1))
    p = []
    for i, j in combinations(range(size), 2):
        variance = 2 * pooled / seeds
        if correct is not None:
            variance += np.var((correct[i].mean(axis=0) - correct[j].mean(axis=0)), ddof=1) / correct.shape[2]
        p.append(2 * stats.norm.sf(abs(mean[i] - mean[j]) / np.sqrt(variance)))
    ranked = np.sort(p)
    passing = [x for m, x in enumerate(ranked, 1) if x <= 0.05 * m / len(p)]
    return [x <= max(passing, default=-1) for x in p]


@pytest.mark.parametrize("kept", [True, False])
def test_resolved_pairs_against_the_slow_reference(kept):
    rng = np.random.default_rng(3)
    correct = rng.random((9, 3, 150)) < np.linspace(0.5, 0.8, 9)[:, None, None]
    truth = correct.mean(axis=2)
    expected = slow_resolved(truth, correct if kept else None)
    found = resolved_pairs(Track(truth, correct=correct if kept else None))
    assert 0 < sum(expected) < len(expected)
    assert found.tolist() == expected


def test_resolved_tau_counts_a_tied_score_as_nothing():
    truth = np.arange(6.0)
    scores = np.array([[0, 0, 0, 1, 1, 1], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=float)
    resolved = np.ones(15, dtype=bool)
    np.testing.assert_allclose(resolved_tau(truth, scores, resolved), [9 / 15, -1, 0])
    resolved[:6] = False
    assert np.isnan(resolved_tau(truth, scores, resolved)).all()


def test_equal_checkpoints_are_hardly_ever_resolved():
    rng = np.random.default_rng(4)
    share = {}
    for seeds, kept in product((3, 5), (True, False)):
        shares = []
        for _ in range(100):
            hard = rng.normal(size=300)  # examples differ in difficulty, checkpoints do not
            correct = rng.random((12, seeds, 300)) < 1 / (1 + np.exp(-1 - hard))
            shares.append(resolved_pairs(Track(correct.mean(2), correct=correct if kept else None)).mean())
        share[seeds, kept] = np.mean(shares)
    assert max(share.values()) <= 0.05
    # The test is not merely blind: the same noise resolves checkpoints that do differ.
    correct = rng.random((12, 5, 300)) < np.linspace(0.5, 0.9, 12)[:, None, None]
    assert resolved_pairs(Track(correct.mean(axis=2), correct=correct)).mean() > 0.6


def test_a_single_seed_resolves_nothing_and_has_no_interval_and_no_ceiling():
    track = Track(np.linspace(0, 1, 8)[:, None], np.arange(8))
    assert not resolved_pairs(track).any()
    assert resample_truth(track, 10, np.random.default_rng(0)) is None
    assert np.isnan(ceiling(track.truth))
    assert judge_track(track, {"s": np.arange(8.0)})["tau_low"].isna().all()


def test_pairs_without_any_noise_are_resolved_exactly_where_they_differ():
    truth = np.repeat([[0.1], [0.1], [0.2]], 3, axis=1)
    assert resolved_pairs(Track(truth)).tolist() == [False, True, True]


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_ceiling_is_what_perfect_knowledge_scores(seeds, rho):
    rng = np.random.default_rng(5)
    said, reached = [], []
    for _ in range(150):
        level = ar(rng, (30,), rho)
        truth = level[:, None] + 0.5 * rng.normal(size=(30, seeds))
        said.append(ceiling(truth))
        reached.append(tau_b(level, truth.mean(axis=1))[0, 0])
    assert np.mean(said) == pytest.approx(np.mean(reached), abs=0.03)


@pytest.mark.parametrize(("size", "signal"), [(8, 0.5), (8, 0.7), (14, 0.5), (14, 0.7)])
def test_ceiling_of_two_seeds_is_not_too_low(size, signal):
    """The plug-in formula, concave in a noisy tau, was up to 0.07 below what perfect knowledge scores."""
    rng = np.random.default_rng(6)
    said, plug_in, reached = [], [], []
    for _ in range(600):
        level = np.sqrt(signal) * rng.normal(size=size)
        truth = level[:, None] + np.sqrt(1 - signal) * rng.normal(size=(size, 2))
        said.append(ceiling(truth))
        r = max(0.0, np.sin(np.pi / 2 * stats.kendalltau(truth[:, 0], truth[:, 1]).statistic))
        plug_in.append(2 / np.pi * np.arcsin(np.sqrt(2 * r / (1 + r))))
        reached.append(stats.kendalltau(level, truth.mean(axis=1)).statistic)
    assert np.mean(plug_in) < np.mean(said)
    assert np.mean(said) == pytest.approx(np.mean(reached), abs=0.035)


def test_overlapping_training_sets_widen_the_interval_by_the_luck_they_share():
    """Each example has an influence on each checkpoint; a seed's truth is the mean of those it draws."""
    rng, examples, share, seeds, size = np.random.default_rng(7), 100, 0.8, 5, 10
    means, said, naive = [], [], []
    for _ in range(400):
        influence = rng.normal(size=(size, examples))  # a fresh train split each time
        drawn = np.array([rng.permutation(examples) < share * examples for _ in range(seeds)])
        track = Track(influence @ drawn.T / (share * examples), np.arange(size), overlap=share)
        means.append(track.mean - track.mean.mean())
        for overlap, found in ((share, said), (0.0, naive)):
            truths = resample_truth(replace(track, overlap=overlap), 50, rng)
            found.append((truths - truths.mean(axis=1, keepdims=True)).var(axis=0).mean())
    actual = np.var(means)
    assert np.mean(said) == pytest.approx(actual, rel=0.15)
    assert np.mean(naive) < 0.1 * actual
    assert (
        overlap_variance(Track(np.ones((3, 4))))
        == overlap_variance(Track(np.ones((3, 4)), overlap=1.0))
        == 1 / 4
    )


def test_ceiling_is_one_for_seeds_that_agree_and_nought_for_seeds_that_disagree():
    order = np.arange(10.0)
    assert ceiling(np.stack([order, order], axis=1)) == pytest.approx(1)
    assert ceiling(np.stack([order, -order], axis=1)) == 0


def test_equal_means_are_ties_in_whatever_order_they_were_summed():
    rows = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.3, 0.1, 0.2], [0.4, 0.4, 0.4]])
    assert len(set(rows.mean(axis=1))) == 3  # what floating point makes of two values
    assert len(set(Track(rows).mean)) == 2
    frame = judge_track(Track(rows, np.arange(4)), {"s": np.array([0.0, 0.0, 0.0, 1.0])})
    assert row(frame, "s")["tau"] == 1
    assert len(set(Track(rows * 1e-30).mean)) == len(set(Track(rows * 1e30).mean)) == 2


# ----------------------------------------------------------------------------- interval and chance


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_interval_covers_the_expected_tau_on_autocorrelated_trajectories(seeds):
    rng = np.random.default_rng(6)
    hits = []
    for _ in range(200):
        level, other = ar(rng, (2, 30))
        score, spread = 0.7 * level + 0.7 * other, 0.5 * level.std()
        fresh = level + spread * rng.normal(size=(400, seeds, 30)).mean(axis=1)
        expected = tau_b(fresh, score).mean()
        for _ in range(3):
            track = Track((level + spread * rng.normal(size=(seeds, 30))).T, np.arange(30))
            frame = judge_track_interval(track, score, rng)
            hits.append(frame[0] <= expected <= frame[1])
    assert 0.90 <= np.mean(hits) <= 0.98


def judge_track_interval(track: Track, score: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of judge_track alone, at a hundredth of its cost."""
    truths = resample_truth(track, 300, rng)
    assert truths is not None
    tau, sd = tau_b(track.mean, score)[0, 0], tau_b(truths, score)[:, 0].std(ddof=1)
    return tau - 1.96 * sd, tau + 1.96 * sd


def test_interval_covers_when_a_seeds_luck_lasts_over_epochs():
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(150):
        level, other = ar(rng, (2, 30))
        score, spread = 0.7 * level + 0.7 * other, 0.5 * level.std()
        expected = tau_b(level + spread * ar(rng, (400, 5, 30)).mean(axis=1), score).mean()
        for _ in range(3):
            track = Track((level + spread * ar(rng, (5, 30))).T, np.arange(30))
            low, high = judge_track_interval(track, score, rng)
            hits.append(low <= expected <= high)
    assert 0.87 <= np.mean(hits) <= 0.98


def test_interval_covers_over_other_seeds_and_other_test_examples():
    rng = np.random.default_rng(8)

    def draw(level: np.ndarray) -> np.ndarray:
        hard = 1.5 * rng.normal(size=200)
        taste, luck = 0.5 * rng.normal(size=(20, 1, 200)), 0.1 * rng.normal(size=(20, 4, 1))
        chance = 1 / (1 + np.exp(-(level[:, None, None] + hard + taste + luck)))
        return rng.random(chance.shape) < chance

    hits = []
    for _ in range(50):
        level, other = ar(rng, (2, 20))
        score, level = 0.7 * level + 0.7 * other, 1.5 + 0.25 * level
        drawn = [draw(level) for _ in range(40)]
        expected = np.mean([tau_b(c.mean(axis=(1, 2)), score) for c in drawn])
        for correct in drawn[:6]:
            low, high = judge_track_interval(Track(correct.mean(axis=2), correct=correct), score, rng)
            hits.append(low <= expected <= high)
    assert 0.90 <= np.mean(hits) <= 0.985


def test_interval_is_the_observed_tau_give_or_take_its_sd():
    rng = np.random.default_rng(9)
    level = ar(rng, (20,))
    track = Track(level[:, None] + 0.5 * rng.normal(size=(20, 4)), np.arange(20))
    found = row(judge_track(track, {"s": level + rng.normal(size=20)}), "s")
    assert found["tau_high"] - found["tau"] == pytest.approx(1.96 * found["tau_sd"])
    assert found["tau"] - found["tau_low"] == pytest.approx(1.96 * found["tau_sd"])
    assert found["tau_sd"] > 0.02


def test_resampled_truth_has_the_variance_of_its_seeds_and_examples():
    rng = np.random.default_rng(10)
    correct = rng.random((25, 5, 80)) < rng.random((25, 1, 80))
    truth = correct.mean(axis=2)
    drawn = resample_truth(Track(truth), 4000, rng)
    pooled = np.var(truth - truth.mean(axis=1, keepdims=True) - truth.mean(axis=0) + truth.mean())
    np.testing.assert_allclose(drawn.var(axis=0).mean(), pooled * 5 / 4 / 5, rtol=0.05)
    np.testing.assert_allclose(drawn.mean(axis=0), truth.mean(axis=1), atol=0.01)
    both = resample_truth(Track(truth, correct=correct), 4000, rng)
    of_examples = np.cov(correct.mean(axis=1), ddof=0) / 80
    np.testing.assert_allclose(
        both.var(axis=0).mean(), pooled * 5 / 4 / 5 + np.trace(of_examples) / 25, rtol=0.05
    )


def test_a_random_selectors_repeats_widen_its_interval():
    """As if each resampled truth met R - 1 repeats drawn with replacement (unbiased for a mean of R)."""
    rng = np.random.default_rng(11)
    level = ar(rng, (25,))
    track = Track(level[:, None] + 0.3 * rng.normal(size=(25, 5)), np.arange(25))
    noisy = level + 0.8 * rng.normal(size=(4, 25))
    frame = judge_track(track, {"noisy": noisy, "alike": np.tile(noisy[0], (4, 1)), "once": noisy[0]})
    assert row(frame, "alike")["tau_sd"] == pytest.approx(row(frame, "once")["tau_sd"])
    assert row(frame, "noisy")["tau"] == pytest.approx(tau_b(track.mean, noisy).mean())
    taus = tau_b(resample_truth(track, 8000, rng), noisy)
    drawn = taus[np.arange(8000)[:, None], rng.integers(4, size=(8000, 3))].mean(axis=1)
    assert row(frame, "noisy")["tau_sd"] == pytest.approx(drawn.std(), rel=0.05)


def false_alarms(rng: np.random.Generator, size: int, number: int) -> tuple[float, float]:
    ours, iid = [], []
    for _ in range(number):
        score, truth = np.cumsum(rng.normal(size=(2, size)), axis=1)
        track = Track(truth[:, None], np.arange(size))
        ours.append(chance_p(track, [score[None]], 199, rng)[0] <= 0.05)
        iid.append(stats.kendalltau(score, truth).pvalue <= 0.05)
    return float(np.mean(ours)), float(np.mean(iid))


@pytest.mark.parametrize("size", [15, 60])
def test_chance_alarms_on_independent_walks_no_more_than_it_says(size):
    ours, iid = false_alarms(np.random.default_rng(12), size, 500)
    assert 0.02 <= ours <= 0.08
    assert iid > (0.5 if size == 60 else 0.3)


def test_surrogates_keep_the_increments_and_nothing_else():
    score = np.array([0.0, 1.0, 1.0, 4.0, 2.0])
    rng = np.random.default_rng(13)
    draws = np.argsort(rng.random((50, 4)), axis=1)
    flips = rng.choice([-1.0, 1.0], size=(50, 4))
    made = surrogates(Track(np.zeros((5, 1)), np.arange(5)), score, draws, flips)
    scale = np.abs(np.diff(made)).max() / 3
    np.testing.assert_allclose(np.sort(np.abs(np.diff(made)), axis=1) / scale, np.tile([0, 1, 2, 3], (50, 1)))
    whole = np.argsort(rng.random((50, 5)), axis=1)
    unordered = surrogates(Track(np.zeros((5, 1))), score, whole, flips)
    np.testing.assert_allclose(np.sort(unordered, axis=1), np.tile(np.sort(score), (50, 1)))


# ---------------------------------------------------------------------------------------- one track


def simple_track(**changes: object) -> Track:
    rng = np.random.default_rng(14)
    level = 0.7 + 0.1 * np.sin(np.arange(12))
    correct = rng.random((12, 4, 300)) < level[:, None, None]
    given = {"truth": correct.mean(axis=2), "epochs": np.arange(12), "correct": correct,
             "source_accuracy": np.linspace(0.1, 0.9, 12), "source": "run", "target": "set"}  # fmt: skip
    return Track(**(given | changes))


def test_judge_track_statistics_against_the_plain_ones():
    track, rng = simple_track(), np.random.default_rng(15)
    q = track.mean + 0.05 * rng.normal(size=12)
    found = row(judge_track(track, {"s": q}), "s")
    truth, epochs = track.truth.mean(axis=1), np.arange(12)
    tau = stats.kendalltau(q, truth).statistic
    t_qz, t_az = stats.kendalltau(q, epochs).statistic, stats.kendalltau(truth, epochs).statistic
    assert found["tau"] == pytest.approx(tau)
    assert found["tau_w"] == pytest.approx(stats.weightedtau(q, truth).statistic)
    assert found["tau_w_truth"] == pytest.approx(stats.weightedtau(truth, q, rank=None).statistic)
    assert found["tau_epoch"] == pytest.approx((tau - t_qz * t_az) / np.sqrt((1 - t_qz**2) * (1 - t_az**2)))
    assert found["gain"] == pytest.approx(truth[q.argmax()] - truth[-1])
    assert found["rel_1"] == pytest.approx(truth[q.argmax()] / truth.max())
    assert found["rel_3"] == pytest.approx(truth[np.argsort(q)[-3:]].max() / truth.max())
    assert found["rho"] == pytest.approx(stats.spearmanr(q, truth).statistic)
    assert found["r"] == pytest.approx(stats.pearsonr(q, truth).statistic)
    pairs = np.array(slow_resolved(track.truth, track.correct))
    agree = np.array([np.sign((q[i] - q[j]) * (truth[i] - truth[j])) for i, j in combinations(range(12), 2)])
    assert found["tau_resolved"] == pytest.approx(agree[pairs].mean())
    assert found["resolved_share"] == pytest.approx(pairs.mean())


def test_regret_without_noise_is_the_plain_loss():
    level = np.array([0.2, 0.9, 0.5, 0.7, 0.1])
    track = Track(np.repeat(level[:, None], 4, axis=1), np.arange(5))
    found = judge_track(track, {"good": level, "tied": [0, 0, 1, 1, 0], "bad": -level})
    assert row(found, "good")["regret"] == pytest.approx(0)
    assert row(found, "tied")["regret"] == pytest.approx(0.9 - 0.6)
    assert row(found, "bad")["regret"] == pytest.approx(0.8)
    assert row(found, "chance")["regret"] == pytest.approx(0.9 - level.mean(), abs=0.03)
    assert row(found, "oracle")["gain"] == pytest.approx(0.8)


def test_the_reference_rows():
    track = simple_track()
    frame = judge_track(track, {"s": np.arange(12.0), "chance": np.zeros(12)})
    assert frame["selector"].tolist() == ["s", *REFERENCE]
    last, source = row(frame, "last-epoch"), row(frame, "source-accuracy")
    assert last["tau"] == pytest.approx(stats.kendalltau(np.arange(12), track.mean).statistic)
    assert last["gain"] == 0
    assert np.isnan(last["tau_epoch"])
    assert source["tau"] == last["tau"]
    assert abs(row(frame, "chance")["tau"]) < 0.03
    assert row(frame, "oracle")[["tau", "tau_w", "rel_1", "rho"]].tolist() == pytest.approx([1, 1, 1, 1])
    assert row(frame, "oracle")["regret"] == 0
    assert row(frame, "ceiling")["tau"] == pytest.approx(ceiling(track.truth))


def test_constant_and_non_finite_scores_are_named_and_count_as_nothing():
    track = simple_track()
    q = np.arange(12.0)
    frame = judge_track(
        track,
        {"flat": np.full(12, 0.1), "nan": np.where(q == 3, np.nan, q), "inf": np.where(q > 5, np.inf, q),
         "one bad repeat": np.stack([q, np.full(12, np.nan)]), "one flat repeat": np.stack([q, 0 * q])},
    )  # fmt: skip
    problems = frame.set_index("selector")["problem"]
    assert problems["flat"] == "constant"
    assert problems["nan"] == "not finite at epoch 3"
    assert problems["inf"] == "not finite at epochs 6, 7, 8, 9 and 2 more"
    assert problems["one bad repeat"] == "no score at any checkpoint"
    assert problems["one flat repeat"] == ""
    for name in ("flat", "nan", "inf", "one bad repeat"):
        assert row(frame, name)["tau"] == 0
        assert row(frame, name)["p_chance"] == 1
        assert row(frame, name)["gain"] == pytest.approx(track.mean.mean() - track.mean[-1])
    regret = row(frame, "flat")["regret"]
    assert regret == pytest.approx(row(frame, "chance")["regret"], abs=0.005)
    assert regret == pytest.approx(row(frame, "nan")["regret"])


def test_a_source_accuracy_that_nobody_measured_is_named():
    frame = judge_track(simple_track(source_accuracy=None), {})
    assert row(frame, "source-accuracy")["problem"] == "no score at any checkpoint"


def test_figures_do_not_depend_on_the_other_selectors_nor_on_the_row_order():
    track, rng = simple_track(), np.random.default_rng(16)
    a, b = rng.normal(size=(2, 12))
    alone = row(judge_track(track, {"a": a}), "a")
    together = row(judge_track(track, {"b": b, "a": a}), "a")
    pd.testing.assert_series_equal(alone, together)
    order = rng.permutation(12)
    shuffled = Track(
        track.truth[order], order, track.correct[order], track.source_accuracy[order], "run", "set"
    )
    again = row(judge_track(shuffled, {"a": a[order]}), "a")
    pd.testing.assert_series_equal(alone, again)


def test_without_epochs_there_is_no_last_one():
    frame = judge_track(Track(np.random.default_rng(0).random((8, 3))), {"s": np.arange(8.0)})
    assert frame["selector"].tolist() == ["s", "chance", "oracle", "ceiling"]
    assert frame["tau_epoch"].isna().all()
    assert frame["gain"].isna().all()


def test_complete_leaves_out_what_has_no_truth_and_says_so():
    truth = np.random.default_rng(0).random((6, 3))
    truth[2] = np.nan
    truth[4, 1] = np.nan
    part, kept, said = complete(Track(truth, np.arange(10, 16)))
    assert kept.tolist() == [0, 1, 3, 4, 5]
    assert part.truth.shape == (5, 2)
    assert said == "no full truth at epoch 12; 1 of 3 seeds not complete"
    frame = judge_track(Track(truth, np.arange(10, 16)), {"s": np.arange(6.0)})
    assert frame[["checkpoints", "seeds", "left_out"]].iloc[0].tolist() == [5, 2, said]
    assert row(frame, "s")["tau"] == pytest.approx(
        stats.kendalltau([0, 1, 3, 4, 5], truth[[0, 1, 3, 4, 5]][:, [0, 2]].mean(axis=1)).statistic
    )


def test_complete_gives_up_checkpoints_where_no_two_seeds_are_whole():
    truth = np.random.default_rng(0).random((6, 3))
    truth[0, 0] = truth[1, 1] = truth[2, 2] = np.nan
    part, kept, said = complete(Track(truth, np.arange(6)))
    assert kept.tolist() == [3, 4, 5]
    assert part.truth.shape == (3, 3)
    assert said == "no full truth at epochs 0, 1, 2"
    truth[3, :2] = np.nan
    part, kept, _ = complete(Track(truth, np.arange(6)))
    assert kept.tolist() == [0, 1, 3, 4, 5]
    assert part.truth.shape == (5, 1)


def test_a_track_with_two_checkpoints_is_not_judged():
    frame = judge_track(Track(np.array([[0.1], [np.nan], [0.3]]), np.arange(3)), {"s": np.arange(3.0)})
    assert frame["selector"].tolist() == ["s", *REFERENCE]
    assert frame["tau"].isna().all()
    assert "at least 3" in frame["problem"][0]
