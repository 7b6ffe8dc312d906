"""What a choice costs and what it loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from ckptbench.agreement.recorded import LAST
from ckptbench.base.text import duration, loss, number
from ckptbench.base.types import Float
from ckptbench.pages.columns import Row, records
from ckptbench.pages.figures.base import (
    COLOURS,
    DASHES,
    INK,
    WIDTH,
    Figure,
    drawn,
    finish,
    legend,
    log_axis,
    look,
    short_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@drawn
def cost(
    name: str, where: str, goal: str, names: Sequence[str], seconds: Float, regret: Float,
    free: dict[str, float], lines: dict[str, float], note: str,
) -> Figure:  # fmt: skip
    """Regret against the seconds that a score takes per checkpoint.

    Parameters
    ----------
    free : regret of what costs nothing, as horizontal lines
    lines : seconds of extraction and truth, as vertical lines
    """
    sheet = Sheet(figsize=(WIDTH, 3.9))
    axes = sheet.subplots()
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    order = np.lexsort((regret, seconds))
    front = [k for place, k in enumerate(order) if regret[k] < regret[order[:place]].min(initial=np.inf)]
    rest = [k for k in range(len(names)) if k not in front]
    axes.plot(seconds[rest], regret[rest], "o", color=COLOURS[0], alpha=0.45, ms=4.5, markeredgewidth=0)
    axes.step(seconds[front], regret[front], "--", where="post", color=COLOURS[1], linewidth=1, alpha=0.7)
    axes.plot(seconds[front], regret[front], "D", color=COLOURS[1], markersize=5)
    costs = [value for value in (*seconds, *lines.values()) if value > 0]
    left, right = min(costs) / 3, max(costs) * 3
    axes.set_xlim(left, right)
    top, bottom = max(*regret, *free.values()), min(*regret, *free.values(), 0.0)
    span = (top - bottom) or 1.0
    axes.set_ylim(bottom - 0.06 * span, top + 0.06 * span)
    named: list[int] = []
    for k in dict.fromkeys((front[-1], front[0], *front)):
        aside = [abs(np.log(seconds[k] / seconds[other])) / np.log(right / left) > 0.35 for other in named]
        above = [abs(regret[k] - regret[other]) > 0.055 * span for other in named]
        if all(one or two for one, two in zip(aside, above, strict=True)):
            named.append(k)
            axes.annotate(
                short_label(names[k], 24), (seconds[k], regret[k]), (5, 4), textcoords="offset points",
                fontsize=8.2, annotation_clip=False,
            )  # fmt: skip
    _marks(axes, free, {label: value for label, value in lines.items() if value > 0}, span, right / left)
    axes.set(xlabel="seconds per checkpoint (log scale)", ylabel="regret, accuracy points")
    best, cheap = front[-1], front[0]

    def at(k: int) -> str:
        return f"loses {loss(regret[k])} of accuracy at {duration(seconds[k])} a checkpoint"

    title = f"{where}, {goal}: {short_label(names[best])} {at(best)}, the least of all"
    title += f"; the cheapest, {short_label(names[cheap])}, {at(cheap)}" if best != cheap else ""
    title += "".join(f"; {label} costs {duration(value)}" for label, value in lines.items()) + "."
    alt = "Scores that no cheaper one beats: " + ", ".join(f"{names[k]} {at(k)}" for k in front)
    alt += ". Free: " + ", ".join(f"{label} {number(value, 1)} points" for label, value in free.items()) + "."
    return finish(sheet, name, title, alt, note)


@drawn
def procedures(name: str, where: str, goal: str, record: pd.DataFrame, note: str) -> Figure:
    """Regret of selection procedures against the seconds that each takes on a target, with intervals.

    Parameters
    ----------
    record : columns name, what ("score" for a score's first choice, else "procedure"), seconds, regret,
        regret_low and regret_high (across runs; not a number with one run). What costs nothing becomes a
        line with a band; of first choices only the one that loses least has an interval and a name.
    """
    free, paid = record[record["seconds"] <= 0], record[record["seconds"] > 0]
    scores, named = paid[paid["what"] == "score"], paid[paid["what"] != "score"]
    best = scores.nsmallest(1, "regret")
    named = pd.concat([named, best.assign(name="first choice of " + best["name"].map(short_label))])
    rows = (len(named) + len(free) + 1) // 2
    sheet = Sheet(figsize=(WIDTH, 3.2 + 0.19 * 2 * rows))
    axes = sheet.subplots()
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    for i, row in enumerate(records(free)):
        axes.axhline(
            row["regret"], color=INK, linewidth=1, alpha=0.6, linestyle=DASHES[i % 6], label=row["name"]
        )
        if i == 0 and np.isfinite(row["regret_low"]):
            axes.axhspan(row["regret_low"], row["regret_high"], color=INK, alpha=0.07, linewidth=0)
    axes.plot(
        scores["seconds"], scores["regret"], ".", color=INK, alpha=0.3, ms=4, markeredgewidth=0,
        label="first choices of scores",
    )  # fmt: skip
    for i, row in enumerate(records(named)):
        ends = np.array([[row["regret"] - row["regret_low"]], [row["regret_high"] - row["regret"]]])
        axes.errorbar(
            row["seconds"], row["regret"], np.nan_to_num(ends), capsize=2, elinewidth=1, markersize=5,
            label=row["name"], **look(i, "marker"), fillstyle="full" if i < 6 else "none", linestyle="none",
        )  # fmt: skip
    axes.set(xlabel="seconds a target (log scale)", ylabel="regret, accuracy points")
    legend(axes, columns=1)

    def said(row: Row) -> str:
        ends = ""
        if np.isfinite(row["regret_low"]):
            ends = f" ({number(row['regret_low'], 1)} to {number(row['regret_high'], 1)} across runs)"
        cost = f" at {duration(row['seconds'])} a target" if row["seconds"] > 0 else ", unmeasured,"
        return f"{row['name']}{cost} loses {number(row['regret'], 1)} points{ends}"

    every = [*records(free), *records(named)]
    least = min(every, key=lambda row: row["regret"])
    title = f"{where}, {goal}: {said(least)}, the least of all"
    last = next((row for row in every if row["name"] == LAST), least)
    title += f"; {said(last)}." if last is not least else "."
    return finish(sheet, name, title, "; ".join(said(row) for row in every) + ".", note)


def _marks(axes: Axes, free: dict[str, float], lines: dict[str, float], span: float, width: float) -> None:
    """Horizontal lines with their names at the right, vertical ones with theirs above."""
    for text, (label, value) in zip(_apart(list(free.values()), 0.05 * span), free.items(), strict=True):
        axes.axhline(value, color=INK, linewidth=0.9, alpha=0.55, linestyle=":")
        axes.text(1.01, text, label, fontsize=8.2, va="center", transform=axes.get_yaxis_transform())
    near = bool(lines) and np.ptp(np.log10(list(lines.values()))) < 0.25 * np.log10(width)
    for i, (label, value) in enumerate(lines.items()):
        axes.axvline(value, color=COLOURS[2 + i % 2], linewidth=1.1, linestyle=DASHES[1 + i])
        axes.text(
            value, 1.01 + 0.05 * i * near, label, fontsize=8.2, ha="center", va="bottom",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _apart(places: list[float], gap: float) -> list[float]:
    """The places moved upwards as little as keeps each ``gap`` above the one below."""
    moved = list(places)
    below = -np.inf
    for k in np.argsort(places, kind="stable"):
        moved[k] = below = max(places[k], below + gap)
    return moved
