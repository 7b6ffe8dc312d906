"""What all scores have in common: definitions, bounds, invariances, what they refuse.

``ckptbench check`` runs on each of them in ``test_conformance``; what it asks is not asked again here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.made_up import CASES, SELECTORS, SHAPES, blobs, problem, rotation, score
from helpers.references import REFERENCES
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptbench.base.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:the H-score says nothing"),
    pytest.mark.filterwarnings("ignore:perfect fit"),
    pytest.mark.filterwarnings("ignore:.*for borda"),
]
NAMES = sorted({label.partition(":")[0] for label in REFERENCES} | {"sfda", "etran", "ncti", "kite", "borda"})


@pytest.mark.parametrize("label", REFERENCES)
@pytest.mark.parametrize("case", [*map(str, SHAPES), *CASES])
def test_scores_are_their_definitions(label: str, case: str) -> None:
    reference, relative = REFERENCES[label]
    features, labels = CASES[case] if case in CASES else problem(*next(s for s in SHAPES if str(s) == case))
    if case in CASES and ("gram" in label or "pactran" in label or "n-leep" in label):
        return  # slow, or at another tolerance where rows are rounded
    before = features.copy()
    features.flags.writeable = False
    found = score(label, features, labels)
    expected = reference(features.astype(np.float64), labels)
    assert found == pytest.approx(expected, rel=max(relative, 1e-6 * (case in CASES)), abs=1e-8)
    np.testing.assert_array_equal(features, before)


# Evidence of standardised features goes with centred labels: in test_logme. The source rows of gram-transfer
# move with the target's: in test_task_similarity.
OWN = {"logme", "fm-logme", "fr-logme", "gram-transfer"}


@pytest.mark.parametrize("label", [label for label in REFERENCES if ":" not in label and label not in OWN])
def test_standardised_scores_are_scores_of_standardised_features(label: str) -> None:
    features, labels = CASES["tall"]
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    found = score(label, features, labels, scale="std")
    assert found == pytest.approx(REFERENCES[label][0](standardised, labels), rel=1e-6, abs=1e-8)


SIZES = {
    "n": st.integers(6, 40),
    "d": st.integers(3, 50),
    "classes": st.integers(2, 5),
    "seed": st.integers(0, 99),
}
HEAVY = {"tsvd", "n-leep", "gram-transfer"}


def declared(name: str, classes: int) -> tuple[float, float]:
    low, high = SELECTORS[name].make().bounds
    return (low(classes) if callable(low) else low), (high(classes) if callable(high) else high)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(**SIZES, spread=st.sampled_from([1e-3, 1.0, 50.0]))
def test_scores_keep_their_declared_bounds(n: int, d: int, classes: int, seed: int, spread: float) -> None:
    labels = np.arange(n) % classes
    features = spread * blobs(n, d, labels, seed)
    for name in NAMES:
        if (name, n) in [(name, k) for name in ("two-nn", "h-score-debiased") for k in range(10)]:
            continue  # too few rows
        if hasattr(SELECTORS[name].make(), "bounds"):
            low, high = declared(name, classes)
            assert low - 1e-9 <= score(name, features, labels) <= high + 1e-9, name


DRAWS = {"bss", "bss-raw", "bss-tail", "tsvd", "fm-ridge-cv", "fr-ridge-cv", "n-leep"}
FOLDED = {"n-leep", "fm-ridge-cv", "fr-ridge-cv"}  # draw class by class
NOT_ROTATION = {"etran", "borda"}
SCALED = {"disco", "int", "bss-raw", "transrate", "gbc", "sfda", "ncti", "etran", "pactran-gauss", "tmi"}
ROUGH = {"n-leep": 1e-4, "pactran-gauss": 1e-5}  # where an iteration stops
TRANSLATED = {
    "disco",
    "int",
    "kite",
    "transrate",
    "gbc",
    "parc",
    "sfda",
    "ncti",
    "pactran-gauss",
    "tmi",
    "lda-loo",
    "h-score",
    "ridge-loo",
}


def close(name: str, expected: float) -> Any:
    return pytest.approx(expected, rel=ROUGH.get(name, 1e-5), abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d", "classes"), [(24, 7, 3), (15, 40, 4), (30, 30, 2)])
def test_invariances(name: str, n: int, d: int, classes: int) -> None:
    labels = np.arange(n) % classes
    features = blobs(n, d, labels)
    rng = np.random.default_rng(0)
    rows, names = rng.permutation(n), np.roll(np.arange(classes), 1)
    turn, step = rotation(0, d), rng.normal(size=d)
    found = close(name, score(name, features, labels))
    if name not in DRAWS and not SELECTORS[name].pool:
        assert score(name, features[rows], labels[rows]) == found, f"{name}: row order"
    if name not in FOLDED:
        assert score(name, features, names[labels]) == found, f"{name}: label names"
    if name not in NOT_ROTATION | {"n-leep"}:
        moved = score(name, features @ turn, labels, transform=lambda z: z @ turn)
        assert moved == found, f"{name}: rotation"
    if name not in SCALED:
        moved = score(name, 7.0 * features, labels, transform=lambda z: 7.0 * z)
        assert moved == found, f"{name}: scale"
    if name in TRANSLATED:
        assert score(name, features + step, labels, transform=lambda z: z + step) == found, name


REFUSED = {
    ("disco", "constant"): "same features",
    ("disco", "zero"): "same features",
    ("alpha-req", "constant"): "found 0",
    ("alpha-req", "zero"): "found 0",
    ("logme", "zero"): "all zero",
    ("fm-logme", "zero"): "all zero",
    ("fr-logme", "zero"): "all zero",
    ("tmi", "all lone"): "two examples",
    ("tmi", "two rows"): "two examples",
    ("alpha-req", "two rows"): "found 1",
    ("cdnv", "constant"): "same mean",
    ("cdnv", "zero"): "same mean",
    ("cdnv-directional", "constant"): "same mean",
    ("cdnv-directional", "zero"): "same mean",
    ("h-score-debiased", "all lone"): "more examples than classes",
    ("h-score-debiased", "two rows"): "more examples than classes",
    ("two-nn", "constant"): "10 different",
    ("two-nn", "zero"): "10 different",
    ("two-nn", "two rows"): "10 different",
}


@pytest.mark.parametrize("label", [*NAMES, "sfda:reading=code", "gbc:reading=code", "tmi:norm=max"])
@pytest.mark.parametrize(
    "case",
    ["constant", "zero", "one constant feature", "copies", "lone members", "all lone", "two rows", "huge"],
)
def test_degenerate_input_gives_a_number_or_a_reason(label: str, case: str) -> None:
    x, y = problem(24, 7, 3)
    if case == "constant":
        x = np.full_like(x, 0.1)
    elif case == "zero":
        x = np.zeros_like(x)
    elif case == "one constant feature":
        x[:, 2] = 5.0
    elif case == "copies":
        x[1:12] = x[0]
    elif case == "lone members":
        y = np.concatenate([np.zeros(20, int), np.arange(1, 5)])
    elif case == "all lone":
        y = np.arange(24)
    elif case == "two rows":
        x, y = x[:2], np.array([0, 1])
    elif case == "huge":
        x = 1e4 * x
    refused = REFUSED.get((label.partition(":")[0], case))
    if refused is None:
        assert np.isfinite(score(label, x, y))
    else:
        with pytest.raises(InputError, match=refused):
            score(label, x, y)


@pytest.mark.parametrize("name", NAMES)
def test_a_gap_in_the_labels_does_not_matter(name: str) -> None:
    x, y = problem(24, 7, 3)
    assert score(name, x, np.array([0, 2, 5])[y]) == close(name, score(name, x, y))


@pytest.mark.parametrize(
    "label",
    [
        "transrate:weights=odd", "gbc:reading=odd", "parc:reading=odd", "sfda:reading=odd",
        "etran:reading=odd", "logme:reading=odd", "pactran-gauss:reading=odd", "pactran-gauss:ratio=0",
        "lfc:norm=odd", "tmi:norm=odd", "lda-loo:shrinkage=2",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(label: str) -> None:
    with pytest.raises(InputError, match=label.partition(":")[0]):
        score(label, *problem(24, 7, 3))


COLUMNS = ("kite", "logme", "fm-logme", "fr-logme", "fm-share", "tsvd", "ridge-loo-error")


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_numbers_are_refused_where_classes_are_needed(name: str) -> None:
    x, _ = problem(24, 7, 3)
    if "labels" not in SELECTORS[name].needs or name in COLUMNS:
        assert np.isfinite(score(name, x, x[:, :2]))
    else:
        with pytest.raises(InputError, match="one class per example"):
            score(name, x, x[:, :2])


@pytest.mark.parametrize("name", [spec.name for spec in SELECTORS.specs.values() if "scale" in spec.defaults])
def test_every_feature_score_names_its_paper_and_what_it_costs(name: str) -> None:
    plugin = SELECTORS[name].plugin
    assert SELECTORS[name].defaults["scale"] == "raw"
    assert plugin.paper  # type: ignore[attr-defined]
