"""The report: what the page says against the tables it was made from, and how it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_results import edit
from helpers.made_pages import NASTY, PROTOCOLS, Page, add_features, write_pages

from ckptbench.base.errors import InputError
from ckptbench.base.text import number
from ckptbench.pages import report
from ckptbench.pages.advice import advise
from ckptbench.pages.queries import ReportData, grouped


def study_of(folder: Path) -> ReportData:
    return ReportData(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one source run and two targets; one score constant, one with a nasty name, one random."""
    selectors = {
        "logme": 0.3,
        "logme:scale=std": 0.5,
        "ridge-loo": 0.1,
        "random-gmm": 1.0,
        NASTY: 0.2,
        "nil": 1.0,
    }
    made = write_pages(
        tmp_path_factory.mktemp("results") / "fake", targets=2, protocols=PROTOCOLS, selectors=selectors
    )
    edit(made, "scores", lambda t: t.assign(score=t["score"].where(t["selector"] != "nil", 0.5)))
    add_features(made, [("run0", "target0"), ("run0", "target1")], range(12))
    return made


@pytest.fixture(scope="module")
def study(folder: Path) -> ReportData:
    return study_of(folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(report.write_report(folder).read_text())


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One target, one protocol, one seed, no source accuracy, a score that took no time; a figure of long ago
    lies about. The page is written in a process of its own."""
    made = write_pages(
        tmp_path_factory.mktemp("few") / "few", targets=1, epochs=4, protocols=PROTOCOLS[:1], seeds=1,
        selectors={"logme": 0.3},
    )  # fmt: skip
    edit(made, "checkpoints", lambda t: t.assign(source_accuracy=""))
    edit(made, "scores", lambda t: t.assign(seconds=0.0))
    (made / "figures").mkdir()
    (made / "figures" / "old.svg").write_text("")
    code = (
        "import sys; from ckptbench.pages.report import write_report; "
        f"write_report({str(made)!r}); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    return made


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 source runs x 4 targets: FE on all 12 pairs, FT on 6 that are neither the first nor the last; one
    score follows the truth, one is constant on every pair; figures of a time with fewer pairs lie about."""
    selectors = {f"score-{i}": 0.1 + 0.2 * i for i in range(8)} | {"nil": 1.0}
    made = write_pages(
        tmp_path_factory.mktemp("wide") / "wide", sources=3, targets=4, epochs=14, seeds=2, examples=100,
        protocols=(("fe-tuned", "fe"), ("fe-raw", "fe"), ("ft-10", "ft")), selectors=selectors,
    )  # fmt: skip
    some = [f"target{t}" for t in (1, 2)]
    edit(made, "truth", lambda t: t[(t["goal"] == "fe") | t["target"].isin(some)])
    edit(made, "scores", lambda t: t.assign(score=t["score"].where(t["selector"] != "nil", 0.5)))
    add_features(made, [("run0", "target1"), ("run2", "target2")], range(14))
    (made / "figures").mkdir()
    (made / "figures" / "truth-run1-target3.svg").write_text("")
    report.write_report(made)
    return made


# ---------------------------------------------------------------------------------------- the page


def test_page_loads_nothing_from_outside(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, name, value)
        assert "url(http" not in (attributes.get("style") or "")
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in {"href", "xlink:href"} and (value or "").startswith("#"):
                assert value[1:] in ids  # type: ignore[index]
            for used in re.findall(r"url\(#([^)]+)\)", value or ""):
                assert used in ids


def test_every_figure_has_a_title_with_numbers_and_an_alternative_text(page: Page, folder: Path) -> None:
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    names = {attributes["id"] for tag, attributes in page.tags if tag == "figure"}
    each = ["truth", "parts", "tau-fe", "tau-ft", "scores-fe", "scores-ft", "protocols", "spectra", "tsne"]
    assert {f"{what}-run0-target{t}" for what in each for t in (0, 1)} <= names
    assert {"cost-fe", "cost-ft", "alike"} <= names
    assert len(drawings) == len(names) == len(list((folder / "figures").glob("*.svg")))
    for attributes in drawings:
        assert attributes["role"] == "img"
        label = attributes["aria-label"] or ""
        assert re.search(r"\d", label.split(".")[0] + label.split(".")[1])
        assert len(label) > 60


def test_a_nasty_name_stays_text(page: Page) -> None:
    assert NASTY in page.words
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "Runs & targets <made up>" in page.words


def test_what_to_take_is_said_first_and_is_what_the_tables_say(page: Page, study: ReportData) -> None:
    board = study.boards.boards["fe"]
    best = board["selector"].iloc[0]
    start = page.words[: page.words.index("Accuracy along the run", page.words.index("What to take") + 200)]
    assert f"For a linear probe on frozen features (FE), rank with {best}" in start
    track = next(t for t in study.tracks if t.name == "run0/target1/fe-tuned")
    scores = study.results.scores
    cells = scores[(scores["target"] == "target1") & (scores["selector"] == best)]
    means = cells.groupby("epoch")["score"].mean()
    place = int(np.argmax(means.to_numpy()))
    assert f"target1 : take epoch {means.index[place]}" in start
    assert f"{100 * track.truth[place].mean():.1f}" in start
    assert f"The best is epoch {track.truth.mean(axis=1).argmax()}" in start
    assert "1 source run: too few for a verdict (8 are needed)." in start


def test_what_costs_nothing_is_advised_where_no_score_beats_it(tmp_path: Path) -> None:
    made = write_pages(
        tmp_path / "trend",
        targets=1,
        epochs=8,
        protocols=(("ft-10", "ft"),),
        selectors={"logme": 50.0, "knn": 60.0},
    )
    noise = np.random.default_rng(0)
    edit(
        made, "truth",
        lambda t: t.assign(accuracy=0.5 + 0.02 * t["epoch"] + 0.001 * noise.normal(size=len(t)), row=-1),
    )  # fmt: skip
    trend = study_of(made)
    advice = advise(trend, "ft")
    assert advice.selector == "last-epoch"
    assert advice.picks[0].pick == 7
    best = trend.boards.boards["ft"].iloc[0]
    far = advice.far.replace("\u00a0", " ").replace("\u2212", "-")
    assert "Its τ with the truth is 1.00" in far
    other = f"{best['selector']}, the best of 2 scores computed from features, has {number(best['tau'])}"
    assert other in far
    assert "the last checkpoint" not in far
    assert advice.sure.endswith("It costs nothing, and none of 2 scores has a higher mean τ here.")


def test_a_verdict_is_told_where_there_are_runs_enough(tmp_path: Path) -> None:
    made = write_pages(
        tmp_path / "many",
        sources=9,
        targets=1,
        epochs=8,
        protocols=(("fe-tuned", "fe"),),
        selectors={"logme": 0.05},
        examples=2000,
    )
    many = study_of(made)
    advice = advise(many, "fe")
    row = many.boards.boards["fe"].iloc[0]
    assert row["verdict"] == "better"
    assert advice.sure.startswith(
        "Over 9 source runs its τ is better than that of the epoch "
        f"(p = {row['p']:.2g}, corrected for all exploratory scores). Its first choice helps "
    )
    assert len(advice.picks) == 9


def test_boards_hold_every_row_and_the_baselines_apart(page: Page, study: ReportData) -> None:
    for kind in ("fe", "ft"):
        board = study.boards.boards[kind]
        table, tracks = report._goal_tables(study, kind)
        assert [row[1].text for row in (*table.rows, *table.fixed)] == board["selector"].tolist()
        assert [row[1].text for row in table.fixed] == [
            "last-epoch", "source-accuracy", "chance", "oracle", "ceiling"
        ]  # fmt: skip
        assert [column.title for column in table.columns][2:4] == ["tau ± runs", "± truth noise"]
        assert [row[2].sort for row in table.rows] == pytest.approx(board["tau"][: len(table.rows)].tolist())
        by_hand = [t for t in study.tracks if t.goal == kind]
        assert len(tracks.columns) == 1 + len(by_hand)
        assert tracks.rows[0][1].sort == study.statistic(by_hand[0], board["selector"][0], "tau")
    assert "constant on run0/target0, run0/target1" in page.words


def test_many_pairs_make_a_page_of_overviews_that_stays_small(wide: Path) -> None:
    text = (wide / "report.html").read_text()
    page = Page(text)
    names = [attributes["id"] for tag, attributes in page.tags if tag == "figure"]
    files = {path.stem for path in (wide / "figures").glob("*.svg")}
    assert sorted(names) == sorted(files)  # each once, and nothing of earlier days
    overviews = {"truths", "protocols", "alike"} | {
        f"{what}-{goal}" for what in ("tau", "pairs", "cost", "procedures") for goal in ("fe", "ft")
    }
    full = {
        f"{what}-{pair}"
        for what in ("truth", "tau-fe", "tau-ft", "scores-fe", "scores-ft", "protocols", "spectra", "tsne")
        for pair in ("run0-target1", "run2-target2")
    }
    assert files == overviews | full
    assert len(files) <= 40
    assert len(text) < 3e6
    labels = [attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) == len(files)
    assert all(re.search(r"\d", label) and len(label) > 60 for label in labels)
    assert (
        "Of 12 source-target pairs, two are drawn in full, here and below: the first and the last in "
        "truth.csv that have FE and FT truth, run0 → target1 and run2 → target2." in page.words
    )


def test_what_is_said_of_many_pairs_counts_those_that_have_the_truth(wide: Path) -> None:
    study = study_of(wide)
    words = Page((wide / "report.html").read_text()).words.replace("\u00a0", " ")
    assert advise(study, "fe").sure.startswith("3 source runs: too few for a verdict")
    for kind, count in (("fe", 12), ("ft", 6)):
        board = study.boards.boards[kind]
        best = board["selector"][0]
        rows = study.boards.agreement.query("goal == @kind")
        taus = rows.pivot_table("tau", ["source", "target"], "selector")  # means over protocols
        assert len(taus) == count
        above = (taus[best] > taus["last-epoch"]).sum()
        assert above > 0
        assert (
            f"{kind.upper()}: {best}, best in the mean over {count} pairs (τ {taus[best].mean():.2f}), is "
            f"above last-epoch on {above} of them;" in words
        )
        assert f"Mean over 3 runs, {kind.upper()}: {best} reaches τ {taus[best].mean():.2f};" in words
        tracks = [t for t in study.tracks if t.protocol == {"fe": "fe-tuned", "ft": "ft-10"}[kind]]
        early = sum(int(t.mean.argmax()) < 13 for t in tracks)
        assert 0 < early < 12
        assert f"{kind.upper()} peaks before the last epoch on {early} of {count} pairs (" in words
        _, picks, table = report._goal_tables(study, kind)
        assert [entry.sort for entry in table.rows[0][1:]] == pytest.approx(
            [taus.loc[pair, best] for pair in study.having(kind)]
        )
        assert len(picks.rows) == count
        assert [row[1].text for row in picks.rows] == [
            str(pick.curve.epochs[pick.pick]) for pick in advise(study, kind).picks
        ]
    constant = next(report._goal_tables(study, "fe")).rows
    small = next(row[1].small for row in constant if row[1].text == "nil")
    assert small.startswith("constant on run0/target0, ")
    assert small.endswith(" …")
    assert len(small) <= 160


def test_five_pairs_of_one_goal_one_seed_and_no_source_accuracy(tmp_path: Path) -> None:
    """The first number of pairs that are not drawn one by one, and the least there can be of each."""
    made = write_pages(
        tmp_path / "five", sources=5, targets=1, epochs=4, protocols=PROTOCOLS[:1], seeds=1,
        selectors={"logme": 0.3},
    )  # fmt: skip
    edit(made, "checkpoints", lambda t: t.assign(source_accuracy=""))
    report.write_report(made)
    names = {path.stem for path in (made / "figures").glob("*.svg")}
    full = {f"{what}-run{i}-target0" for what in ("truth", "tau-fe", "scores-fe") for i in (0, 4)}
    assert names == {"truths", "tau-fe", "pairs-fe", "cost-fe", "procedures-fe"} | full


def test_pairs_are_grouped_below_the_side_that_has_fewer() -> None:
    pairs = [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")]
    assert grouped(pairs) == {
        "a": {"x": ("a", "x"), "y": ("a", "y"), "z": ("a", "z")}, "b": {"x": ("b", "x")}
    }  # fmt: skip
    assert grouped([("a", "x"), ("b", "x")]) == {"x": {"a": ("a", "x"), "b": ("b", "x")}}


def test_missing_features_are_said_in_words(few: Path, page: Page) -> None:
    words = Page((few / "report.html").read_text()).words
    assert "Not shown: this results folder has no spectra.csv and embedding.csv." in words
    assert "Not shown" not in page.words


def test_a_report_of_little_is_written_without_torch(few: Path) -> None:
    names = {path.stem for path in (few / "figures").glob("*.svg")}
    assert names == {
        "truth-run0-target0", "tau-fe-run0-target0", "scores-fe-run0-target0", "procedures-fe"
    }  # fmt: skip
    words = Page((few / "report.html").read_text()).words
    assert "What to take" in words
    assert "the source accuracy has" not in words  # nobody measured it
    assert "perfect knowledge would have" not in words
    assert "To fine-tune" not in words


def test_citations_come_from_the_plugins(study: ReportData) -> None:
    table = report._citations(study)
    cited = {row[0].text: row[1].text for row in table.rows}
    assert cited["logme"].startswith("You et al. 2021")
    assert next(paper for names, paper in cited.items() if NASTY in names) == "no paper is named (built in)"


def test_report_needs_a_track(tmp_path: Path) -> None:
    made = write_pages(tmp_path / "fake", targets=1, epochs=2, protocols=(("fe-tuned", "fe"),))
    with pytest.raises(InputError, match="no track of suite fake can be judged yet"):
        report.write_report(made)
