"""The page of one answer of ``ckptbench rank``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ckptbench.base.files import write_text
from ckptbench.base.text import number, typeset, with_interval
from ckptbench.pages.columns import Column, Entry, Table, records, word_entry
from ckptbench.pages.figures.run import accuracy
from ckptbench.pages.report import page_template

OPTIONAL = {
    "measured": Column("measured, %", "on held-out folds of the examples given, with a 95 % interval"),
    "below": Column("below the pick, points", "these intervals hold together, at 95 %"),
    "source_accuracy": Column("source, %", "accuracy on the source task"),
}


def write_rank_page(
    path: str | Path,
    ranking: pd.DataFrame,
    verdict: Mapping[str, str],
    used: Mapping[str, str],
    pick: int,
    metric: str = "accuracy",
) -> None:
    """The one-page answer of ``ckptbench rank --html FILE``.

    Parameters
    ----------
    ranking : columns rank, epoch, checkpoint, tied and, as fractions and where known, measured, below and
        source_accuracy, the first two with _low and _high (95 %) beside
    verdict, used : a heading -> a sentence, shown in this order
    pick : the epoch to take
    metric : what was measured, in words
    """
    ranking = ranking.sort_values(["rank", "epoch"])
    in_time = ranking.sort_values("epoch")
    have = [name for name in OPTIONAL if name in ranking and ranking[name].notna().any()]
    drawn = []
    if "measured" in have:
        known, tied = int(in_time["measured"].notna().sum()), int(in_time["tied"].sum())
        others = f", tied with {tied - 1} more" if tied > 1 else ""
        title = f"Epoch {pick} is the pick{others}; {known} of {len(ranking)} checkpoints were measured."
        drawn.append(accuracy("accuracy", title, in_time, pick, metric))
    columns = [
        Column("#", "rank"),
        Column("epoch"),
        Column("checkpoint", words=True),
        Column("tied", words=True),
    ]
    columns += [OPTIONAL[name] for name in have]
    rows = []
    for row in records(ranking):
        entries = [Entry(str(row["rank"]), int(row["rank"])), Entry(str(row["epoch"]), int(row["epoch"]))]
        entries += [word_entry(row["checkpoint"]), word_entry("tied" if row["tied"] else "")]
        entries += [_percent_entry(row, name) for name in have]
        rows.append(entries)
    page = page_template("rank.html.jinja").render(
        headings={heading: typeset(sentence) for heading, sentence in verdict.items()},
        used=used, pick=pick, figures=drawn, table=Table("All checkpoints", columns, rows),
    )  # fmt: skip
    write_text(Path(path), page)


def _percent_entry(row: dict[str, object], name: str) -> Entry:
    value, low, high = (
        100 * float(str(row.get(key, "nan"))) for key in (name, f"{name}_low", f"{name}_high")
    )
    if low == high:  # of the pick to itself
        return Entry("", value)
    return Entry(with_interval(value, low, high, 1) if np.isfinite(low) else number(value, 1), value)
