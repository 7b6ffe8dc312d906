"""Labels of any kind as numbers: one class an example, several labels, or quantities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Float, Task

SEPARATOR = ";"
FEWEST = 10  # examples with and without a label, below which its heads are not fitted


def as_numpy(values: Any) -> Array:
    """An array of what may be a torch tensor."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    return np.asarray(values)


def read_labels(labels: Any, task: Task) -> tuple[NDArray[np.int64], Float | None, tuple[str, ...]]:
    """The class of each example; of several labels and of numbers, zeros and an N x K matrix; and the names.

    Raises
    ------
    InputError
        If they are not what the task needs.
    """
    if task == "classification":
        numbers, classes = _classes(labels)
        return numbers, None, classes
    columns, names = _sets(labels) if task == "multilabel" else _quantities(labels)
    return np.zeros(len(columns), np.int64), columns, names


def measurable(columns: Float, names: tuple[str, ...], task: Task) -> tuple[Float, tuple[str, ...], str]:
    """The columns that can be measured, their names, and a sentence on those that cannot."""
    if task == "multilabel":
        ones = columns.sum(axis=0)
        kept = np.minimum(ones, len(columns) - ones) >= FEWEST
        why = f"fewer than {FEWEST} examples with it, or without"
    else:
        kept, why = columns.std(axis=0) > 0, "all numbers are equal"
    lost = [name for name, keep in zip(names, kept, strict=True) if not keep]
    sentence = f"not measured, as {why}: {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}" if lost else ""
    if not kept.any():
        raise InputError(f"no column of the labels can be measured; {sentence}")
    return columns[:, kept], tuple(name for name in names if name not in lost), sentence


def _classes(labels: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Numbers of the classes, and the classes in order: of numbers as numbers, of words as words."""
    values = _listed(labels) if isinstance(labels, list) else as_numpy(labels)
    if values.dtype == object:
        values = values.astype(str)
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"labels should be one number or word for each example, not of shape {values.shape}; "
            "task='multilabel' and task='regression' take N x K"
        )
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or (values != values.round()).any():
            odd = values[~(np.isfinite(values) & (values == values.round()))][0]
            raise InputError(
                f"a label is {odd}: labels are classes, whole numbers or words; "
                "task='regression' takes numbers"
            )
        values = values.astype(np.int64)
    kinds, numbers = np.unique(values, return_inverse=True)
    if len(kinds) > 1 and all(str(kind).isdecimal() for kind in kinds):  # "10" after "9"
        order = np.argsort(kinds.astype(np.int64), kind="stable")
        kinds, numbers = kinds[order], np.argsort(order)[numbers]
    return numbers.astype(np.int64), tuple(map(str, kinds))


def _listed(labels: list[Any]) -> Array:
    rows = [as_numpy(one) for one in labels]
    if len({row.shape for row in rows}) > 1:
        raise InputError("labels should be one number or word for each example: some are lists")
    values = np.array(rows)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _sets(labels: Any) -> tuple[Float, tuple[str, ...]]:
    """N x K of 0 and 1, from such a matrix or from names."""
    first = labels[0] if isinstance(labels, list | tuple) and len(labels) else None
    if isinstance(first, list | tuple | set) and (
        len({len(row) for row in labels}) > 1 or any(isinstance(one, str) for row in labels for one in row)
    ):
        rows = [set(map(str, row)) for row in labels]
    else:
        values = np.stack([as_numpy(row) for row in labels]) if first is not None else as_numpy(labels)
        if values.ndim == 2:
            if not np.isin(values, (0, 1)).all():
                raise InputError("labels N x K of the task multilabel should be 0 or 1")
            return values.astype(np.float64), tuple(map(str, range(values.shape[1])))
        rows = [{part.strip() for part in str(one).split(SEPARATOR)} - {""} for one in values]
    names = sorted(set().union(*rows))
    if not names:
        raise InputError("no example has a label")
    return np.array([[name in row for name in names] for row in rows], dtype=np.float64), tuple(names)


def _quantities(labels: Any) -> tuple[Float, tuple[str, ...]]:
    """N x K numbers."""
    rows = labels if not isinstance(labels, list | tuple) else np.stack([as_numpy(row) for row in labels])
    try:
        values = as_numpy(rows).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"labels of the task regression should be numbers: {error}") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise InputError(f"labels of the task regression should be N or N x K numbers, not {values.shape}")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise InputError(f"the label of example {bad[0, 0]} is {values[tuple(bad[0])]}: it should be finite")
    return values, tuple(map(str, range(values.shape[1])))
