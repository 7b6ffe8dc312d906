"""Scores against truth: scatter plots, tau with its intervals, and what a choice costs and loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

from ckptbench.agreement.recorded import LAST
from ckptbench.base.text import compact, duration, loss, number, typeset
from ckptbench.base.types import Float
from ckptbench.pages.columns import Row, records
from ckptbench.pages.figures import base
from ckptbench.pages.figures.run import Curve

Panel = tuple[str, Float, float]
"""A selector, its scores against one truth, and their tau."""
Interval = tuple[float, float, float]
"""A tau with the ends of its 95 % interval (NaN where there is none)."""


@base.drawn
def scatter(name: str, where: str, truth: Curve, panels: Sequence[Panel], note: str) -> base.Figure:
    """Small multiples of score against truth with tau (Figure 5 of the paper)."""
    columns = 3
    rows = -(-len(panels) // columns)
    sheet = Sheet(figsize=(base.WIDTH, 1.4 * rows + 0.75))
    grid = sheet.subplots(rows, columns, sharey=True, squeeze=False)
    shade = np.arange(len(truth.epochs)) / max(1, len(truth.epochs) - 1)
    for axes, (selector, score, tau) in zip(grid.flat, panels, strict=False):
        known = np.isfinite(score)
        axes.plot(score, 100 * truth.mean, color=base.INK, alpha=0.25, linewidth=0.6)
        axes.scatter(score[known], 100 * truth.mean[known], c=base.EPOCHS(shade[known]), s=9, linewidth=0)
        if known[-1]:
            axes.plot(
                score[-1], 100 * truth.mean[-1], "s", markersize=6.5, markerfacecolor="none",
                markeredgecolor=base.COLOURS[1], markeredgewidth=1.1,
            )  # fmt: skip
        said = typeset(f"τ = {number(tau, blank='none')}")
        axes.set_title(f"{base.short_label(selector, 18)}\n{said}", fontsize=8.2, loc="left", pad=2)
        axes.tick_params(labelsize=7.3, pad=1.5)
        _ends(axes, score[known])
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    sheet.supxlabel("score, each on its own scale (higher is better)", fontsize=9.5)
    sheet.supylabel(f"{truth.label} accuracy, %", fontsize=9.5)
    taus = {selector: tau for selector, _, tau in panels}
    best, worst = max(taus, key=lambda s: taus[s]), min(taus, key=lambda s: taus[s])
    title = (
        f"{where}: of these scores {base.short_label(best)} follows the truth best (τ {number(taus[best])}), "
        f"{base.short_label(worst)} least (τ {number(taus[worst])})."
    )
    alt = ", ".join(f"{selector} {number(tau, blank='none')}" for selector, tau in taus.items())
    return base.finish(sheet, name, title, f"Kendall's tau: {alt}.", note)


def _ends(axes: Axes, values: Float) -> None:
    """Ticks at the lowest and the highest value, their labels turned inwards: neighbours cannot touch."""
    ends = sorted({float(values.min()), float(values.max())}) if len(values) else []
    axes.set_xticks(ends, [compact(value).replace("-", "\u2212") for value in ends])
    for text, last in zip(axes.get_xticklabels(), (False, True), strict=False):
        text.set_horizontalalignment("right" if last else "left")


@base.drawn
def forest(
    name: str, where: str, goal: str, series: Sequence[str], rows: Mapping[str, Sequence[Interval]],
    ceilings: Sequence[float], references: int, note: str, behind: tuple[str, dict[str, Float]] | None = None,
) -> base.Figure:  # fmt: skip
    """Tau of every selector with its interval, and the ceiling, for one series (say, a protocol) or several.

    ``rows`` maps a selector to one interval per series; the last ``references`` of them stand apart. Where an
    interval is of a mean, ``behind`` names one of what it is the mean of and maps the same selectors to them.
    """
    step = 0.115 * len(series) + 0.13
    sheet = Sheet(figsize=(base.WIDTH, step * len(rows) + 1.1))
    axes = sheet.subplots()
    names = list(rows)
    middle = np.array([i + (0.4 if i >= len(names) - references else 0) for i in range(len(names))])
    spread = np.linspace(-0.27, 0.27, len(series)) if len(series) > 1 else np.zeros(1)
    each, of = behind or ("", {})
    for row, taus in zip(middle, of.values(), strict=False):
        axes.plot(
            taus, np.full(len(taus), row), "|", color=base.INK, alpha=0.4, markersize=6, markeredgewidth=0.7,
            label=None if row else each,
        )  # fmt: skip
    for j, label in enumerate(series):
        tau, low, high = np.array([rows[name][j] for name in names]).T
        axes.hlines(middle + spread[j], low, high, linewidth=1.2, alpha=0.75, **base.look(j))
        axes.plot(
            tau, middle + spread[j], linestyle="none", markersize=4.5, label=label, **base.look(j, "marker")
        )
        if np.isfinite(ceilings[j]):
            axes.axvline(
                ceilings[j], linewidth=1.1, linestyle=base.DASHES[1 + j % 5], zorder=0, **base.look(j)
            )
    axes.axvline(0, color=base.INK, linewidth=0.7, alpha=0.6)
    if references < len(names):
        axes.axhline(len(names) - references - 0.3, color=base.INK, linewidth=0.6, alpha=0.35)
    axes.set_yticks(middle, [base.short_label(selector, 26) for selector in names])
    axes.grid(visible=False, axis="y")
    axes.set_ylim(middle[-1] + 0.6, -0.6)
    known = [value for value in ceilings if np.isfinite(value)]
    axes.set_xlabel(f"Kendall's τ with {goal} truth{'; dashed: ceiling' * bool(known)}")
    base.legend(axes)
    means = {selector: float(np.nanmean([tau for tau, *_ in of_one])) for selector, of_one in rows.items()}
    best, others = names[0], ", ".join(f"{n} {number(means[n])}" for n in names[len(names) - references :])
    ceiling = f", perfect knowledge {number(float(np.mean(known)))}" if known else ""
    over = f", mean of {len(series)} protocols" if len(series) > 1 else ""
    title = (
        f"{where}, {goal}: {base.short_label(best)} reaches τ {number(means[best])}{over}; {others}{ceiling}."
    )
    alt = "Mean tau: " + ", ".join(f"{selector} {number(value)}" for selector, value in means.items()) + "."
    return base.finish(sheet, name, title, alt, note)


@base.drawn
def cost(
    name: str, where: str, goal: str, names: Sequence[str], seconds: Float, regret: Float,
    free: dict[str, float], lines: dict[str, float], note: str,
) -> base.Figure:  # fmt: skip
    """Regret against the seconds that a score takes per checkpoint.

    Parameters
    ----------
    free : regret of what costs nothing, as horizontal lines
    lines : seconds of extraction and truth, as vertical lines
    """
    sheet = Sheet(figsize=(base.WIDTH, 3.9))
    axes = sheet.subplots()
    axes.set_xscale("log")
    base.log_axis(axes.xaxis)
    order = np.lexsort((regret, seconds))
    front = [k for place, k in enumerate(order) if regret[k] < regret[order[:place]].min(initial=np.inf)]
    rest = [k for k in range(len(names)) if k not in front]
    axes.plot(seconds[rest], regret[rest], "o", color=base.COLOURS[0], alpha=0.45, ms=4.5, markeredgewidth=0)
    axes.step(
        seconds[front], regret[front], "--", where="post", color=base.COLOURS[1], linewidth=1, alpha=0.7
    )
    axes.plot(seconds[front], regret[front], "D", color=base.COLOURS[1], markersize=5)
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
                base.short_label(names[k], 24), (seconds[k], regret[k]), (5, 4), textcoords="offset points",
                fontsize=8.2, annotation_clip=False,
            )  # fmt: skip
    _marks(axes, free, {label: value for label, value in lines.items() if value > 0}, span, right / left)
    axes.set(xlabel="seconds per checkpoint (log scale)", ylabel="regret, accuracy points")
    best, cheap = front[-1], front[0]

    def at(k: int) -> str:
        return f"loses {loss(regret[k])} of accuracy at {duration(seconds[k])} a checkpoint"

    title = f"{where}, {goal}: {base.short_label(names[best])} {at(best)}, the least of all"
    title += f"; the cheapest, {base.short_label(names[cheap])}, {at(cheap)}" if best != cheap else ""
    title += "".join(f"; {label} costs {duration(value)}" for label, value in lines.items()) + "."
    alt = "Scores that no cheaper one beats: " + ", ".join(f"{names[k]} {at(k)}" for k in front)
    alt += ". Free: " + ", ".join(f"{label} {number(value, 1)} points" for label, value in free.items()) + "."
    return base.finish(sheet, name, title, alt, note)


@base.drawn
def procedures(name: str, where: str, goal: str, record: pd.DataFrame, note: str) -> base.Figure:
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
    named = pd.concat([named, best.assign(name="first choice of " + best["name"].map(base.short_label))])
    rows = (len(named) + len(free) + 1) // 2
    sheet = Sheet(figsize=(base.WIDTH, 3.2 + 0.19 * 2 * rows))
    axes = sheet.subplots()
    axes.set_xscale("log")
    base.log_axis(axes.xaxis)
    for i, row in enumerate(records(free)):
        axes.axhline(
            row["regret"],
            color=base.INK,
            linewidth=1,
            alpha=0.6,
            linestyle=base.DASHES[i % 6],
            label=row["name"],
        )
        if i == 0 and np.isfinite(row["regret_low"]):
            axes.axhspan(row["regret_low"], row["regret_high"], color=base.INK, alpha=0.07, linewidth=0)
    axes.plot(
        scores["seconds"], scores["regret"], ".", color=base.INK, alpha=0.3, ms=4, markeredgewidth=0,
        label="first choices of scores",
    )  # fmt: skip
    for i, row in enumerate(records(named)):
        sides = np.array([[row["regret"] - row["regret_low"]], [row["regret_high"] - row["regret"]]])
        axes.errorbar(
            row["seconds"], row["regret"], np.nan_to_num(sides), capsize=2, elinewidth=1, markersize=5,
            label=row["name"], **base.look(i, "marker"), fillstyle="full" if i < 6 else "none",
            linestyle="none",
        )  # fmt: skip
    # Seconds that are all alike would leave the axis no width.
    ends = paid["seconds"].min() / 2, paid["seconds"].max() * 2
    axes.set(xlabel="seconds a target (log scale)", ylabel="regret, accuracy points", xlim=ends)
    base.legend(axes, columns=1)

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
    return base.finish(sheet, name, title, "; ".join(said(row) for row in every) + ".", note)


def _marks(axes: Axes, free: dict[str, float], lines: dict[str, float], span: float, width: float) -> None:
    """Horizontal lines with their names at the right, vertical ones with theirs above."""
    for text, (label, value) in zip(_apart(list(free.values()), 0.05 * span), free.items(), strict=True):
        axes.axhline(value, color=base.INK, linewidth=0.9, alpha=0.55, linestyle=":")
        axes.text(1.01, text, label, fontsize=8.2, va="center", transform=axes.get_yaxis_transform())
    near = bool(lines) and np.ptp(np.log10(list(lines.values()))) < 0.25 * np.log10(width)
    for i, (label, value) in enumerate(lines.items()):
        axes.axvline(value, color=base.COLOURS[2 + i % 2], linewidth=1.1, linestyle=base.DASHES[1 + i])
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
