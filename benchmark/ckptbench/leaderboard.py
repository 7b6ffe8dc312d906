"""Leaderboards as text: from the committed tables to a terminal table, Markdown, CSV and JSON.

Nothing is computed or measured here; `ckptbench.agreement` holds the figures. Comparisons of two selectors
and judged outside tables are laid out here too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import Box
from rich.console import Console
from rich.table import Table

from ckptbench.agreement import ALWAYS, Comparison, Results, agreement_table, leaderboard, load_results
from ckptbench.published import published_markdown, published_table
from ckptbench.store import write_text

KINDS = {"fe": "Feature extraction (FE)", "ft": "Fine-tuning (FT)"}
READING = (
    "tau: Kendall's tau-b of score and truth, mean over source run x target; ± is the 95 % interval for "
    "the noise in these tracks' truth and says nothing of other tracks. resolved: over the pairs of "
    "checkpoints that the truth tells apart. given epoch: with the epoch held fixed. regret: points that "
    "the score's first choice loses to the best by one half of the truth, both measured on the other half. "
    "gain: points won over the last checkpoint. A trend that score and truth merely share counts as "
    "agreement: last-epoch and tau given epoch are there to show it."
)

# Rows without a frame: a rule under the head and between the scores and the rows always there.
_RULES = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


@dataclass(frozen=True, eq=False)
class Leaderboards:
    """A suite's boards by kind, with the table that they come from and the lines below them."""

    agreement: pd.DataFrame
    boards: dict[str, pd.DataFrame]
    footer: list[str]
    facts: dict[str, str]
    title: str
    note: str

    def terminal(self, width: int = 100, most: int | None = None) -> str:
        """Plain text within ``width`` columns; long names fold, nothing is cut off.

        ``most`` keeps the first so many scores of each board, and says how many follow.
        """
        parts = [_printed(self.note, width), ""] if self.note else []
        for kind, board in self.boards.items():
            ranked = int(board["rank"].notna().sum())
            shown = ranked if most is None else min(most, ranked)
            more = ranked - shown
            board = board[board["rank"].isna() | (np.arange(len(board)) < shown)].reset_index(drop=True)
            parts += [_printed(f"{KINDS[kind]}: {self.title}", width), _board_table(board, width)]
            parts += [f"{more} more scores, none above these, are in LEADERBOARD.md."] if more else []
            parts += [_printed(line, width) for line in (*_origins(board), *_problem_lines(board))] + [""]
        return "\n".join([*parts, *(_printed(line, width) for line in (READING, *self.footer))]) + "\n"

    def markdown(self) -> str:
        lines = [f"# Leaderboards: {self.title}", ""]
        lines += [f"> {self.note}", ""] if self.note else []
        for kind, board in self.boards.items():
            lines += [f"## {KINDS[kind]}", "", *_markdown_table(board), ""]
            problems = _problem_lines(board)
            lines += [*(f"- {line}" for line in problems), ""] if problems else []
        lines += [READING, "", *(f"- {line}" for line in self.footer)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        # Where no track can be judged, the columns alone.
        found = self.boards or {"fe": leaderboard(self.agreement, "fe")}
        boards = [board.assign(kind=kind) for kind, board in found.items()]
        return _csv(pd.concat(boards, ignore_index=True).set_index("kind").reset_index())

    def json(self) -> str:
        rows = {kind: json.loads(board.to_json(orient="records")) for kind, board in self.boards.items()}
        content = {"title": self.title, "note": self.note, **self.facts, "footer": self.footer, **rows}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def files(self) -> dict[str, str]:
        """What a results folder holds of the judging: file name -> content."""
        return {
            "agreement.csv": _csv(self.agreement),
            "leaderboard.csv": self.csv(),
            "leaderboard.json": self.json(),
            "LEADERBOARD.md": self.markdown(),
        }


def build(
    results: Results, title: str = "", note: str = "", agreement: pd.DataFrame | None = None
) -> Leaderboards:
    """Judge a suite's tables and lay out its leaderboards.

    Parameters
    ----------
    results : from `ckptbench.agreement.load_results`
    title, note : the suite's; the title is its name where it is not given
    agreement : what `agreement_table` gives for the results, where it is known already

    Raises
    ------
    InputError
        If the tables cannot be judged.
    """
    if agreement is None:
        agreement = agreement_table(results)
    boards = {kind: leaderboard(agreement, kind) for kind in KINDS}
    boards = {kind: board for kind, board in boards.items() if len(board)}
    origin = results.provenance
    facts = {"suite": origin.suite, "suite_digest": origin.suite_digest, "commit": origin.commit}
    return Leaderboards(agreement, boards, _footer(results, agreement), facts, title or origin.suite, note)


def write(folder: Path) -> Leaderboards:
    """Judge the tables of a results folder and write the leaderboards beside them.

    Raises
    ------
    InputError
        If the tables cannot be judged, or the folder cannot be written.
    """
    suite = json.loads((folder / "suite.json").read_text())
    boards = build(load_results(folder), suite["title"], " ".join(suite["note"].split()))
    for name, text in boards.files().items():
        write_text(folder / name, text)
    if suite.get("published") is not None:
        write_text(folder / "published.csv", _csv(published_table(folder)))
        write_text(folder / "PUBLISHED.md", published_markdown(folder))
    return boards


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _footer(results: Results, agreement: pd.DataFrame) -> list[str]:
    origin, truth = results.provenance, results.truth
    changed = " with uncommitted changes" if origin.dirty else ""
    lines = [f"Suite {origin.suite}, digest {origin.suite_digest}, commit {origin.commit[:12]}{changed}."]
    for kind, cells in truth.groupby("kind"):
        done = cells[cells["status"] == "ok"]
        seeds = cells.groupby("protocol", sort=False)["seed"].nunique()
        devices = ", ".join(sorted(set(done["device"]) - {""})) or origin.device
        lines.append(
            f"{str(kind).upper()} truth: {', '.join(f'{name} ({n} seeds)' for name, n in seeds.items())}; "
            f"{len(done)} of {len(cells)} cells; {duration(cells['seconds'].sum())} on {devices}."
        )
    units = truth[["source", "target"]].drop_duplicates()
    sources = units["source"].nunique()
    runs = f"ONE source run ({units['source'].iloc[0]})" if sources == 1 else f"{sources} source runs"
    lines.append(f"All truth is of {runs}: {len(units)} unit{'s' * (len(units) > 1)} (source run x target).")
    extraction = results.extraction
    size = f"{extraction['bytes'].sum() / 2**20:.0f} MiB"
    lines.append(
        f"Extraction: {duration(extraction['seconds'].sum())} for {size} of features, once for all scores."
    )
    said: dict[str, list[str]] = {}
    for key, rows in agreement.groupby(["source", "target", "protocol"], sort=False):
        left_out = rows["left_out"].iloc[0]
        if rows["tau"].isna().all():
            said.setdefault(f"not judged: {rows['problem'].iloc[0]}", []).append("/".join(map(str, key)))
        elif left_out:
            said.setdefault(str(left_out), []).append("/".join(map(str, key)))
    for what, tracks in said.items():
        more = f" and {len(tracks) - 1} more track{'s' * (len(tracks) > 2)}" * (len(tracks) > 1)
        lines.append(f"{tracks[0]}{more}: {what}.")
    return lines


def duration(seconds: float) -> str:
    """'0.4 s', '12 s', '3.5 min', '2.1 h'."""
    for limit, unit, size in ((10, "s", 1), (100, "s", 0), (6000, "min", 1)):
        if seconds < limit:
            return f"{seconds / (60 if unit == 'min' else 1):.{size}f} {unit}"
    return f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------- cells


def number(value: float, digits: int = 2) -> str:
    """Rounded, with nothing for a blank and no minus before a zero."""
    return "" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def with_interval(tau: float, low: float, high: float) -> str:
    """'0.38±0.12'; the wider side where the interval was cut at 1 or -1."""
    return number(tau) if np.isnan(low) else f"{number(tau)}±{number(max(tau - low, high - tau))}"


def _seconds(value: float) -> str:
    if np.isnan(value):
        return ""
    return "<.001" if 0 < value < 0.001 else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _count(present: float, wanted: float) -> str:
    return "" if pd.isna(wanted) else f"{present:.0f}/{wanted:.0f}"


HEADS = {
    "#": "#",
    "selector": "selector",
    "verdict": "against\nlast-epoch",
    "tau": "tau\n±95 %",
    "resolved": "tau\nre-\nsolved",
    "epoch": "tau\ngiven\nepoch",
    "worst": "worst\ntrack",
    "regret": "regret\npoints",
    "gain": "gain\nover\nlast",
    "seconds": "s per\nckpt",
    "cells": "cells",
}
LEFT = {"selector", "verdict", "origin", "track", "group"}


def _texts(row: pd.Series) -> list[str]:
    return [
        "" if pd.isna(row["rank"]) else str(row["rank"]),
        row["selector"],
        row["verdict"],
        with_interval(row["tau"], row["tau_low"], row["tau_high"]),
        *(number(row[name]) for name in ("tau_resolved", "tau_epoch", "worst", "regret", "gain")),
        _seconds(row["seconds"]),
        _count(row["cells"], row["wanted"]),
    ]


def _origins(board: pd.DataFrame) -> list[str]:
    """One line for one origin, a letter each for several."""
    places = _places(board)
    if len(places) < 2:
        return [f"origin of all scores: {place}" for place in places]
    return ["origin: " + "; ".join(f"{_letter(i)} {place}" for i, place in enumerate(places))]


def _places(board: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(board.loc[~board["selector"].isin(ALWAYS), "origin"]))


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else str(place)


def _problem_lines(board: pd.DataFrame) -> list[str]:
    bad = board[board["problem"] != ""]
    return [f"{row['selector']}: {row['problem']} (tau 0, mean regret there)" for _, row in bad.iterrows()]


def _board_table(board: pd.DataFrame, width: int) -> str:
    places = _places(board)
    heads, rows = dict(HEADS), [_texts(row) for _, row in board.iterrows()]
    if len(places) > 1:
        heads["origin"] = "o"
        for text, place in zip(rows, board["origin"], strict=True):
            text.append(_letter(places.index(place)) if place in places else "")
    ends = [int(board["rank"].notna().sum())]
    return _table(heads, rows, ends, width)


def _table(heads: dict[str, str], rows: Iterable[Sequence[str]], ends: Iterable[int], width: int) -> str:
    """A plain table; ``ends`` are the row counts after which a rule comes."""
    table = Table(box=_RULES, padding=0, pad_edge=False, show_edge=False, header_style="")
    for name, head in heads.items():
        table.add_column(head, justify="left" if name in LEFT else "right", overflow="fold")
    ends = set(ends)
    for count, row in enumerate(rows, 1):
        table.add_row(*row, end_section=count in ends)
    return _printed(table, width)


def _printed(what: object, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, highlight=False, markup=False, emoji=False).print(what)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _markdown_table(board: pd.DataFrame) -> list[str]:
    heads = [head.replace("re-\n", "re").replace("\n", " ") for head in HEADS.values()] + ["origin"]
    align = ["---" if name in LEFT else "---:" for name in (*HEADS, "origin")]
    lines = [_markdown_row(heads), _markdown_row(align)]
    for _, row in board.iterrows():
        texts = [*_texts(row), row["origin"]]
        if row["selector"] in ALWAYS:
            texts[1] = f"*{texts[1]}*"
        else:
            texts[1] = f"`{texts[1]}`"
        lines.append(_markdown_row(texts))
    return lines


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


# ----------------------------------------------------------------------- comparisons, outside tables


def comparison_text(found: Comparison, width: int = 100) -> str:
    """Two selectors side by side, track by track, with the paired test over units below."""
    a, b = found.a, found.b
    heads = {
        "track": "track",
        "tau_a": f"tau\n{a}",
        "tau_b": f"tau\n{b}",
        "difference": "differ-\nence",
        "regret_a": f"regret\n{a}",
        "regret_b": f"regret\n{b}",
    }
    rows = [
        [
            f"{row['source']}/{row['target']}/{row['protocol']}",
            with_interval(row["tau_a"], row["tau_low_a"], row["tau_high_a"]),
            with_interval(row["tau_b"], row["tau_low_b"], row["tau_high_b"]),
            number(row["difference"]),
            number(row["regret_a"]),
            number(row["regret_b"]),
        ]
        for _, row in found.tracks.iterrows()
    ]
    verdict = found.verdict if found.verdict not in {"better", "worse"} else f"{a} is {found.verdict}"
    said = (
        f"{KINDS[found.kind]}: mean tau of {a} minus {b} {number(found.difference)} over {found.units} "
        f"unit{'s' * (found.units > 1)} (source run x target), p = {found.p:.2g} by sign flips: {verdict}."
    )
    return _table(heads, rows, [], width) + "\n" + _printed(said, width) + "\n"


def judged_text(judged: pd.DataFrame, width: int = 100) -> str:
    """The table of `ckptbench.judge.judge_table`, with the means over its groups below."""
    figures = ["tau", "tau_low", "tau_high", "tau_w", "tau_w_truth", "tau_resolved", "rho", "r", "regret",
               "rel_1", "rel_3", "p_chance"]  # fmt: skip
    heads = {
        "selector": "selector", "tau": "tau\n±95 %", "tau_w": "tau_w\n(q, a)",
        "tau_w_truth": "tau_w\nby\ntruth", "tau_resolved": "tau\nre-\nsolved", "rho": "rho", "r": "r",
        "regret": "regret", "rel_1": "rel@1", "rel_3": "rel@3", "p_chance": "p\nchance",
    }  # fmt: skip
    table = judged
    if "group" in judged:
        heads = {"group": "group", **heads}
        means = judged.groupby("selector", sort=False)[figures].mean().reset_index()
        means = means.assign(group="mean", tau_low=float("nan"))
        table = pd.concat([judged, means], ignore_index=True)
    rows = []
    for _, row in table.iterrows():
        texts = {name: row[name] if name in LEFT else number(row[name], 3) for name in heads}
        texts["tau"] = with_interval(row["tau"], row["tau_low"], row["tau_high"])
        rows.append(list(texts.values()))
    last = table["group"] if "group" in table else pd.Series("", index=table.index)
    ends = [int(i) + 1 for i in table.index[:-1] if last[i] != last[i + 1]]
    bad = judged[judged["problem"].ne("") & judged["tau"].notna()]
    lines = [f"{row['selector']}: {row['problem']} (tau 0, mean regret)" for _, row in bad.iterrows()]
    lines.append("tau_w (q, a): scipy.stats.weightedtau(score, truth); by truth: (truth, score, rank=None).")
    return "\n".join([_table(heads, rows, ends, width), *(_printed(line, width) for line in lines)]) + "\n"
