"""The page of one answer of ``ckptbench rank``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ckptbench.base.files import write_text
from ckptbench.base.text import typeset
from ckptbench.pages.columns import Column, Entry, Row, Table, interval_entry, records, word_column
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
    heads: list[Column | str] = [Column("#", "rank"), "epoch", word_column("checkpoint"), word_column("tied")]
    heads += [OPTIONAL[name] for name in have]
    rows = [
        [row["rank"], row["epoch"], row["checkpoint"], "tied" if row["tied"] else "",
         *(_percent_entry(row, name) for name in have)]
        for row in records(ranking)
    ]  # fmt: skip
    page = page_template("rank.html.jinja").render(
        headings={heading: typeset(sentence) for heading, sentence in verdict.items()},
        used=used, pick=pick, figures=drawn, table=Table.of("All checkpoints", heads, rows),
    )  # fmt: skip
    write_text(Path(path), page)


def _percent_entry(row: Row, name: str) -> Entry:
    value, low, high = (100 * row.get(key, np.nan) for key in (name, f"{name}_low", f"{name}_high"))
    return Entry("", value) if low == high else interval_entry(value, low, high, 1)  # of the pick to itself
