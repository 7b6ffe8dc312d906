"""Accuracy and scores along a pre-training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import MaxNLocator

from ckptbench.base.text import counted, loss, number, percent
from ckptbench.base.types import Array, Float
from ckptbench.pages.figures import base

PANELS = 4  # small panels side by side


@dataclass(frozen=True)
class Curve:
    """A truth along the epochs: fractions, with the half-width of each one's 95 % interval (or None)."""

    label: str
    epochs: Array
    mean: Float
    half: Float | None = None

    @property
    def best(self) -> int:
        return int(self.mean.argmax())

    def words(self) -> str:
        """'best 89.2 % at epoch 2, 86.9 % at the last, 60'."""
        return (
            f"best {percent(self.mean[self.best])} at epoch {self.epochs[self.best]}, "
            f"{percent(self.mean[-1])} at the last, {self.epochs[-1]}"
        )

    def at(self, place: int) -> str:
        """'89.2 ± 0.4 %'."""
        half = "" if self.half is None else f" ± {100 * self.half[place]:.1f}"
        return f"{100 * self.mean[place]:.1f}{half} %"


def _band(axes: Axes, curve: Curve, colour: str, shift: float = 0.0) -> None:
    if curve.half is not None:
        low, high = (100 * (curve.mean + side * curve.half) - shift for side in (-1, 1))
        axes.fill_between(curve.epochs, low, high, color=colour, alpha=0.16, linewidth=0)


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    for i, curve in enumerate(curves):
        values = 100 * curve.mean
        axes.plot(curve.epochs, values, label=curve.label, **base.look(i, "marker", "linestyle"))
        _band(axes, curve, base.look(i)["color"])
        axes.plot(
            curve.epochs[curve.best], values[curve.best], marker="o", markersize=9, markerfacecolor="none",
            markeredgecolor=base.look(i)["color"], markeredgewidth=1.3, linestyle="none",
        )  # fmt: skip


@base.drawn
def truth(name: str, where: str, curves: dict[str, Sequence[Curve]], source: Curve | None) -> base.Figure:
    """FE and FT accuracy along the epochs, source accuracy below (Figure 2 of the paper)."""
    goals = [goal for goal in curves if curves[goal]]
    heights = [2.1] * len(goals) + ([1.05] if source is not None else [])
    sheet = Sheet(figsize=(base.WIDTH, sum(heights) + 0.3))
    panels = sheet.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    findings, alt = [], []
    for axes, goal in zip(panels, goals, strict=False):
        _draw_curves(axes, curves[goal])
        base.legend(axes)
        axes.set_ylabel(f"{goal.upper()} accuracy, %")
        head = curves[goal][0]
        drop = 100 * (head.mean[head.best] - head.mean[-1])
        place = f"{goal.upper()} peaks at epoch {head.epochs[head.best]} ({percent(head.mean[head.best])})"
        findings.append(place + (f", {number(drop, 1)} points above the last" if drop > 0 else ", the last"))
        alt += [f"{goal.upper()}, {curve.label}: {curve.words()}." for curve in curves[goal]]
    if source is not None:
        axes = panels[-1]
        axes.plot(source.epochs, 100 * source.mean, color=base.INK, alpha=0.7, marker=".", linewidth=1.2)
        axes.set_ylabel("source, %")
        alt.append(f"Source accuracy: {source.words()}.")
    base.epoch_axis(panels[-1])
    note = (
        "Bands: 95 % interval of the mean over seeds and test examples, without what shifts all epochs of a "
        "seed alike. Rings: the best epoch of each protocol, which noise alone would also put somewhere."
    )
    return base.finish(sheet, name, f"{where}: {'; '.join(findings)}.", " ".join(alt), note)


Pairs = dict[str, dict[str, dict[str, Curve]]]
"""heading -> label of a source-target pair -> goal -> its truth."""


