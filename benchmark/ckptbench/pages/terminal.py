"""Tables and charts for a terminal: plain text within a width, nothing cut off."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from ckptbench.base.types import Array

if TYPE_CHECKING:
    from ckptbench.pages.columns import Table

# Rows without a frame: a rule under the head and between the scores and the reference rows.
_RULES = box.Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")
BLOCKS = " ▁▂▃▄▅▆▇█"
BARS, MARGIN = 48, 11  # columns of a chart, and of the numbers at its left


def plain_table(table: Table, width: int, ends: Iterable[int] = ()) -> str:
    """A table; rules after ``ends`` rows and above the reference rows. Long words fold."""
    shown = RichTable(box=_RULES, padding=0, pad_edge=False, show_edge=False, header_style="")
    for column in table.columns:
        shown.add_column(column.head, justify="left" if column.words else "right", overflow="fold")
    ends = {*ends, len(table.rows)}
    for count, row in enumerate((*table.rows, *table.fixed), 1):
        shown.add_row(*(entry.text for entry in row), end_section=count in ends)
    return as_printed(shown, width)


def as_printed(what: object, width: int) -> str:
    """Anything that rich can print, as text."""
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, highlight=False, markup=False, emoji=False).print(what)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def terminal_chart(epochs: Sequence[int] | Array, values: Sequence[float] | Array, height: int = 6) -> str:
    """Scores over the epochs as bars of block characters, at most 60 columns by ``height`` + 2 lines.

    Bars start below the lowest value; with more checkpoints than columns each bar is the highest of its
    neighbours. What is not finite leaves a gap; the arrow marks the highest.
    """
    y = np.asarray(values, dtype=np.float64)
    groups = np.array_split(np.arange(len(y)), min(len(y), BARS))
    known = np.isfinite(y)
    if not known.any():
        return "no score is finite: nothing to draw"
    tops = np.array([y[g][known[g]].max() if known[g].any() else np.nan for g in groups])
    low, high = np.nanmin(tops), np.nanmax(tops)
    share = np.nan_to_num((tops - low) / (high - low) if high > low else np.ones(len(tops)))
    eighths = np.where(np.isfinite(tops), 1 + np.round(share * (8 * height - 1)), 0).astype(int)
    wide = max(1, BARS // len(groups)) if len(groups) <= BARS // 2 else 1
    labels = {height - 1: f"{high:.4g}", 0: f"{low:.4g}"}
    lines = []
    for row in reversed(range(height)):
        blocks = (BLOCKS[min(8, max(0, int(e) - 8 * row))] for e in eighths)
        # A bar of some columns leaves a gap to the next.
        bars = "".join(block * wide if wide == 1 else block * (wide - 1) + " " for block in blocks)
        lines.append(f"{labels.get(row, ''):>10} {bars}")
    if high == low:
        lines.append(" " * MARGIN + "all scores are equal")
    else:
        best = int(np.nanargmax(np.where(known, y, np.nan)))
        column = next(i for i, g in enumerate(groups) if best in g) * wide
        first, last = f"{epochs[0]}", f"{epochs[-1]}"
        lines.append(" " * MARGIN + first + last.rjust(max(1, len(groups) * wide - len(first))))
        mark = f"▲ epoch {epochs[best]}"
        lines.append(" " * (MARGIN + min(column, 60 - MARGIN - len(mark))) + mark)
    return "\n".join(line.rstrip() for line in lines)
