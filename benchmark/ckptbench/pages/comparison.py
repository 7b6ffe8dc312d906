"""Two selectors side by side, and judged outside tables, as text."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ckptbench.agreement.runs import Comparison
from ckptbench.base.text import counted, with_interval
from ckptbench.pages.columns import GOALS, Column, Table, interval_entry, number_entry, records, word_column
from ckptbench.pages.terminal import as_printed, plain_table


def comparison_text(found: Comparison, width: int = 100) -> str:
    """Two selectors side by side, track by track, with the paired test below."""
    heads: list[Column | str] = [word_column("track"), "tau A", "tau B", "difference", "regret A", "regret B"]
    rows = []
    for row in records(found.tracks):
        track = "/".join(row[part] for part in ("source", "target", "protocol"))
        taus = (interval_entry(*(row[f"{n}_{ab}"] for n in ("tau", "tau_low", "tau_high"))) for ab in "ab")
        others = (row[name] for name in ("difference", "regret_a", "regret_b"))
        rows.append([track + " (not sound)" * bool(row["unsound"]), *taus, *others])
    verdict = found.verdict if found.verdict not in {"better", "worse"} else f"{found.a} is {found.verdict}"
    p = f", p = {found.p:.2g} by sign flips" if np.isfinite(found.p) else ""
    said = (
        f"{GOALS[found.goal]} ({found.goal.upper()}): mean tau of {found.a} minus that of {found.b} "
        f"{with_interval(found.difference, found.low, found.high)} over {counted(len(found.runs), 'run')} "
        f"and {counted(found.pairs, 'source-target pair')}{p}: {verdict}."
    )
    names = as_printed(f"A: {found.a}; B: {found.b}", width)
    return "\n".join([names, plain_table(Table.of("", heads, rows), width), as_printed(said, width)]) + "\n"


JUDGED = {
    "tau": "tau\n±95 %", "tau_w": "tau_w\n(q, a)", "tau_w_truth": "tau_w\nby\ntruth",
    "tau_resolved": "tau\nre-\nsolved", "rho": "rho", "r": "r", "regret": "regret", "rel_1": "rel@1",
    "rel_3": "rel@3", "p_chance": "p\nchance",
}  # fmt: skip


def judged_text(judged: pd.DataFrame, width: int = 100) -> str:
    """The table of `ckptbench.agreement.outside.judge_table`, with the means over its groups below."""
    table, words = judged, ["selector"]
    if "group" in judged:
        words = ["group", "selector"]
        means = judged.groupby("selector", sort=False)[[*JUDGED, "tau_low", "tau_high"]].mean().reset_index()
        means = means.assign(group="mean", tau_low=float("nan"))
        table = pd.concat([judged, means], ignore_index=True)
    rows = []
    for row in records(table):
        tau = interval_entry(row["tau"], row["tau_low"], row["tau_high"])
        numbers = [number_entry(row[name], 3) for name in JUDGED if name != "tau"]
        rows.append([*(row[name] for name in words), tau, *numbers])
    groups = table[words[0]].tolist()
    ends = [i + 1 for i in range(len(groups) - 1) if len(words) > 1 and groups[i] != groups[i + 1]]
    bad = judged[judged["problem"].ne("") & judged["tau"].notna()]
    lines = [f"{row['selector']}: {row['problem']} (tau 0, mean regret)" for row in records(bad)]
    lines.append("tau_w (q, a): scipy.stats.weightedtau(score, truth); by truth: (truth, score, rank=None).")
    shown = Table.of("", [*map(word_column, words), *JUDGED.values()], rows)
    return "\n".join([plain_table(shown, width, ends), *(as_printed(line, width) for line in lines)]) + "\n"
