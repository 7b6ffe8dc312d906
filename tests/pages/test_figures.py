"""The figures: what their titles say against the numbers, and how they are drawn."""

from __future__ import annotations

import re
from functools import cache
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from ckptbench.pages.figures import base, features, matrices, run, scores
from ckptbench.pages.figures.base import Figure
from ckptbench.pages.figures.features import Map
from ckptbench.pages.figures.run import Curve

NASTY = "<script>alert('$x_1$')</script>"


def curve(label: str = "fe-tuned", *values: float) -> Curve:
    mean = np.array(values or (0.5, 0.8, 0.7, 0.6))
    return Curve(label, np.arange(len(mean)) * 5, mean, np.full(len(mean), 0.01))


KNOWN = pd.DataFrame(
    {"epoch": [0, 1, 2], "measured": [0.5, 0.7, nan := float("nan")], "measured_low": [0.4, 0.6, nan],
     "measured_high": [0.6, 0.8, nan]}
)  # fmt: skip


RECORD = pd.DataFrame(
    [("last-epoch", "procedure", 0, 1.5, 1.0, 2.0), ("source-accuracy", "score", 0, 1.8, nan, nan),
     ("logme", "score", 20, 1.2, 0.5, 1.9), ("gbc", "score", 21, 2.2, 1.5, 2.9),
     ("50 iterations on 3 folds", "procedure", 200, 0.4, -0.1, 0.9)],
    columns=["name", "what", "seconds", "regret", "regret_low", "regret_high"],
)  # fmt: skip
SPECTRUM = pd.DataFrame({"epoch": 0, "index": range(1, 5), "sigma": [8.0, 4, 2, 0]})


@cache
def drawings() -> list[Figure]:
    """One of each kind, from numbers with known findings."""
    rng = np.random.default_rng(0)
    names = ["a", "b:scale=std", "c", "last-epoch", "source-accuracy"]
    taus = np.array([[1, 0.5, -0.2, 0, 0], [0.5, 1, 0.1, 0, 0], [-0.2, 0.1, 1, 0, 0]])
    taus = np.vstack([taus, np.zeros((2, 5))])
    nan = float("nan")
    intervals = {name: [(0.1 * i, 0.1 * i - 0.1, nan)] for i, name in enumerate(names)}
    return [
        run.truth("truth", "m", {"fe": [curve()], "ft": [curve("ft", 0.5, 0.6)]}, curve("source")),
        run.truths(
            "truths",
            {"a": {"x": {"fe": curve()}},
             "b": {"x": {"fe": curve("fe", 0.1, 0.2), "ft": curve("ft", 0.5, 0.4)}}},
            {"fe": np.array([1.0, 2.0]), "ft": np.array([-0.2])}, "",
        ),
        matrices.heat(
            "heat", "FE", {"a": ["x", "y"], "b": ["x"]},
            {"s": np.array([0.5, 0.3, -0.2]), "last-epoch": np.array([0.1, 0.4, -0.3])}, 1, "",
        ),
        run.parts("parts", "m", curve("F_m", 0.9, 0.8), curve("F_r", 0.2, 0.35), None),
        scores.scatter(
            "scatter", "m", curve(),
            [("a", np.array([1.0, 4, 3, 2]), 1.0), ("b", np.array([nan] * 4), 0.0)], "",
        ),
        scores.forest("forest", "m", "FE", ["p"], intervals, [0.9], 2, ""),
        matrices.protocols(
            "protocols", "m", ["fe", "fe", "ft"], ["p", "q", "r"], taus[:3, :3], {"a": taus[0, :3]}, ""
        ),
        matrices.alike("alike", "m", names, taus, 2, ""),
        scores.cost(
            "cost", "m", "FE", ["cheap", "bad", "dear"], np.array([0.01, 0.1, 10.0]),
            np.array([2.0, 3.0, -0.2]), {"last-epoch": 4.0}, {"extraction": 1.0, "FE truth": 300.0}, "",
        ),
        scores.procedures("procedures", "m", "FT", RECORD, ""),
        features.spectra("spectra", "m", SPECTRUM),
        features.embedding("map", "m", [Map("epoch 5", rng.normal(size=(30, 2)), np.arange(30) % 3)], ""),
        run.accuracy("accuracy", "Epoch 1 is the pick.", KNOWN, 1),
    ]  # fmt: skip


FINDINGS = {
    "truth": "m: FE peaks at epoch 5 (80.0 %), 20.0 points above the last; FT peaks at epoch 5 (60.0 %), "
    "the last.",
    "truths": "FE peaks before the last epoch on 1 of 2 pairs (1.2 if all epochs were equally good), and the "
    "best wins 1.5 points over the last in the median; FT peaks before the last epoch on 1 of 1 pair (0.5 if "
    "all epochs were equally good), and the best wins nothing (−0.2 points) over the last in the median.",
    "heat": "FE: s, best in the mean over 3 pairs (τ 0.20), is above last-epoch on 2 of them; its own τ "
    "ranges from −0.20 to 0.50.",
    "parts": "m: the main part F_m falls 10.0 points from epoch 0 to 5, the residual F_r rises 15.0 points "
    "from epoch 0 to 5.",
    "scatter": "m: of these scores a follows the truth best (τ 1.00), b least (τ 0.00).",
    "forest": "m, FE: a reaches τ 0.00; last-epoch 0.30, source-accuracy 0.40, perfect knowledge 0.90.",
    "protocols": "m: between protocols, FE τ 0.50, FE with FT τ −0.20 to 0.10.",
    "alike": "m: a and b (std) (τ 0.50) rank the checkpoints most alike, a and c (τ −0.20) least.",
    "cost": "m, FE: dear loses nothing (−0.2 points) of accuracy at 10 s a checkpoint, the least of all; the "
    "cheapest, cheap, loses 2.0 points of accuracy at 10 ms a checkpoint; extraction costs 1.0 s; FE truth "
    "costs 5.0 min.",
    "procedures": "m, FT: 50 iterations on 3 folds at 3.3 min a target loses 0.4 points (−0.1 to 0.9 across "
    "runs), the least of all; last-epoch, unmeasured, loses 1.5 points (1.0 to 2.0 across runs).",
    "spectra": "m: the middle singular value is 25 % of the largest at epoch 0 and 25 % at epoch 0.",
}


