"""The words of ckptbench as types: everything else imports this module, it imports nothing of ours.

``Candidate`` is all that a selector may see; ``Checkpoint``, ``Target`` and ``Cell`` are what the
stages hand to each other. Shapes: N examples, D features, C target classes, C_s source classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

    from ckptbench.spectrum import Spectrum

Array = NDArray[Any]
Float = NDArray[np.float64]


class InputError(Exception):
    """Something a user gave is wrong: one sentence that says what, where, and what would be right."""


def digest(value: object) -> str:
    """SHA-256 (first 16 hex digits) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from named parts, so that no number depends on what else ran."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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
class SourceRows:
    """At most 1,000 rows of the source training set as one checkpoint sees them."""

    features: Array
    labels: NDArray[np.int64]


def _readonly(array: Array) -> Array:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Candidate:
    """All that a selector may see of one checkpoint on one target. Every array is read-only.

    Attributes
    ----------
    features : N x D, as stored (often a float16 memory map) or, in a scaled view, float64
    labels : N integers in 0..C-1; or N x K floats for regression and multi-label targets
    source_probs : N x C_s float64 softmax of the source head, None without a head
    source_logits : N x C_s float64, what they are the softmax of, None without a head
    source : rows of the source set with their labels, None where there are none
    seed : names the target (and the repeat of a random selector), not the checkpoint, so that
        checkpoints are compared on the same batches and subsets
    """

    features: Array
    labels: Array
    make_spectrum: Callable[..., Spectrum] = field(repr=False)
    source_probs: Float | None = None
    source: SourceRows | None = None
    checkpoint: Checkpoint | None = None
    seed: int = 0
    make_model: Callable[[], nn.Module] | None = field(default=None, repr=False)
    source_logits: Float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _readonly(self.features))
        object.__setattr__(self, "labels", _readonly(self.labels))
        for name in ("source_probs", "source_logits"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _readonly(getattr(self, name)))

    @property
    def rng(self) -> np.random.Generator:
        """A new generator with this candidate's seed, the same at every access."""
        return np.random.default_rng(self.seed)

    @cached_property
    def matrix(self) -> Float:
        """The features as float64, read-only, converted once."""
        return _readonly(np.asarray(self.features, dtype=np.float64))

    @property
    def classes(self) -> NDArray[np.int64]:
        """The labels, for a score that is defined for one class per example and for nothing else."""
        if self.labels.ndim != 1:
            raise InputError("this score needs one class per example, found columns of numbers")
        return self.labels

    @cached_property
    def n_classes(self) -> int:
        return int(self.onehot.shape[1])

    @cached_property
    def onehot(self) -> Float:
        """N x C one-hot labels; the label columns themselves for regression and multi-label."""
        if self.labels.ndim == 2:
            return _readonly(np.asarray(self.labels, dtype=np.float64))
        return _readonly(np.eye(int(self.labels.max()) + 1)[self.labels])

    @cached_property
    def spectrum(self) -> Spectrum:
        """Spectrum of F as it is, with the one-hot labels' projections. Computed once."""
        return self.make_spectrum(self.features, self.onehot, centred=False)

    @cached_property
    def centred(self) -> Spectrum:
        """Spectrum of F with its column means taken out (labels centred too). Computed once."""
        return self.make_spectrum(self.features, self.onehot, centred=True)

    @cached_property
    def standardised(self) -> Candidate:
        """The same candidate with each feature at mean 0 and variance 1 over these rows.

        A constant feature becomes 0. The source rows are mapped the same way, so that the two still compare.
        """
        matrix = np.array(self.features, dtype=np.float64)  # the only copy: it may be a gigabyte
        largest = np.maximum(matrix.max(axis=0), -matrix.min(axis=0))
        mean = matrix.mean(axis=0)
        matrix -= mean
        spread = np.sqrt(np.einsum("ij,ij->j", matrix, matrix) / len(matrix))
        # A feature whose spread is rounding error of its mean is constant: dividing would make noise.
        constant = spread <= 1e-12 * largest
        unit = np.where(constant, np.inf, spread)
        matrix /= unit
        source = self.source
        if source is not None:
            source = SourceRows((np.asarray(source.features, np.float64) - mean) / unit, source.labels)
        return Candidate(
            matrix,
            self.labels,
            self.make_spectrum,
            self.source_probs,
            source,
            self.checkpoint,
            self.seed,
            self.make_model,
            self.source_logits,
        )

    def model(self) -> nn.Module:
        """The network itself, for selectors that need weights."""
        if self.make_model is None:
            raise InputError("this candidate has features only: no weights to build a model from")
        return self.make_model()


@runtime_checkable
class Selector(Protocol):
    """What a selector plugin looks like; nothing need inherit from it.

    ``needs`` is a subset of features, labels, source_probs, source_logits, source, weights (features
    and labels where it is not given); ``random`` says that the score draws from ``candidate.rng``. Annotated
    class attributes with defaults are parameters. A selector with a parameter ``scale`` ("raw" or
    "std") is handed the features scaled that way. One that defines ``score_pool(candidates) ->
    array`` instead of ``score`` sees the whole trajectory at once. ``direction_exempt`` gives the reason
    why a score need not rise when the classes move apart, which `ckptbench.conformance` asks of all others.
    """

    name: ClassVar[str]

    def score(self, candidate: Candidate) -> float: ...


class Extractor(Protocol):
    """One family of models: which architectures it knows, how to build one, where its head is."""

    name: ClassVar[str]

    def architectures(self) -> list[str]: ...

    def build(self, architecture: str, classes: int, **options: Any) -> nn.Module: ...

    def head(self, model: nn.Module) -> str:
        """Name of the last linear layer, whose input is the penultimate activation."""
        ...


@dataclass(frozen=True)
class Cell:
    """One number with its key: a score or a truth. ``key`` names it, ``status`` is ok or failed."""

    key: dict[str, Any]
    status: str
    value: float | None = None
    message: str = ""
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest(self.key)


@dataclass(frozen=True)
class Provenance:
    """Where a results folder comes from."""

    suite: str
    suite_digest: str
    commit: str
    dirty: bool
    versions: dict[str, str]
    device: str
    host: str
    started: str
    arguments: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
