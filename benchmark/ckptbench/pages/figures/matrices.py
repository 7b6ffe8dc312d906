"""Matrices of tau: protocols, source-target pairs and scores with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.patches import Rectangle

from ckptbench.base.text import counted, number, spread, typeset
from ckptbench.base.types import Float
from ckptbench.pages.figures import base

WRITTEN = 16  # columns of a heat map whose tiles still have room for a number


def _tile(axes: Axes, x: float, y: float, value: float, size: float | None) -> None:
    """Blue for agreement, orange for reversal, stronger for more; the number says it too."""
    if np.isfinite(value):
        axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, linewidth=0, **_shade(value)))
        if size is not None:
            text = typeset(number(value)).replace("0.", ".", 1)
            axes.text(x, y, text, ha="center", va="center", fontsize=size)


def _shade(tau: float) -> dict[str, Any]:
    return {"facecolor": base.COLOURS[0] if tau >= 0 else base.COLOURS[1], "alpha": 0.68 * abs(tau)}


def _matrix_axes(axes: Axes, columns: dict[float, str], rows: dict[float, str]) -> None:
    """Labels by their places, those of the columns on top."""
    axes.set_xlim(-0.5, max(columns) + 0.5)
    turn = 40 if len(columns) <= 8 else 90
    axes.set_xticks(
        list(columns), list(columns.values()), rotation=turn, ha="left", va="center", rotation_mode="anchor"
    )
    axes.xaxis.tick_top()
    axes.set_yticks(list(rows), list(rows.values()))
    axes.set_ylim(max(rows) + 0.55, -0.55)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


@base.drawn
def protocols(
    name: str, where: str, goals: Sequence[str], labels: Sequence[str], taus: Float,
    selectors: dict[str, Float], note: str,
) -> base.Figure:  # fmt: skip
    """Tau between the truths of every two protocols, and below each selector's tau under each of them.

    Parameters
    ----------
    goals, labels : of the n protocols; those on a part of the features (fe-main) stay out of the title
    taus : n x n
    selectors : name -> n taus
    """
    n = len(labels)
    size = 8 if n <= 8 else 6.7
    rows = [*labels, *(base.short_label(selector, 24) for selector in selectors)]
    ticks = [float(i) for i in range(n)] + [n + 0.6 + i for i in range(len(selectors))]
    sheet = Sheet(figsize=(base.WIDTH, 0.23 * (len(rows) + 1) + 1.0))
    axes = sheet.subplots()
    _matrix_axes(axes, dict(enumerate(labels)), dict(zip(ticks, rows, strict=True)))
    for i, row in enumerate([*taus, *selectors.values()]):
        for j, value in enumerate(row):
            _tile(axes, j, ticks[i], value, size)
    pairs: dict[str, list[float]] = {"FE": [], "FT": [], "FE with FT": [], "parts of the features": []}
    for i in range(n):
        for j in range(i):
            whole = goals[i].upper() if goals[i] == goals[j] else "FE with FT"
            between = whole if {goals[i], goals[j]} <= {"fe", "ft"} else "parts of the features"
            pairs[between] += [taus[i, j]] * bool(np.isfinite(taus[i, j]))
    found = {between: values for between, values in pairs.items() if values}
    if len(found) > 1:
        found.pop("parts of the features", None)
    said = ", ".join(f"{between} τ {spread(values)}" for between, values in found.items())
    alt = "Tau between truths: " + "; ".join(
        f"{labels[i]} and {labels[j]} {number(taus[i, j], blank='none')}" for i in range(n) for j in range(i)
    )
    return base.finish(sheet, name, f"{where}: between protocols, {said}.", alt + ".", note)


@base.drawn
def heat(
    name: str, goal: str, groups: dict[str, Sequence[str]], selectors: dict[str, Float], fixed: int, note: str
) -> base.Figure:  # fmt: skip
    """Tau of every selector on every source-target pair; the longer list goes down.

    Parameters
    ----------
    groups : heading -> labels of pairs
    selectors : name -> taus in the order of the pairs, the best in the mean first; the last ``fixed`` stand
        apart, "last-epoch" among them
    """
    entries: list[tuple[str, bool]] = []
    for heading, labels in groups.items():
        entries += [(heading, True)] * (len(groups) > 1) + [(label, False) for label in labels]
    pairs = {float(i): base.short_label(text, 24) for i, (text, _) in enumerate(entries)}
    bold = [place for place, (_, head) in zip(pairs, entries, strict=True) if head]
    apart = len(selectors) - fixed
    scores = {i + 0.4 * (i >= apart): base.short_label(selector, 24) for i, selector in enumerate(selectors)}
    down = len(pairs) > len(scores)  # the pairs, not the selectors
    columns, rows = (scores, pairs) if down else (pairs, scores)
    size = 6.7 if len(columns) <= WRITTEN else None
    sheet = Sheet(figsize=(base.WIDTH, 0.18 * len(rows) + 0.065 * max(map(len, columns.values())) + 0.5))
    axes = sheet.subplots()
    _matrix_axes(axes, columns, rows)
    axes.tick_params(labelsize=8)
    for place, label in zip(pairs, axes.get_yticklabels() if down else axes.get_xticklabels(), strict=True):
        label.set_fontweight("bold" if place in bold else "normal")
    places = [place for place in pairs if place not in bold]
    for score, taus in zip(scores, selectors.values(), strict=True):
        for place, tau in zip(places, taus, strict=True):
            _tile(axes, *((score, place) if down else (place, score)), tau, size)
    if size is None:
        key = [Rectangle((0, 0), 1, 1, linewidth=0, **_shade(tau)) for tau in (-1, -0.5, 0.5, 1)]
        words = ["τ \u22121", "\u22120.5", "0.5", "1"]
        sheet.legend(key, words, loc="outside lower left", ncols=4, handlelength=1.2)
    best, *_ = selectors
    taus, last = selectors[best], selectors["last-epoch"]
    title = (
        f"{goal}: {base.short_label(best)}, best in the mean over {counted(len(places), 'pair')} "
        f"(τ {number(float(taus.mean()))}), is above last-epoch on {np.sum(taus > last)} of them; its own τ "
        f"ranges from {spread(taus.tolist())}."
    )
    means = (f"{selector} {number(float(row.mean()))}" for selector, row in selectors.items())
    return base.finish(sheet, name, title, f"Mean tau over pairs: {', '.join(means)}.", note)


@base.drawn
def alike(
    name: str, where: str, names: Sequence[str], taus: Float, references: int, note: str
) -> base.Figure:
    """Tau of every selector's scores with every other's; the last ``references`` stay out of the title."""
    n = len(names)
    sheet = Sheet(figsize=(base.WIDTH, 0.26 * n + 1.5))
    axes = sheet.subplots()
    labels: dict[float, str] = {i: base.short_label(label, 22) for i, label in enumerate(names)}
    _matrix_axes(axes, labels, labels)
    for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
        _tile(axes, float(j), float(i), taus[i, j], 6.7)
    first, second = np.triu_indices(n - references, 1)
    values = taus[first, second]

    def pair(k: int) -> str:
        both = f"{base.short_label(names[first[k]])} and {base.short_label(names[second[k]])}"
        return f"{both} (τ {number(values[k])})"

    most, least = int(np.nanargmax(values)), int(np.nanargmin(values))
    title = f"{where}: {pair(most)} rank the checkpoints most alike, {pair(least)} least."
    alt = f"Mean tau over the pairs of {n - references} scores: {number(float(np.nanmean(values)))}."
    return base.finish(sheet, name, title, alt, note)
