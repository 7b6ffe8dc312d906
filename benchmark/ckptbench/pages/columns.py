"""Tables as every form shows them (terminal, Markdown, HTML), and the columns of a leaderboard, declared
once.

CSV and JSON hold the numbers themselves and have no layout.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.runs import MIN_RUNS
from ckptbench.base.text import number, seconds_entry, with_interval

GOALS = {"fe": "Feature extraction", "ft": "Fine-tuning"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table: its head (a line break is where a terminal breaks it), what it means, whether it
    holds words, whether it names the row (and stays in sight when a phone scrolls sideways)."""

    head: str
    meaning: str = ""
    words: bool = False
    key: bool = False
    wide: bool = False

    @property
    def title(self) -> str:
        return self.head.replace("\n", " ")


@dataclass(frozen=True)
class Entry:
    """What a table shows at one place, what it is sorted by there, and a remark below it."""

    text: str
    sort: float | str
    small: str = ""


@dataclass(frozen=True)
class Table:
    """``rows`` can be sorted; ``fixed`` are the reference rows, set apart below them; ``notes`` come last."""

    caption: str
    columns: list[Column]
    rows: list[list[Entry]]
    fixed: list[list[Entry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, caption: str, heads: Sequence[Column | str], rows: Iterable[Iterable[object]], fixed: int = 0
    ) -> Table:
        """A table of texts, numbers and entries, the last ``fixed`` rows set apart; a head that is a text
        stands over numbers."""
        columns = [head if isinstance(head, Column) else Column(head) for head in heads]
        entries = [[entry(value) for value in row] for row in rows]
        ranked = len(entries) - fixed
        return cls(caption, columns, entries[:ranked], entries[ranked:])

    def markdown(self) -> list[str]:
        """Lines of a Markdown table: scores as code, reference rows in italics."""
        lines = [_markdown_row(column.title for column in self.columns)]
        lines.append(_markdown_row("---" if column.words else "---:" for column in self.columns))
        for mark, rows in (("`", self.rows), ("*", self.fixed)):
            for row in rows:
                both = zip(self.columns, row, strict=True)
                lines.append(_markdown_row(f"{mark}{e.text}{mark}" if c.key else e.text for c, e in both))
        return lines


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def word_column(head: str, key: bool = False) -> Column:
    return Column(head, words=True, key=key)


def entry(value: Any) -> Entry:
    """A text as it is, a whole number in full, another number to two digits."""
    if isinstance(value, Entry):
        return value
    if isinstance(value, str):
        return Entry(value, value)
    if isinstance(value, int | np.integer):
        return Entry(str(value), int(value))
    return number_entry(value)


def number_entry(value: float, digits: int = 2) -> Entry:
    return Entry(number(value, digits), float(value))


def interval_entry(value: float, low: float, high: float, digits: int = 2) -> Entry:
    return Entry(with_interval(value, low, high, digits), float(value))


def records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


# ------------------------------------------------------------------------------------ the leaderboard


def _interval(name: str, ends: str = "") -> Callable[[Row], Entry]:
    """A number with its interval, from the columns ``name``, ``ends_low`` and ``ends_high``."""
    columns = (name, f"{ends or name}_low", f"{ends or name}_high")
    return lambda row: interval_entry(*(row[column] for column in columns))


def _noise(row: Row) -> Entry:
    half = max(row["tau"] - row["noise_low"], row["noise_high"] - row["tau"])
    return Entry(f"±{number(half)}" if np.isfinite(half) else "", float(half))


def _verdict(row: Row) -> Entry:
    """Blank without one; what kept all scores from a verdict is said once, below the board."""
    told = row["verdict"] in {"better", "worse", "not told apart"}
    mark = EXPLORATORY if row["family"] == "exploratory" and row["verdict"] in {"better", "worse"} else ""
    return entry(row["verdict"] + mark if told else "")


def _counts(a: str, b: str) -> Callable[[Row], Entry]:
    return lambda row: (
        Entry("", "") if pd.isna(row[b]) else Entry(f"{row[a]:.0f}/{row[b]:.0f}", float(row[a]))
    )


def _runs_moved(row: Row) -> Entry:
    """Runs helped and harmed, of what is tested."""
    return _counts("helped", "harmed")(row) if row["family"] else Entry("", "")


EXPLORATORY = "†"
BOARD: list[tuple[Column, Callable[[Row], object]]] = [
    (Column("#", "rank by mean tau"),
     lambda row: Entry(*(("", "") if pd.isna(row["rank"]) else (str(row["rank"]), int(row["rank"]))))),
    (word_column("selector", key=True), lambda row: Entry(
        row["selector"], row["selector"], textwrap.shorten(row["problem"], 160, placeholder=" …"))),
    (Column("against\nlast-epoch", "sign flips of whole runs, corrected for all scores", True), _verdict),
    (Column("tau\n± runs", "mean Kendall's tau-b, and its 95 % interval across runs"), _interval("tau")),
    (Column("± truth\nnoise", "95 % interval of tau for the noise of the truth in these tracks"), _noise),
    (Column("over last-epoch\n± runs", "tau minus that of last-epoch, 95 % interval across runs", wide=True),
     _interval("difference")),
    (Column("over last-epoch\n± runs, targets", "the same over new runs and new target families", wide=True),
     _interval("difference", "crossed")),
    (Column("resolved\ntau", "over the pairs of checkpoints that the truth tells apart"),
     itemgetter("tau_resolved")),
    (Column("given\nepoch", "Kendall's partial tau, the epoch held fixed"), itemgetter("tau_epoch")),
    (Column("worst\ntrack", "tau on the worst track", wide=True), itemgetter("worst")),
    (Column("regret\nmedian", "points that the first choice loses to the best, cross-fitted"),
     itemgetter("regret_median")),
    (Column("regret\nmean", "the same, mean over runs", wide=True), itemgetter("regret")),
    (Column("gain\nmedian", "points won over the last checkpoint"), itemgetter("gain_median")),
    (Column("gain\nmean", "the same, mean over runs", wide=True), itemgetter("gain")),
    (Column("helped/\nharmed", "runs whose gain is beyond its noise, up and down"),
     _runs_moved),
    (Column("labels", "does its order hang on the labels? tau against its control on permuted labels",
            words=True, wide=True), itemgetter("labels")),
    (Column("s per\nckpt", "seconds per checkpoint for the score alone"),
     lambda row: Entry(seconds_entry(row["seconds"]), float(row["seconds"]))),
    (Column("cells", "cells computed, of cells wanted"), _counts("cells", "wanted")),
]  # fmt: skip


def board_table(board: pd.DataFrame, caption: str, most: int | None = None, wide: bool = True) -> Table:
    """A leaderboard, its first ``most`` scores (all by default) and the reference rows.

    Columns that are blank in every row are left out.
    """
    rows = [[entry(show(row)) for _, show in BOARD] for row in records(board)]
    ranked = int(board["rank"].notna().sum())
    scores, fixed = rows[:ranked][:most], rows[ranked:]
    shown = [
        i for i, (column, _) in enumerate(BOARD)
        if (wide or not column.wide) and any(row[i].text for row in (*scores, *fixed))
    ]  # fmt: skip
    scores, fixed = ([[row[i] for i in shown] for row in part] for part in (scores, fixed))
    return Table(caption, [BOARD[i][0] for i in shown], scores, fixed, _notes(board))


def _notes(board: pd.DataFrame) -> list[str]:
    """What a board says in words: how far its verdicts go, what the best is worth, origins and problems."""
    lines = [_verdict_note(board), _oracle_note(board)]
    scores = board[~board["selector"].isin(REFERENCE)]
    usual, *others = scores["origin"].value_counts().index.tolist() or [""]
    for origin in reversed(others):
        lines.append(f"{', '.join(scores.loc[scores['origin'] == origin, 'selector'])}: {origin}.")
    lines.append(f"Origin of {'the other' if others else 'all'} scores: {usual}." if usual else "")
    bad = board[board["problem"] != ""]
    for row in records(bad):
        what = textwrap.shorten(row["problem"], 300, placeholder=" … (all in leaderboard.csv)")
        lines.append(f"{row['selector']}: {what} (tau 0, mean regret there).")
    return [line for line in lines if line]


def _verdict_note(board: pd.DataFrame) -> str:
    tested = board[board["family"] != ""]
    if tested["verdict"].isin({"too few runs", "no sound run"}).all():
        runs = int(board["runs"].max())
        if tested["verdict"].eq("no sound run").all():
            return "No verdict: none of the source runs learnt as its suite declares."
        have = "One source run shows" if runs == 1 else f"{runs} source runs show"
        return (
            f"No verdict: {have} how the scores order {'its' if runs == 1 else 'their'} own checkpoints and "
            f"cannot say how they do on another run ({MIN_RUNS} runs are needed)."
        )
    if tested["family"].eq("exploratory").all():
        return f"{EXPLORATORY} All verdicts are exploratory: no score was named before the truth existed."
    named = ", ".join(tested.loc[tested["family"] == "confirmatory", "selector"])
    return (
        f"Named before the truth existed, and tested as a family of their own: {named}. {EXPLORATORY} "
        "exploratory: all others, corrected for each other."
    )


def _oracle_note(board: pd.DataFrame) -> str:
    """The best checkpoint against the last: both bounds, and how often the difference is resolved."""
    oracle = board[board["selector"] == "oracle"].iloc[0]
    if not np.isfinite(oracle["gain_median"]):
        return ""
    low, high = oracle["gain_median"], oracle["best_gain_median"]
    least = f"{number(low)}" if low > 0 else f"0 within noise ({number(low)})"
    most = f" to {number(high)} (chosen and measured on all of it)" if np.isfinite(high) else ""
    share = ""
    if np.isfinite(oracle["best_resolved"]):
        resolved = f"{100 * oracle['best_resolved']:.0f} %"
        share = f"; the difference is resolved on {resolved} of the source-target pairs"
    return (
        f"In the median run the best checkpoint beats the last by {least} points (chosen on one half of the "
        f"truth, measured on the other){most}{share}."
    )
