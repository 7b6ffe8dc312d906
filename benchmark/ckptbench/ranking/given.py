"""Feature matrices as they were given, and what an answer rests on, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.text import counted
from ckptbench.base.types import Array, Checkpoint, Key, Preprocessing
from ckptbench.data.labels import as_numpy
from ckptbench.ranking.examples import Labelled
from ckptbench.ranking.options import Normalisation
from ckptbench.suites import Data


def given_matrices(checkpoints: Any) -> list[Array] | None:
    """Feature matrices, where that is what was given."""
    if not isinstance(checkpoints, list | tuple) or not checkpoints:
        return None
    first = checkpoints[0]
    if not hasattr(first, "shape") or not hasattr(first, "__array__"):
        return None
    matrices: list[Array] = []
    for i, one in enumerate(checkpoints):
        matrix = as_numpy(one)
        if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype.kind not in "iuf":
            raise InputError(
                f"features {i} should be N x D real numbers, not {matrix.dtype} of {matrix.shape}"
            )
        if len(matrix) != len(matrices[0] if matrices else matrix):
            raise InputError(f"features {i} have {len(matrix)} rows, features 0 have {len(matrices[0])}")
        bad = np.argwhere(~np.isfinite(matrix))
        if len(bad):
            row, column = bad[0]
            raise InputError(f"features {i} hold {matrix[row, column]} in row {row}, column {column}")
        matrices.append(matrix)
    return matrices


def store_features(matrices: list[Array], store: Store) -> tuple[list[Checkpoint], list[Key]]:
    """Matrices as the checkpoints 0, 1, ... with their features in the store."""
    checkpoints, keys = [], []
    for epoch, matrix in enumerate(matrices):
        values = np.ascontiguousarray(matrix, dtype=np.float32)
        own = digest([values.shape, values.tobytes().hex()])
        key: Key = {"what": "features/given", "features": own}
        if not store.has_features(key):
            store.write_features(key, [values], values.shape, np.float32, 0.0)
        checkpoints.append(Checkpoint("run", epoch, "features", own))
        keys.append(key)
    return checkpoints, keys


def prepared(
    picture: Preprocessing, size: int | None, normalise: Normalisation | None, options: Data
) -> Preprocessing:
    """The preprocessing, with what the user said in its place."""
    if size is None and "size" in options.model_fields_set:
        size = options.size
    if size is not None:
        if not 8 <= size <= 1024:
            raise InputError(f"size is {size}: between 8 and 1024 pixels is possible")
        picture = replace(picture, size=size, crop=options.crop if size != picture.size else picture.crop)
    if normalise is not None:
        try:
            pair = np.array(normalise, np.float64)
        except (TypeError, ValueError):
            pair = np.empty(0)
        if pair.shape != (2, 3) or not np.isfinite(pair).all() or (pair[1] <= 0).any():
            raise InputError(
                "normalise should be three means and three positive deviations, of red, green, blue"
            )
        mean, std = (tuple(part) for part in pair.tolist())
        picture = replace(picture, mean=mean, std=std)
    return picture


def used_images(picture: Preprocessing, said_by: str) -> str:
    crop = "the centre square" if picture.crop == 1 else f"the centre square of {100 * picture.crop:.3g} %"
    mean, std = (", ".join(f"{one:.4g}" for one in part) for part in (picture.mean, picture.std))
    return (
        f"{crop} scaled to {picture.size} px ({picture.interpolation}), "
        f"mean {mean}, deviation {std}: {said_by}"
    )


def used_data(labelled: Labelled) -> str:
    shown = [f"{name} {count}" for name, count in zip(labelled.classes, labelled.counts, strict=True)][:10]
    more = len(labelled.classes) - 10
    if labelled.task == "regression":
        shown, more = [counted(len(labelled.classes), "number") + " each"], 0
    what = "classes" if labelled.task == "classification" else "labels"
    rest = f", and {more} more {what}" if more > 0 else ""
    of = f" of {labelled.total:,}" if labelled.total > len(labelled.labels) else ""
    groups = "" if labelled.groups is None else f" in {len(np.unique(labelled.groups))} groups"
    return f"{labelled.name}: {len(labelled.labels):,}{of} examples{groups}, {', '.join(shown)}{rest}"
