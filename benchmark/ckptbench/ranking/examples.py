"""The labelled examples that checkpoints are measured on, drawn from whatever a user has (``reading``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptbench.base.digests import derive_seed, digest
from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Examples, Float, Task
from ckptbench.data.labels import measurable, read_labels
from ckptbench.data.raw import RawSet
from ckptbench.data.targets import Split, make_split, sample
from ckptbench.suites import Data


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The examples that checkpoints are measured on.

    ``labels`` are N numbers of the ``classes``; for several labels or numbers N x K, and ``classes`` names
    the columns. ``examples`` is None where features were given; ``texts`` is None where these are images;
    ``total`` counts what there was before ``limit``.
    """

    name: str
    task: Task = "classification"
    labels: Array
    classes: tuple[str, ...]
    digest: str
    total: int
    examples: Examples | None = None
    texts: list[str] | None = None
    groups: Array | None = None
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> NDArray[np.int64]:
        """Of each class, or label."""
        if self.labels.ndim == 2:
            return np.asarray(self.labels.sum(axis=0), np.int64)
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclass(frozen=True)
class Source:
    """What was read, before the examples are drawn.

    ``groups`` maps an example's identifier to its group; ``columns`` are the N x K labels where an example
    has no one class.
    """

    name: str
    found: RawSet
    options: Data
    task: Task = "classification"
    columns: Float | None = None
    groups: Mapping[str, str] | None = None


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with their labels, where images would be."""

    texts: list[str]
    labels: NDArray[np.int64]

    def identifier(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> str:
        return digest(self.texts[index])

    def image(self, index: int) -> Any:
        raise InputError("the data are texts, and the architecture is one for images")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Examples as rows of token numbers (N x L), which a network for texts takes."""

    tokens: NDArray[np.int64] = field(repr=False)
    labels: Array = field(repr=False)
    digest: str

    def __len__(self) -> int:
        return len(self.tokens)

    def images(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> Array:
        return np.asarray(self.tokens[indices])


def draw(source: Source, options: Data, limit: int) -> Labelled:
    """At most ``limit`` examples, drawn class by class; none is held back.

    Raises
    ------
    InputError
        If there is one class, or a class with one example.
    """
    raw = source.found.train
    total = len(raw.labels)
    if source.columns is not None:
        seed = derive_seed("sample", "rank", options.seed)
        rows = np.random.default_rng(seed).permutation(total)[:limit]
        columns, classes, lost = measurable(source.columns[rows], source.found.classes, source.task)
        split, notes = make_split(raw, rows, columns, options), (*source.found.notes, lost)
    else:
        if options.classes is None and options.per_class is None and options.rate is None and total > limit:
            options = options.model_copy(update={"rate": limit / total})
        target = sample(source.found, options, source.name, tested=False)
        assert isinstance(target.train, Split)
        split, classes, notes = target.train, target.classes, target.notes
    names = [raw.identifier(row) for row in split.rows.tolist()]
    groups = None
    if source.groups is not None:
        lacking = [name for name in names if name not in source.groups]
        if lacking:
            raise InputError(f"no group is given for {lacking[0]} (and {len(lacking) - 1} more)")
        groups = np.array([source.groups[name] for name in names])
    return Labelled(
        name=source.name, task=source.task, labels=split.labels, classes=classes, digest=split.digest,
        total=total, examples=split, groups=groups, notes=tuple(filter(None, notes)),
        texts=[raw.texts[row] for row in split.rows.tolist()] if isinstance(raw, Texts) else None,
    )  # fmt: skip


def of_labels(labels: Any, groups: Sequence[Any] | None = None, task: Task = "classification") -> Labelled:
    """For features that were given with their labels."""
    numbers, columns, classes = read_labels(labels, task)
    lost = ""
    if columns is not None:
        columns, classes, lost = measurable(columns, classes, task)
    elif len(classes) < 2:
        raise InputError(f"there is one class, {classes[0]!r}: two are needed")
    values: Array = numbers if columns is None else columns
    own = None if groups is None else np.asarray(groups)
    if own is not None and len(own) != len(values):
        raise InputError(f"there are {len(own)} groups for {len(values)} examples")
    return Labelled(
        name="the features given", task=task, labels=values, classes=classes, digest=digest(values.tolist()),
        total=len(values), groups=own, notes=(lost,) if lost else (),
    )  # fmt: skip
