"""The boards as text: everything is on them, nothing is cut off, and they rebuild from the tables alone."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import DIGEST, edit, write_results
from helpers.made_pages import write_pages

from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.outside import judge_table
from ckptbench.agreement.runs import compare
from ckptbench.agreement.sanity import EDGE
from ckptbench.base.types import Computed
from ckptbench.pages.comparison import comparison_text, judged_text
from ckptbench.pages.leaderboard import Leaderboards, _assumed_lines, build, difference, write
from ckptbench.pages.queries import ReportData
from ckptbench.results import Results
from ckptbench.suites import load_suite

LONG = "an-outside-score-of-great-length:scale=std,neighbours=12"
SELECTORS = {
    "logme": 0.5,
    "ridge-loo:scale=std": 0.1,
    "gram-transfer:scale=std": 2.0,
    LONG: 1.0,
    "random-gmm": 1.0,
}


def built(folder: Path) -> Leaderboards:
    return build(Results.read(folder))


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.fixture(scope="module")
def boards(tmp_path_factory) -> Leaderboards:
    folder = write_results(tmp_path_factory.mktemp("fake"), sources=1, targets=3, selectors=SELECTORS)

    def change(t: pd.DataFrame) -> pd.DataFrame:
        t["origin"] = np.where(t["selector"] == LONG, "plugins/outside_score_with_a_long_path.py", "built in")
        t.loc[t["selector"] == "logme", "score"] = 0.1
        return t

    edit(folder, "scores", change)
    return built(folder)


def test_the_terminal_table_fits_a_hundred_columns(boards):
    text = boards.terminal(100)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "..." not in text


@pytest.mark.parametrize("width", [100, 140])
def test_nothing_is_lost_from_the_terminal(boards, width):
    text = boards.terminal(width)
    for head in (
        "Feature extraction (FE, linear probe)",
        "Fine-tuning (FT, 10 epochs)",
        "last-epoch",
        "cells",
        "regret",
    ):
        assert head in text
    for name in (*SELECTORS, *REFERENCE):
        first = name[:20]  # a long name goes on in the next line
        assert first in text
    for line in (boards.note, *boards.footer, f"{LONG}: plugins/outside_score_with_a_long_path.py"):
        assert squeezed(line) in squeezed(text)


def test_a_long_name_folds_and_stays_whole(boards):
    column = []
    for line in boards.terminal(100).split("Fine-tuning")[0].splitlines():
        column.append(line[2:].split(" ")[0])
    assert LONG in "".join(column)


def test_reference_rows_are_set_apart(boards):
    lines = boards.terminal(100).split("Fine-tuning")[0].splitlines()
    rules = [i for i, line in enumerate(lines) if line.startswith("───")]
    assert len(rules) == 2
    below = [line.split()[0] for line in lines[rules[1] + 1 :] if line.startswith("  ")]
    assert below == list(REFERENCE)


def test_terminal_numbers_are_the_boards(boards):
    board = boards.boards["fe"].set_index("selector")
    line = next(x for x in boards.terminal(140).splitlines() if "ridge-loo:scale=std" in x)
    found = board.loc["ridge-loo:scale=std"]
    expected = [
        "1", "ridge-loo:scale=std", f"{found['tau']:.2f}", f"±{found['tau'] - found['noise_low']:.2f}",
        f"{found['tau_resolved']:.2f}", f"{found['tau_epoch']:.2f}", f"{found['regret_median']:.2f}",
        f"{found['gain_median']:.2f}", f"{found['helped']}/{found['harmed']}", "0.02", "36/36",
    ]  # fmt: skip
    assert line.split() == [text for text in expected if text != "nan"]


def test_a_constant_score_is_named(boards):
    said = "logme: constant on run0/target0, run0/target1, run0/target2 (tau 0, mean regret there)."
    assert squeezed(said) in squeezed(boards.terminal(100))
    assert f"- {said}" in boards.markdown()


def test_the_footer_says_what_the_suite_assumed():
    suite = load_suite("shrinkage-dose")
    lines = _assumed_lines(suite)
    assert all(line.startswith("Assumed, where the paper is silent, for ") for line in lines)
    for what in {what for protocol in suite.ft for what in protocol.assumed}:
        assert sum(what in line for line in lines) == 1
    assert _assumed_lines(load_suite("demo")) == []


def test_the_footer_says_where_the_numbers_come_from(boards):
    text = "\n".join(boards.footer)
    assert DIGEST in text
    assert "Cells computed by commit abc1234, on cpu, AVX2, fp32." in text
    assert "FE truth: tuned (3 seeds), raw (3 seeds); 216 of 216 cells; 7.2 min on cpu." in text
    assert "FT truth: short (3 seeds); 108 of 108 cells" in text
    assert "All truth is of ONE source run (run0): 3 source-target pairs" in text
    assert "Extraction: 1.8 min" in text


def test_markdown_is_two_whole_tables(boards):
    text = boards.markdown()
    assert text.startswith("# Leaderboards: A fake suite\n\n> Simulated, not measured.\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + len(SELECTORS) + len(REFERENCE))
    half = len(rows) // 2  # columns that are blank in a whole board are left out of it
    for board in (rows[:half], rows[half:]):
        assert len({row.count("|") for row in board}) == 1
    assert f"`{LONG}`" in text
    assert "*ceiling*" in text


def test_csv_and_json_hold_every_row(boards):
    table = pd.read_csv(io.StringIO(boards.csv()))
    assert len(table) == 2 * (len(SELECTORS) + len(REFERENCE))
    content = json.loads(boards.json())
    assert content["suite_digest"] == DIGEST
    assert [row["selector"] for row in content["fe"]] == boards.boards["fe"]["selector"].tolist()
    assert content["fe"][-1]["regret"] is None
    np.testing.assert_allclose(
        table.loc[table["goal"] == "ft", "tau"], [row["tau"] for row in content["ft"]], rtol=1e-5
    )


def test_boards_rebuild_to_the_byte(tmp_path):
    write_results(tmp_path, targets=1)
    first = built(tmp_path).files()
    assert built(tmp_path).files() == first
    assert set(first) == {"agreement.csv", "leaderboard.csv", "leaderboard.json", "LEADERBOARD.md"}


def test_several_runs_dirty_trees_and_gaps_are_said(tmp_path):
    write_results(tmp_path, sources=2, targets=1, protocols=(("tuned", "fe"), ("short", "ft")))

    def lose(t: pd.DataFrame) -> pd.DataFrame:
        short, early = t["goal"] == "ft", t["epoch"] > 1
        t.loc[short & early & (t["source"] == "run0"), "status"] = "failed"
        t.loc[~short & (t["epoch"] == 3) & (t["source"] == "run1"), "status"] = "failed"
        return t

    edit(tmp_path, "truth", lose)
    results = Results.read(tmp_path)
    computed = [
        Computed("truth", commit, "cuda", "", "bf16", "2.9", 3) for commit in ("def5678", "e" * 40 + "-dirty")
    ]
    origin = replace(results.provenance, computed=(*results.provenance.computed, *computed))
    replace(results, provenance=origin).write(tmp_path)
    found = built(tmp_path)
    text = "\n".join(found.footer)
    said = f"Cells computed by commits abc1234, def5678 and {'e' * 12}-dirty, on cpu, AVX2, fp32; cuda, bf16."
    assert said in text
    assert "2 source runs: 2 source-target pairs" in text
    assert "run0/target0/short: not judged: 2 checkpoints with truth: at least 3 are needed." in text
    assert "run1/target0/tuned: no full truth at epoch 3." in text
    assert found.boards["ft"]["pairs"].tolist() == [1] * 8


def test_tracks_left_out_for_one_reason_are_one_line(tmp_path):
    write_results(tmp_path, sources=1, targets=3, protocols=(("tuned", "fe"), ("short", "ft")))
    edit(tmp_path, "truth", lambda t: t[(t["goal"] == "fe") | (t["epoch"] < 2)])
    (line,) = [line for line in built(tmp_path).footer if "not judged" in line]
    assert line.startswith("run0/target0/short and 2 more tracks: not judged: 2 checkpoints")


def test_a_suite_without_fine_tuning_has_one_board(tmp_path):
    write_results(tmp_path, protocols=(("tuned", "fe"),))
    found = built(tmp_path)
    assert list(found.boards) == ["fe"]
    assert "Fine-tuning" not in found.terminal() + found.markdown()


def test_a_comparison_shows_both_track_by_track(boards):
    found = compare(boards.agreement, "ridge-loo:scale=std", LONG, "fe")
    text = comparison_text(found)
    assert max(map(len, text.splitlines())) <= 100
    for target in ("target0", "target1", "target2"):
        assert f"run0/{target}/tuned" in text
    assert "over 1 run and 3 source-target pairs" in text
    assert "too few runs" in text


def test_a_judged_table_with_groups_ends_in_their_means(tmp_path):
    path = tmp_path / "table.csv"
    lines = [
        f"m{i},{'ab'[i % 2]},{a},{q}"
        for i, (a, q) in enumerate(zip([1, 2, 3, 4, 5, 6], [1, 3, 2, 1, 3, 2], strict=True))
    ]
    path.write_text("\n".join(["model,set,acc,q", *lines]))
    judged = judge_table(path, group="set")
    text = judged_text(judged)
    assert max(map(len, text.splitlines())) <= 100
    mean = judged.loc[judged["selector"] == "q", "tau"].mean()
    line = next(x for x in text.splitlines() if x.startswith("mean") and " q " in x)
    assert line.split()[2] == f"{mean:.2f}"


def runs(folder: Path, sources: int, **suite: object) -> Leaderboards:
    """Boards of some runs with eleven scores, some noisier than the epoch is wrong."""
    selectors = {f"score-{i}": 0.05 + 0.4 * i for i in range(11)}
    write_pages(
        folder, suite, sources=sources, targets=1, epochs=8, seeds=2, protocols=(("fe-tuned", "fe"),),
        selectors=selectors,
    )  # fmt: skip
    return built(folder)


def test_one_run_prints_ten_scores_and_one_sentence_on_what_it_cannot_say(tmp_path):
    boards = runs(tmp_path, 1)
    text = boards.terminal(most=20)
    assert text.count("score-") == 10
    assert "1 more score, none above these: see LEADERBOARD.md." in text
    assert "too few" not in text
    assert text.count("No verdict:") == 1
    said = "No verdict: One source run shows how the scores order its own checkpoints and cannot say"
    assert squeezed(said) in squeezed(text)
    assert boards.markdown().count("score-") == 11
    for name in REFERENCE:
        assert name in text


def test_verdicts_say_their_family_and_intervals_their_source(tmp_path):
    boards = runs(tmp_path, 8, confirmatory=("score-0",))
    board = boards.boards["fe"].set_index("selector")
    assert board["verdict"]["score-0"] == board["verdict"]["score-1"] == "better"
    lines = boards.terminal(140).splitlines()
    first, second = (next(line for line in lines if f" {name} " in line) for name in ("score-0", "score-1"))
    assert " better " in first
    assert " better† " in second
    row = board.loc["score-0"]
    assert f"{row['tau']:.2f}±{row['tau_high'] - row['tau']:.2f}" in first
    assert f"±{row['noise_high'] - row['tau']:.2f}" in first
    said = "Named before the truth existed, and tested as a family of their own: score-0. † exploratory"
    assert said in boards.markdown()
    assert f"{row['helped']}/{row['harmed']}" in first


def test_both_bounds_of_the_best_are_said(boards):
    oracle = boards.boards["fe"].set_index("selector").loc["oracle"]
    said = (
        f"beats the last by {oracle['gain_median']:.2f} points (chosen on one half of the truth, measured on "
        f"the other) to {oracle['best_gain_median']:.2f} (chosen and measured on all of it); the difference "
        f"is resolved on {100 * oracle['best_resolved']:.0f} % of"
    )
    assert said in boards.markdown()


def test_a_run_that_did_not_learn_is_named_and_in_no_verdict(tmp_path):
    write_results(tmp_path, sources=2, targets=1, protocols=(("fe-tuned", "fe"),))
    results = Results.read(tmp_path)
    facts = results.checkpoints.assign(sound="")
    facts.loc[facts["source"] == "run1", "sound"] = "the loss of epoch 1 is 11.3, above chance"
    results = replace(results, checkpoints=facts)
    found = build(results)
    assert "run1 is in no verdict: the loss of epoch 1 is 11.3, above chance." in found.footer
    assert found.boards["fe"]["runs"].max() == 1
    results.write(tmp_path)
    study = ReportData(tmp_path)  # which draws it, under a name that says so
    assert study.groups("fe") == {"target0": {n: (n[:4], "target0") for n in ("run0", "run1 (unsound)")}}
    assert study.over("fe") == "run0 → target0"


def test_doubtful_cells_of_the_truth_are_named(tmp_path):
    write_results(tmp_path, targets=1)
    truth = Results.read(tmp_path).truth
    ft = truth["protocol"] == "short"
    away = ft & (truth["epoch"] == 4) & (truth["seed"] == 0)
    edge = (truth["protocol"] == "tuned") & (truth["epoch"] < 2)
    truth = truth.assign(
        deviation=np.where(away, 30.0, np.where(ft, 2.0, np.nan)), message=np.where(edge, EDGE, "")
    )
    footer = build(replace(Results.read(tmp_path), truth=truth)).footer
    assert f"tuned: {EDGE} in 6 of 36 cells (run0/target0 epoch 0, run0/target0 epoch 1)." in footer
    assert any(
        line.startswith("1 of 36 fine-tunings moved the weights more than 10 times as far") for line in footer
    )


def test_shared_training_examples_are_said(boards):
    text = "\n".join(boards.footer)
    assert "each draw 80 % of one training set: intervals are widened for the overlap." in text
    assert "Seeds of short train on the same examples: their intervals hold for this training set." in text


def test_a_local_board_says_where_it_differs_from_the_published_one(tmp_path: Path) -> None:
    record = write_results(tmp_path, sources=1, targets=2, selectors=SELECTORS)
    published = write(record)
    same = difference(published, record)
    assert len(same) == len(published.boards)
    assert all("the same tau" in sentence for sentence in same)

    results = Results.read(record)
    scores = results.scores.copy()
    scores.loc[scores["selector"] == "logme", "score"] *= -1
    changed = difference(build(replace(results, scores=scores)), record)
    assert all("1 of" in sentence and "(logme " in sentence for sentence in changed)

    other = replace(published, facts={**published.facts, "suite_digest": "0"})
    assert difference(other, record) == [
        "The published fake is of another version of the suite: not compared."
    ]