def test_titles_say_the_finding_in_numbers() -> None:
    titles = {figure.name: figure.title.replace("\u00a0", " ") for figure in drawings()}
    assert {name: titles[name] for name in FINDINGS} == FINDINGS


def test_protocols_on_parts_of_the_features_stay_out_of_the_title_unless_alone() -> None:
    taus = np.array([[1, 0.5, 0.9], [0.5, 1, np.nan], [0.9, np.nan, 1]])
    title = matrices.protocols("x", "m", ["fe", "fe", "fe-main"], ["p", "q", "main"], taus, {}, "").title
    assert title == "m: between protocols, FE τ\u00a00.50."
    title = matrices.protocols(
        "x", "m", ["fe", "fe-main", "fe-residual"], ["p", "main", "rest"], taus, {}, ""
    ).title
    assert title == "m: between protocols, parts of the features τ\u00a00.50 to 0.90."


def test_a_heat_map_has_the_longer_list_down_and_numbers_only_where_they_have_room() -> None:
    def texts(pairs: int, selectors: int) -> list[str]:
        taus = {name: np.full(pairs, 0.25) for name in ("last-epoch", *map(str, range(selectors - 1)))}
        labels = [f"pair {i}" for i in range(pairs)]
        drawn = ElementTree.fromstring(matrices.heat("x", "FE", {"only": labels}, taus, 1, "").svg)
        found = [element for element in drawn.iter() if element.tag.endswith("}text")]
        turned = ["rotate(-90 " in str(element.attrib.get("transform")) for element in found]
        words = ["".join(element.itertext()) for element in found]
        assert "only" not in words  # the heading of one group says nothing
        assert {word for word, turn in zip(words, turned, strict=True) if turn} == (
            set(taus) if pairs > selectors else set(labels)
        )
        return words

    assert texts(12, 20).count(".25") == 240
    assert ".25" not in texts(30, 20)


def test_drawings_are_the_same_bytes_every_time_whatever_the_users_style() -> None:
    import matplotlib as mpl

    first = [figure.file() for figure in drawings()]
    with mpl.rc_context({"font.size": 20, "axes.grid": False, "text.usetex": True, "svg.fonttype": "path"}):
        assert [figure.file() for figure in drawings.__wrapped__()] == first


def test_drawings_are_well_formed_follow_the_ground_and_carry_no_date() -> None:
    for figure in drawings():
        for text in (figure.svg, figure.file()):
            root = ElementTree.fromstring(text)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "currentColor" in text
            assert "#000000" not in text
            assert not re.search(r"<metadata|\b20\d\d-\d\d-\d\d", text)
        assert "<style" not in figure.svg  # which would reach the page around it
        words = "".join(root.itertext())
        assert all(word in words for word in figure.title.split())


def test_blue_and_orange_of_the_data_are_told_from_either_ground() -> None:
    """At least 2:1 for marks, 3:1 for those of the first three series (WCAG's ratio)."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    for ground in ("#ffffff", "#15181c"):
        for place, colour in enumerate(base.COLOURS):
            dark, light = sorted((luminance(colour), luminance(ground)))
            assert (light + 0.05) / (dark + 0.05) >= (3 if place < 3 else 2), (colour, ground)


def test_text_of_a_drawing_is_escaped_and_dollars_are_no_mathematics() -> None:
    figure = scores.scatter("x", NASTY, curve(), [("$a_1$ & <b>", np.arange(4.0), 0.3)], "")
    text = figure.file()
    words = "".join(ElementTree.fromstring(text).itertext())
    assert "$a_1$ & <b>" in words
    assert NASTY in words
    assert "<script>" not in text


def test_neighbours_of_a_map_against_a_slow_count() -> None:
    rng = np.random.default_rng(1)
    places, labels = rng.normal(size=(50, 2)), rng.integers(3, size=50)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    slow = np.mean([labels[row.argmin()] == labels[i] for i, row in enumerate(distance)])
    assert Map("", places, labels).neighbours() == slow
    assert Map("", np.zeros((4, 2)), np.array([0, 0, 0, 0])).neighbours() == 1.0


def test_what_was_measured_is_told() -> None:
    figure = run.accuracy("x", "t", KNOWN, 1)
    assert figure.alt == "Measured: epoch 0 50.0\u00a0%, epoch 1 70.0\u00a0%."
    assert run.accuracy("x", "t", KNOWN[["epoch", "measured"]], 1).alt == figure.alt
