"""Where training ends, from several starts, as a map of the weights.

Source: transferability-of-deep-representations (Liu et al. 2019), Figure 4: ends of training from one
pre-trained network lie close together whatever the target, those from scratch far away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Sheet
from sklearn.manifold import TSNE
from torch import nn

from ckptbench.base.errors import InputError
from ckptbench.base.types import Float
from ckptbench.networks.curvature import flat
from ckptbench.pages.figures.base import WIDTH, Figure, drawn, finish, legend, look
from ckptbench.studies.base import Case, Outcome, times, verdict
from ckptbench.studies.finetuned import Row, Survey, Trial
from ckptbench.truth.penalty import FineTuning

CLAIM = "training ends nearer to the ends from its own start than to those from another"


def conclude(case: Case, table: pd.DataFrame) -> Outcome:
    """All ends of training, their distances and a map of them, for each source run."""
    maps = []
    for _, part in table.groupby("source", sort=False):
        if len(part) < 4:
            raise InputError("weights-map needs two seeds or two targets: --seeds 2")
        maps.append(map_rows(part.drop(columns=["vector", "step"]), part["vector"].tolist()))
    table = pd.concat(maps, ignore_index=True)
    ratio = table["to_other"] / table["to_own"]
    finding = f"Ends of training from two starts are {times(ratio.median())} as far apart as those from one."
    index = [table[name] for name in ("source", "target", "seed", "start")]
    values = ratio.apply(np.log).set_axis(pd.MultiIndex.from_arrays(index))
    return Outcome(
        table, _figure(table, finding), verdict(CLAIM, values, "end", "log of the ratio of distances")
    )


def _look(trial: Trial, step: int, run: FineTuning) -> Iterable[Row]:
    yield {"vector": weight_vector(run.network)}


SURVEY = Survey(_look)


def weight_vector(network: nn.Module) -> torch.Tensor:
    """All weight matrices and kernels as one vector, without biases and batch norm."""
    return flat(weight.detach().cpu() for weight in network.parameters() if weight.ndim > 1)


def map_rows(facts: pd.DataFrame, vectors: Sequence[torch.Tensor]) -> pd.DataFrame:
    """Places on the map, and each end's mean distance to other ends of its own start and of the other."""
    distances: Float = np.array([[float(torch.dist(a, b)) for a in vectors] for b in vectors])
    starts = facts["start"].to_numpy()
    same = (starts[:, None] == starts) & ~np.eye(len(starts), dtype=bool)
    other = starts[:, None] != starts
    perplexity = min(30.0, (len(starts) - 1) / 3)
    places = TSNE(metric="precomputed", init="random", perplexity=perplexity, random_state=0).fit_transform(
        distances
    )
    return facts.assign(
        x=places[:, 0],
        y=places[:, 1],
        to_own=(distances * same).sum(axis=1) / same.sum(axis=1),
        to_other=(distances * other).sum(axis=1) / other.sum(axis=1),
    )


@drawn
def _figure(table: pd.DataFrame, finding: str) -> Figure:
    """A map for each source run."""
    sources = list(table.groupby("source", sort=False))
    sheet = Sheet(figsize=(WIDTH, 3.2 * len(sources)))
    for axes, (source, part) in zip(
        sheet.subplots(len(sources), 1, squeeze=False)[:, 0], sources, strict=True
    ):
        for i, (start, of) in enumerate(part.groupby("start", sort=False)):
            axes.plot(of["x"], of["y"], linestyle="none", label=start, **look(i, "marker"))
        axes.set(title=source, xticks=[], yticks=[])
        legend(axes)
    alt = "A t-SNE map of the weights at the end of training, marked by what training started from."
    return finish(sheet, "weights-map", finding, alt, "A point for each target and seed.")
