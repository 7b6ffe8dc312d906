"""The words of ckptbench as types: everything else imports this module, it imports nothing of ours.

``Candidate`` is all that a selector may see; ``Checkpoint``, ``Target`` and ``Cell`` are what the
stages hand to each other. Shapes: N examples, D features, C target classes, C_s source classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Key = dict[str, Any]
"""All that changes what it is the key of."""
Task = Literal["classification", "multilabel", "regression"]
"""One class an example, any of several labels, or numbers."""
Metric = Literal["accuracy", "balanced", "auroc", "map", "r2"]
Array = NDArray[Any]
Float = NDArray[np.float64]


def locked(array: Array) -> Array:
    """The array itself, read-only from now on, and so is every array that it is a view of."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base.flags.writeable = False
        base = base.base
    return array


@dataclass(frozen=True)
class Checkpoint:
    """The weights after one epoch of a source run.

    ``source_accuracy`` is a fraction in [0, 1], or None where nobody measured it.
    """

    run: str
    epoch: int
    architecture: str
    digest: str
    path: Path | None = None
    source_accuracy: float | None = None


@dataclass(frozen=True)
class Preprocessing:
    """What an architecture's library does to an image: scale, crop the centre, normalise.

    ``size`` is the side of the square in pixels, ``crop`` the share of the shorter side that it has left,
    ``mean`` and ``std`` are of pixels in [0, 1]. The defaults are ImageNet's statistics.
    """

    size: int = 224
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Examples(Protocol):
    """Labelled images of one split, decoded only when asked for."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """Decode some examples: uint8, n x 3 x H x W."""
        ...


@dataclass(frozen=True)
class Target:
    """A labelled data set. ``train`` is what selectors see, ``test`` is for truth alone.

    ``pool`` holds further training examples (none of them in ``train`` or ``test``): where it is
    not None, each truth seed draws its own training set from it instead of subsampling ``train``.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    pool: Examples | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What one test of `ckptbench check` found.

    ``passed`` is None where the test was not run or need not be passed: see the message.
    """

    test: str
    passed: bool | None
    message: str
    seconds: float


@dataclass(frozen=True)
class Cell:
    """One number with its key: a score or a truth.

    ``status`` is ok or failed; ``computed`` says by which commit, on what device and instruction set and in
    which precision. That is recorded beside the number: what of it changes the number is in the key as well.
    """

    key: Key
    status: Literal["ok", "failed"]
    value: float | None = None
    message: str = ""
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Computed:
    """How many cells of a stage were computed by which commit on what kind of machine.

    A commit with ``-dirty`` behind it had uncommitted changes; "unknown" stands where nothing was recorded.
    """

    stage: str
    commit: str
    device: str
    instructions: str
    precision: str
    torch: str
    cells: int


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a results folder come from.

    ``versions`` are those of the packages that wrote the tables, ``seconds`` what computing the cells of each
    stage took in all. Never a path or the name of a machine.
    """

    suite: str
    suite_digest: str
    versions: dict[str, str]
    computed: tuple[Computed, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def commits(self) -> list[str]:
        """Every commit that computed a cell."""
        return list(dict.fromkeys(part.commit for part in self.computed))

    @property
    def machines(self) -> list[str]:
        """Every device with its instruction set and precision, as in ``cpu, AVX512, fp32``."""
        parts = ((part.device, part.instructions, part.precision) for part in self.computed)
        return list(dict.fromkeys(", ".join(filter(None, words)) for words in parts))
