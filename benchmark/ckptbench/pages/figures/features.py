"""The features themselves: singular values and t-SNE maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from ckptbench.base.text import percent
from ckptbench.base.types import Array, Float
from ckptbench.pages.figures import base


@base.drawn
def spectra(name: str, where: str, table: pd.DataFrame) -> base.Figure:
    """Singular values of the features at some epochs, all and the smaller half.

    ``table`` has the columns epoch, index (from 1) and sigma.
    """
    curves = {
        int(str(epoch)): (rows["index"].to_numpy(), rows["sigma"].to_numpy(dtype=np.float64))
        for epoch, rows in table.sort_values(["epoch", "index"]).groupby("epoch")
    }
    sheet = Sheet(figsize=(base.WIDTH, 4.6))
    panels = sheet.subplots(2, 1)
    epochs = list(curves)
    dashes = {0: "-", len(epochs) // 2: "--", len(epochs) - 1: "-."}
    shade = dict(zip(epochs, np.linspace(0, 1, len(epochs)), strict=True))
    middle = {}
    for place, (epoch, (index, sigma)) in enumerate(curves.items()):
        named = place in dashes
        half = index > index[-1] / 2
        for axes, rows in zip(panels, (np.ones(len(index), dtype=bool), half), strict=True):
            shown = rows & (sigma > sigma[0] * 1e-9)
            axes.plot(
                index[shown], sigma[shown], color=base.EPOCHS(shade[epoch]), linewidth=1.6 if named else 0.8,
                linestyle=dashes.get(place, "-"), alpha=1 if named else 0.55,
                label=f"epoch {epoch}" if named else None,
            )  # fmt: skip
        middle[epoch] = float(sigma[half][0] / sigma[0]) if sigma[0] > 0 else 0.0
    for axes, what in zip(panels, ("all", "smaller half"), strict=True):
        axes.set_yscale("log")
        base.log_axis(axes.yaxis)
        axes.set_ylabel(f"singular value, {what}")
    panels[-1].set_xlabel("index of the singular value, largest first")
    base.legend(panels[0])
    share = {epoch: f"{100 * value:.2g} %" for epoch, value in middle.items()}
    title = (
        f"{where}: the middle singular value is {share[epochs[0]]} of the largest at epoch {epochs[0]} and "
        f"{share[epochs[-1]]} at epoch {epochs[-1]}."
    )
    note = (
        "A sample of the training examples, features as they are (not centred). Batch spectral shrinkage "
        "penalises the smallest values."
    )
    alt = "Middle over largest: " + ", ".join(f"epoch {epoch} {text}" for epoch, text in share.items()) + "."
    return base.finish(sheet, name, title, alt, note)


@dataclass(frozen=True)
class Map:
    """A two-dimensional map of the features of one checkpoint, n x 2, with n labels."""

    title: str
    places: Float
    labels: Array

    def neighbours(self) -> float:
        """The share of examples whose nearest neighbour in the map is of their own class."""
        from scipy.spatial import cKDTree

        nearest = np.asarray(cKDTree(self.places).query(self.places, k=2)[1])
        own = np.arange(len(self.places))  # which need not come first where two examples coincide
        other = np.where(nearest[:, 0] == own, nearest[:, 1], nearest[:, 0])
        return float(np.mean(self.labels[other] == self.labels))


@base.drawn
def embedding(name: str, where: str, maps: Sequence[Map], note: str) -> base.Figure:
    """t-SNE maps one above the other, every class with its colour, its marker and its label (Figure 3)."""
    sheet = Sheet(figsize=(base.WIDTH, 2.65 * len(maps) + 0.1))
    classes = sorted(set(np.concatenate([m.labels for m in maps]).tolist()))
    for axes, one in zip(sheet.subplots(len(maps), 1, squeeze=False)[:, 0], maps, strict=True):
        for k, label in enumerate(classes):
            rows = one.labels == label
            style = base.look(k) | {"marker": base.look(k + k // 6, "marker")["marker"]}
            axes.plot(*one.places[rows].T, linestyle="none", ms=2.6, markeredgewidth=0, alpha=0.75, **style)
            if len(classes) <= 20 and rows.any():
                axes.text(
                    *np.median(one.places[rows], axis=0), str(label), ha="center", va="center",
                    fontsize=10, fontweight="bold",
                )  # fmt: skip
        axes.set_title(one.title, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set(xlabel="t-SNE 1 (arbitrary units)", ylabel="t-SNE 2 (arbitrary units)")
    said = " and ".join(f"{percent(one.neighbours())} at {one.title}" for one in maps)
    title = f"{where}: the nearest neighbour in the map is of the same class for {said}."
    alt = f"{len(maps)} maps of {len(maps[0].labels)} examples of {len(classes)} classes."
    return base.finish(sheet, name, title, alt, note)