@base.drawn
def truths(name: str, groups: Pairs, gains: dict[str, Float], note: str) -> base.Figure:
    """FE and FT accuracy along the epochs, a small panel for each source-target pair, in points below its
    best.

    Parameters
    ----------
    groups : a heading starts a new row of panels
    gains : goal -> points that each pair's best checkpoint wins over the last
    """
    columns = min(PANELS, max(map(len, groups.values())))
    rows = [-(-len(pairs) // columns) for pairs in groups.values()]
    heads = 0.22 * (len(groups) > 1)
    heights = [0.95 * count + heads for count in rows]
    sheet = Sheet(figsize=(base.WIDTH, sum(heights) + 0.65))
    curves = [curve for of in groups.values() for pair in of.values() for curve in pair.values()]
    lows = [curve.mean if curve.half is None else curve.mean - curve.half for curve in curves]
    below = np.concatenate([100 * (c.mean.max() - low) for c, low in zip(curves, lows, strict=True)])
    deepest = max(0.5, float(np.quantile(below, 0.9)))
    longest = max(curve.epochs[-1] for curve in curves)
    places = {goal: i for i, goal in enumerate(gains)}
    strips = sheet.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for strip, count, (heading, of) in zip(strips, rows, groups.items(), strict=True):
        if heads:
            strip.suptitle(heading, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        grid = list(strip.subplots(count, columns, squeeze=False).flat)
        for place, (axes, (label, pair)) in enumerate(zip(grid, of.items(), strict=False)):
            _small_panel(axes, label, pair, places)
            axes.set_xlim(-0.04 * longest, 1.04 * longest)
            axes.set_ylim(-1.05 * deepest, 0.16 * deepest)
            axes.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(of))
        for axes in grid[len(of) :]:
            axes.set_axis_off()
    sheet.supxlabel("epoch of pre-training", fontsize=9.5)
    sheet.supylabel("accuracy, points below the pair's best", fontsize=9.5)
    said = [_peaks(goal, groups, gain) for goal, gain in gains.items()]
    return base.finish(sheet, name, f"{'; '.join(s for s, _ in said)}.", " ".join(a for _, a in said), note)


def _small_panel(axes: Axes, label: str, pair: dict[str, Curve], places: dict[str, int]) -> None:
    for goal, curve in pair.items():
        one, top = base.look(places[goal], "linestyle"), 100 * curve.mean.max()
        axes.plot(curve.epochs, 100 * curve.mean - top, linewidth=1.2, **one)
        _band(axes, curve, one["color"], top)
        axes.plot(
            curve.epochs[curve.best], 0, markersize=6, markerfacecolor="none", markeredgewidth=1.2,
            clip_on=False, linestyle="none", **base.look(places[goal], "marker"),
        )  # fmt: skip
    tops = ", ".join(f"{goal.upper()} {100 * c.mean.max():.1f}" for goal, c in pair.items())
    axes.set_title(f"{base.short_label(label, 19)}\n{tops}", fontsize=7.2, loc="left", pad=2)
    base.epoch_axis(axes, "", 3)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=7.3, pad=1.5)


def _peaks(goal: str, groups: Pairs, gain: Float) -> tuple[str, str]:
    """Where the truth of a goal peaks, beside what equally good epochs would give: title, alt text."""
    have = [
        (f"{heading} {label}".strip(), pair[goal])
        for heading, of in groups.items()
        for label, pair in of.items()
        if goal in pair
    ]
    early = sum(curve.best < len(curve.mean) - 1 for _, curve in have)
    luck = sum(1 - 1 / len(curve.mean) for _, curve in have)
    found = f"{goal.upper()} peaks before the last epoch on {early} of {counted(len(have), 'pair')} "
    found += f"({number(luck, 1)} if all epochs were equally good)"
    if np.isfinite(gain).all():
        found += f", and the best wins {loss(float(np.median(gain)))} over the last in the median"
    epochs = ", ".join(f"{who} {curve.epochs[curve.best]}" for who, curve in have)
    return found, f"Best {goal.upper()} epochs: {epochs}."


@base.drawn
def parts(name: str, where: str, main: Curve, residual: Curve, whole: Curve | None) -> base.Figure:
    """Accuracy of F_m and F_r along the epochs (Figure 4 of the paper)."""
    sheet = Sheet(figsize=(base.WIDTH, 3.3))
    axes = sheet.subplots()
    curves = [main, residual, *([whole] if whole is not None else [])]
    _draw_curves(axes, curves)
    base.legend(axes)
    axes.set_ylabel("FE accuracy, %")
    base.epoch_axis(axes)

    def way(curve: Curve) -> str:
        change = 100 * (curve.mean[-1] - curve.mean[0])
        verb = "rises" if change > 0 else "falls"
        return f"{verb} {number(abs(change), 1)} points from epoch {curve.epochs[0]} to {curve.epochs[-1]}"

    title = f"{where}: the main part F_m {way(main)}, the residual F_r {way(residual)}."
    note = (
        "F = F_m + F_r: F_m keeps the largest singular values of the training features up to the suite's "
        "share of their sum, F_r the others; the basis comes from the training features alone."
    )
    return base.finish(sheet, name, title, " ".join(f"{c.label}: {c.words()}." for c in curves), note)


@base.drawn
def accuracy(name: str, title: str, points: pd.DataFrame, pick: int, metric: str = "accuracy") -> base.Figure:
    """What was measured of each checkpoint's accuracy, or other ``metric``.

    Parameters
    ----------
    points : in the order of the epochs; epoch, measured and, where there is an interval, measured_low and
        measured_high (95 %); fractions, NaN where there is none
    pick : the epoch to take
    """
    sheet = Sheet(figsize=(base.WIDTH, 3.0))
    axes = sheet.subplots()
    known = points[points["measured"].notna()]
    epochs, mean = known["epoch"].to_numpy(), 100 * known["measured"].to_numpy()
    if "measured_low" in known:
        sides = np.abs(100 * known[["measured_low", "measured_high"]].to_numpy().T - mean)
        axes.errorbar(epochs, mean, yerr=sides, linestyle="none", elinewidth=1.1, alpha=0.7, **base.look(0))
    axes.plot(epochs, mean, linestyle="none", markersize=5, label="measured", **base.look(0, "marker"))
    values = ", ".join(f"epoch {e} {number(v, 1)} %" for e, v in zip(epochs, mean, strict=True))
    axes.axvline(pick, color=base.INK, linewidth=0.9, alpha=0.6, linestyle="--")
    axes.set_ylabel(f"{metric}, %")
    base.legend(axes)
    base.epoch_axis(axes, "epoch of pre-training; dashed: the pick")
    note = "Measured: on held-out folds of the examples given. Lines: 95 % intervals."
    return base.finish(sheet, name, title, f"Measured: {values}.", note)
