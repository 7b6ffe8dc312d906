"""Numbers and names as text."""

from __future__ import annotations

import pytest

from ckptbench.base.text import (
    compact,
    counted,
    duration,
    listed,
    loss,
    number,
    seconds_entry,
    spread,
    typeset,
    with_interval,
)

NAN = float("nan")


def test_numbers() -> None:
    assert number(-0.0001) == "0.00"
    assert number(-0.4449) == "-0.44"
    assert number(NAN) == ""
    assert number(NAN, blank="none") == "none"
    assert with_interval(0.9, 0.6, 1.0) == "0.90±0.30"
    assert with_interval(0.9, NAN, NAN) == "0.90"
    assert spread([0.5, -0.2]) == "-0.20 to 0.50"
    assert spread([0.5, 0.501]) == "0.50"
    assert loss(-0.31) == "nothing (-0.3 points)"
    assert loss(1.26) == "1.3 points"


def test_two_digits_or_all_before_the_point() -> None:
    short = {
        0.0213: "0.021",
        -362.4: "-362",
        2.64e-5: "2.6e-5",
        0.0: "0",
        3e6: "3e6",
        -7.25: "-7.2",
        -1e8: "-1e8",
    }
    assert {value: compact(value) for value in short} == short


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0012, "1.2 ms"), (0.01, "10 ms"), (0.42, "0.4 s"), (12, "12 s"), (99.4, "99 s"),
     (210, "3.5 min"), (5996, "99.9 min"), (7600, "2.1 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_seconds_without_their_unit() -> None:
    assert [seconds_entry(s) for s in (0.0, 0.0004, 0.0213, 3.14, 250.4, NAN)] == [
        "0", "<.001", "0.021", "3.1", "250", ""
    ]  # fmt: skip


def test_counts_and_lists() -> None:
    assert [counted(n, "run") for n in (0, 1, 12, 1200)] == ["0 runs", "1 run", "12 runs", "1,200 runs"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_typesetting_touches_signs_and_units_alone() -> None:
    assert typeset("-0.3 to -0.1 (-2)") == "\u22120.3 to \u22120.1 (\u22122)"
    assert typeset("ridge-loo:alpha=-1, 5-20") == "ridge-loo:alpha=-1, 5-20"
    assert typeset("88.9 ± 0.4 % in 3 min at τ 0.5") == (
        "88.9\u00a0±\u00a00.4\u00a0% in 3\u00a0min at τ\u00a00.5"
    )
    assert typeset("5 hours, 3 seeds, τ is") == "5 hours, 3 seeds, τ is"
