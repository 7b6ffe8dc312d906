"""PARC, LFC and the gram scores."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
from helpers.made_up import (
    SELECTORS,
    candidate,
    problem,
    score,
    source_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptbench.base.errors import InputError


def test_parc_of_clusters_is_the_largest_that_ties_allow():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 5)
    x = np.array([[0, 0, 0], [3, 0, 0.5], [0, 2, 0], [0.3, 0, 1.5]])[y] + 1e-3 * rng.normal(size=(20, 3))
    pairs, same = 190, 4 * 10
    expected = 100 * np.sqrt(3 * same * (pairs - same) / (pairs**2 - 1))
    assert score("parc", x, y) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_parc_ranks_ties_as_spearman_does(seed):
    rng = np.random.default_rng(seed)
    values, low = rng.integers(0, 6, 25).astype(float), rng.random(25) < 0.4
    if low.all() or not low.any() or np.ptp(values) == 0:
        return
    import sys

    module = sys.modules[SELECTORS["parc"].plugin.__module__]
    expected = scipy.stats.spearmanr(values, 1.0 - low)[0]
    assert module._spearman_binary(values, low) == pytest.approx(expected, abs=1e-12)


def test_lfc_of_the_labels_themselves_is_one():
    y = np.arange(30) % 3
    assert score("lfc", np.eye(3)[y], y) == pytest.approx(1.0, abs=1e-12)


def test_gram_of_orthogonal_features():
    y = np.array([0, 0, 0, 1, 1, 2])
    counts = np.bincount(y)
    expected = -2 * np.mean(counts * (1 - counts / 6)) / (1 + 1e-6)
    assert score("gram", 3 * np.eye(6, 8), y) == pytest.approx(expected, rel=1e-10)


def test_gram_transfer_between_equal_and_between_unrelated_tasks():
    x, y = problem(30, 8, 3)
    selector = SELECTORS["gram-transfer"].make()
    assert selector.score(candidate(x, y, (x, y))) == pytest.approx(0.0, abs=1e-4)
    assert selector.score(candidate(x, y, (x, (y + 1) % 3))) == pytest.approx(0.0, abs=1e-4)
    wide, apart = np.hstack([x, 0 * x]), np.hstack([0 * x, x])
    assert selector.score(candidate(wide, y, (apart, y))) == pytest.approx(score("gram", wide, y), rel=1e-9)


def test_the_length_of_a_row_does_not_matter_to_gram():
    x, y = problem(24, 7, 3)
    length = np.random.default_rng(0).uniform(0.1, 10, (24, 1))
    assert score("gram", x * length, y) == pytest.approx(score("gram", x, y), rel=1e-7)


@pytest.mark.parametrize(
    "label", ["parc:rows=20", "lfc:rows=20", "gram:rows=20", "gram-transfer:rows=20,source_rows=12"]
)
def test_more_rows_than_allowed_are_sampled_by_class_and_seed(label):
    x, y = problem(60, 7, 3)
    name = label.partition(":")[0]
    assert score(label, x, y, seed=1) == score(label, x, y, seed=1)
    assert score(label, x, y, seed=1) != score(label, x, y, seed=2)
    assert score(label, x, y) != score(name, x, y)
    assert score(f"{name}:rows=60", x, y) == score(name, x, y)


def test_equal_rows_of_two_classes_cost_gram_much():
    x, y = problem(24, 7, 3)
    doubled = np.vstack([x, x[:1]])
    apart, same = np.append(y, (y[0] + 1) % 3), np.append(y, y[0])
    assert score("gram", doubled, apart) < 1e3 * score("gram", x, y)
    assert score("gram", doubled, same) == pytest.approx(score("gram", x, y), rel=0.2)


def test_gram_transfer_compares_target_and_source_on_one_scale():
    x, y = problem(24, 7, 3)
    x[:, 3] = 4.0
    rows, classes = source_rows(7)
    unit = np.where(np.arange(7) == 3, np.inf, x.std(axis=0))
    selector = SELECTORS["gram-transfer"].make()
    scaled = candidate((x - x.mean(axis=0)) / unit, y, ((rows - x.mean(axis=0)) / unit, classes))
    found = selector.score(candidate(x, y, (rows, classes)).standardised)
    assert found == pytest.approx(selector.score(scaled), rel=1e-9)


def test_gram_transfer_says_what_is_missing():
    x, y = problem(24, 7, 3)
    with pytest.raises(InputError, match="source"):
        SELECTORS["gram-transfer"].make().score(candidate(x, y))
