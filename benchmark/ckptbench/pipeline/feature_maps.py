"""Feature maps for the report: singular values and t-SNE of features, as cells of the store.

They are small (at most ``ROWS`` examples of each matrix), so that the figures can be drawn again from the
tables ``spectra.csv`` and ``embedding.csv`` where the features are gone. t-SNE: van der Maaten and Hinton,
"Visualizing Data using t-SNE", JMLR 2008.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.types import Array, Cell, Checkpoint, Key
from ckptbench.pipeline.plan import Plan, SourceRun
from ckptbench.truth.tasks import FETask, FTTask

VERSION = 1
ROWS = 1000  # examples behind a spectrum or a map, the same for all checkpoints of a pair
EPOCHS = 12  # spectra of a pair
INDICES = 200  # singular values kept of each
PAIRS = 4  # up to which every pair has maps; of more the first and the last


@dataclass(frozen=True, kw_only=True)
class MapTask(CellTask):
    """The spectrum or the t-SNE map of one feature matrix; ``after`` names the FT protocol it comes after."""

    drawn: Literal["spectrum", "embedding"]
    checkpoint: Checkpoint
    target: str
    features: Key
    count: int
    after: str = ""

    @property
    def name(self) -> str:
        return f"{self.drawn} {self.target} {self.checkpoint.run} epoch {self.checkpoint.epoch}"

    def rows(self) -> Array:
        """Which examples are looked at."""
        if self.count <= ROWS:
            return np.arange(self.count)
        draws = np.random.default_rng(derive_seed("maps", self.checkpoint.run, self.target))
        return np.sort(draws.choice(self.count, ROWS, replace=False))

    def lock_key(self) -> Key:
        pair = [self.checkpoint.run, self.target]
        return {"what": self.drawn, "version": VERSION, "features": self.features, "pair": pair}

    def cell_keys(self) -> list[Key]:
        return [self.lock_key()]

    def compute(self, store: Store, missing: Sequence[Key]) -> Iterator[Cell]:
        features = store.read_features(self.features)
        if features is None:
            raise InputError(f"features of {self.checkpoint.run} epoch {self.checkpoint.epoch} are missing")
        matrix = np.asarray(features[self.rows()], dtype=np.float64)
        values = singular_values(matrix) if self.drawn == "spectrum" else _embedding(matrix)
        extra = {"values": [[float(f"{value:.5g}") for value in row] for row in values]}
        yield Cell(missing[0], "ok", None, extra=extra)


def singular_values(matrix: Array) -> Array:
    """(index from 1, singular value) of a matrix that is not centred, at most ``INDICES`` evenly spread."""
    sigma = np.linalg.svd(matrix, compute_uv=False)
    index = np.array(_spread(range(1, len(sigma) + 1), INDICES))
    return np.column_stack([index, sigma[index - 1]])


def _embedding(matrix: Array) -> Array:
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=min(30.0, (len(matrix) - 1) / 3), init="pca", random_state=0, n_jobs=1)
    places: Array = tsne.fit_transform(matrix)
    return places


def _spread(values: Sequence[Any], number: int) -> list[Any]:
    """At most ``number`` of the values, evenly spread, the first and the last among them."""
    places = np.unique(np.linspace(0, len(values) - 1, min(number, len(values))).round().astype(int))
    return [values[place] for place in places]


def map_tasks(plan: Plan, fe: Sequence[FETask], ft: Sequence[FTTask]) -> Iterator[MapTask]:
    """Spectra along every drawn pair, and maps of its best and last checkpoints, before and after FT."""
    for source, target in _drawn_pairs(plan, fe, ft):
        data = plan.targets[target].train
        task = partial(MapTask, store=plan.store.root, target=target, count=len(data))
        for c in _spread(source.checkpoints, EPOCHS):
            yield task(drawn="spectrum", checkpoint=c, features=source.recipe.key(c, data))
        epochs = _map_epochs(plan, source, target, [*fe, *ft])
        for c in (c for c in source.checkpoints if c.epoch in epochs):
            yield task(drawn="embedding", checkpoint=c, features=source.recipe.key(c, data))
            for tuned in ft:
                kept = tuned.features_key()
                if kept is not None and (tuned.target, tuned.checkpoint) == (target, c):
                    yield task(drawn="embedding", checkpoint=c, features=kept, after=tuned.protocol.name)


def _drawn_pairs(plan: Plan, fe: Sequence[FETask], ft: Sequence[FTTask]) -> list[tuple[SourceRun, str]]:
    """All of a few pairs; of many the first and the last with every goal of the suite."""
    if len(plan.pairs) <= PAIRS:
        return plan.pairs
    measured = [{(task.checkpoint.run, task.target) for task in tasks} for tasks in (fe, ft) if tasks]
    whole = [pair for pair in plan.pairs if all((pair[0].name, pair[1]) in part for part in measured)]
    pairs = whole or plan.pairs
    return [pairs[0], pairs[-1]][: len(pairs)]


def _map_epochs(plan: Plan, source: SourceRun, target: str, truth: Sequence[FETask | FTTask]) -> set[int]:
    """Those that a quoted paper looks at; else the best by the pair's first protocol, and the last."""
    if plan.suite.published is not None:
        return set(plan.suite.published.ours)
    measured: dict[int, list[float]] = {}
    own = [task for task in truth if (task.checkpoint.run, task.target) == (source.name, target)]
    for task in own:
        if task.protocol.name == own[0].protocol.name:
            cells = [plan.store.read_cell(key) for key in task.cell_keys()]
            values = [cell.value for cell in cells if cell is not None and cell.value is not None]
            measured.setdefault(task.checkpoint.epoch, []).extend(values)
    means = {epoch: float(np.mean(values)) for epoch, values in measured.items() if values}
    return {*([max(means, key=lambda epoch: means[epoch])] if means else []), *list(means)[-1:]}


def feature_tables(plan: Plan, tasks: Sequence[MapTask]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``spectra`` (source, target, epoch, index, sigma), ``embedding`` (..., epoch, after, x, y, label)."""
    spectra = [pd.DataFrame(columns=["source", "target", "epoch", "index", "sigma"])]
    embedding = [pd.DataFrame(columns=["source", "target", "epoch", "after", "x", "y", "label"])]
    for task in tasks:
        (key,) = task.cell_keys()
        cell = plan.store.read_cell(key)
        if cell is None or cell.status != "ok":
            continue
        values = np.array(cell.extra["values"])
        about = {"source": task.checkpoint.run, "target": task.target, "epoch": task.checkpoint.epoch}
        if task.drawn == "spectrum":
            columns = {"index": values[:, 0].astype(int), "sigma": values[:, 1]}
            spectra.append(pd.DataFrame({**about, **columns}))
        else:
            labels = plan.targets[task.target].train.labels[task.rows()]
            places = {"x": values[:, 0], "y": values[:, 1], "label": labels}
            embedding.append(pd.DataFrame({**about, "after": task.after, **places}))
    return pd.concat(spectra[1:] or spectra, ignore_index=True), pd.concat(
        embedding[1:] or embedding, ignore_index=True
    )
