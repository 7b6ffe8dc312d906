"""What a selector may see of one checkpoint on one target."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ckptbench.base import guard
from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Checkpoint, Float, locked
from ckptbench.numerics.features import standardise
from ckptbench.numerics.spectrum import Moments, Spectrum

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
_DATA = ("features", "labels", "source_probs", "source_logits", "source")


@dataclass(frozen=True)
class SourceRows:
    """At most 1,000 rows of the source training set as one checkpoint sees them."""

    features: Array
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Training images of the source set or the target, as they are before the network's normalisation.

    Attributes
    ----------
    pixels : uint8, n x 3 x H x W
    labels : n classes; those of a source set only a supervised run has learnt
    mean, std : by which the network normalises: (pixels/255 - mean)/std, per channel
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Ledger:
    """Keeps what several selectors look at, and charges its seconds to each of them that does."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Any, float]] = {}
        self._charged: set[Hashable] = set()
        self.spent = 0.0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under a key, made where it is not there yet."""
        if key not in self._kept:
            before, spent = time.perf_counter(), self.spent
            value = make()
            seconds = time.perf_counter() - before - (self.spent - spent)  # without what that made in turn
            self._kept[key] = value, seconds
            self.spent += seconds
        self._charged.add(key)
        kept: T = self._kept[key][0]
        return kept

    def start(self) -> None:
        """From here on another selector pays."""
        self._charged.clear()
        self.spent = 0.0

    def seconds(self, elapsed: float) -> float:
        """What the selector would have taken alone."""
        return elapsed - self.spent + sum(self._kept[key][1] for key in self._charged)


@dataclass(frozen=True, eq=False)
class Candidate:
    """All that a selector may see of one checkpoint on one target. Every array is read-only.

    Within a suite, fields that a selector does not list in its ``needs`` are None.

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
    source_probs: Float | None = None
    source: SourceRows | None = None
    checkpoint: Checkpoint | None = None
    seed: int = 0
    make_model: Callable[[], nn.Module] | None = field(default=None, repr=False)
    read_source_images: Callable[[], Images] | None = field(default=None, repr=False)
    read_target_images: Callable[[Array], Images] | None = field(default=None, repr=False)
    source_logits: Float | None = None
    # What is computed of features and labels is kept in a ledger under the candidate's name there. A copy
    # made with ``dataclasses.replace`` has a new ledger: its features and labels may be others.
    _ledger: Ledger = field(default_factory=Ledger, init=False, repr=False)
    _name: tuple[Hashable, ...] = field(default=(), init=False, repr=False)
    _original: Candidate | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("features", "labels", "source_probs", "source_logits"):
            array = getattr(self, name)
            if array is not None:
                view = np.asarray(array).view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @property
    def rng(self) -> np.random.Generator:
        """A new generator with this candidate's seed, the same at every access."""
        return np.random.default_rng(self.seed)

    @property
    def matrix(self) -> Float:
        """The features as float64, read-only, converted once."""
        features = self._given("features")

        def make() -> Float:
            matrix = np.asarray(features, dtype=np.float64)
            matrix.flags.writeable = False
            return matrix

        return self._features_once("matrix", make)

    @property
    def classes(self) -> NDArray[np.int64]:
        """The labels, for a score that is defined for one class per example and for nothing else."""
        labels: NDArray[np.int64] = self._given("labels")
        if labels.ndim != 1:
            raise InputError("this score needs one class per example, found columns of numbers")
        return labels

    @property
    def n_classes(self) -> int:
        return int(self.onehot.shape[1])

    @property
    def onehot(self) -> Float:
        """N x C one-hot labels; the label columns themselves for regression and multi-label."""
        labels = self._given("labels")

        def make() -> Float:
            if labels.ndim == 2:
                return locked(np.array(labels, dtype=np.float64))
            return locked(np.eye(int(labels.max()) + 1)[labels])

        return self._labels_once("onehot", make)

    @property
    def spectrum(self) -> Spectrum:
        """Spectrum of F as it is, with the one-hot labels' projections. Computed once."""
        return self._spectrum("spectrum", centred=False)

    @property
    def centred(self) -> Spectrum:
        """Spectrum of F with its column means taken out (labels centred too). Computed once."""
        return self._spectrum("centred", centred=True)

    @property
    def standardised(self) -> Candidate:
        """The same candidate with each feature at mean 0 and variance 1 over these rows.

        A constant feature becomes 0. The source rows are mapped the same way, so that the two still compare.
        """
        features = self._given("features")
        matrix, mean, unit = self._features_once("standardised", lambda: _standardise(features))
        source = self.source
        if source is not None:
            source = SourceRows((np.asarray(source.features, np.float64) - mean) / unit, source.labels)
        original = self._original
        if original is not None:
            original = original.only(("features", "labels")).standardised
        return self._kept_in(self._ledger, ("std", *self._name), original, features=matrix, source=source)

    def with_labels(self, labels: Array) -> Candidate:
        """The same features under other labels: they are not decomposed again, only projected."""
        labels = np.asarray(labels)
        name = hashlib.sha256(labels.tobytes()).hexdigest()
        return self._kept_in(self._ledger, (*self._name, name), self._original or self, labels=labels)

    def rows(self, rows: NDArray[np.integer[Any]]) -> Candidate:
        """The candidate on some of its rows; the source rows stay."""
        parts = {name: getattr(self, name) for name in _DATA if name != "source"}
        chosen = {name: part[rows] for name, part in parts.items() if part is not None}
        return replace(self, **chosen, read_target_images=None)

    def with_seed(self, seed: int) -> Candidate:
        """The candidate under another seed; what was computed stays shared."""
        return self._kept_in(self._ledger, self._name, self._original, seed=seed)

    def kept_in(self, ledger: Ledger, name: Hashable = ()) -> Candidate:
        """The candidate with its spectra in a ledger that it shares with others, under a name of its own."""
        return self._kept_in(ledger, (name,), None)

    def only(self, needs: Collection[str]) -> Candidate:
        """What a selector with these ``needs`` may see, and None for everything else."""
        seen = copy.copy(self)
        hidden = [name for name in _DATA if name not in needs]
        if "weights" not in needs:
            hidden.append("make_model")
            if self.checkpoint is not None:
                object.__setattr__(seen, "checkpoint", replace(self.checkpoint, path=None))
        hidden += [f"read_{need}" for need in ("source_images", "target_images") if need not in needs]
        for name in hidden:
            object.__setattr__(seen, name, None)
        if "labels" in hidden:
            object.__setattr__(seen, "_name", (*self._name, "unlabelled"))
            object.__setattr__(seen, "_original", self._original or self)
        return seen

    def model(self) -> nn.Module:
        """The network itself, for selectors that need weights."""
        if self.make_model is None:
            raise InputError("this candidate has features only: no weights to build a model from")
        with guard.suspended():
            return self.make_model()

    def source_images(self) -> Images:
        """At most 1,000 images of the source training set, for selectors that run the network on them."""
        if self.read_source_images is None:
            raise InputError("this candidate has no source images: they are known in a suite alone")
        with guard.suspended():
            return self.read_source_images()

    def target_images(self, most: int) -> Images:
        """At most so many training images of the target and their labels, drawn with the candidate's seed."""
        if self.read_target_images is None:
            raise InputError("this candidate has no target images: they are known in a suite alone")
        chosen = np.sort(self.rng.permutation(len(self.labels))[:most])
        with guard.suspended():
            return replace(self.read_target_images(chosen), labels=self.classes[chosen])

    def _given(self, name: str) -> Any:
        value = getattr(self, name)
        if value is None:
            raise InputError(f"{name!r} is not among the needs that this selector declares")
        return value

    def _kept_in(
        self, ledger: Ledger, name: tuple[Hashable, ...], original: Candidate | None, **changes: Any
    ) -> Candidate:
        other = replace(self, **changes)
        for field_, value in (("_ledger", ledger), ("_name", name), ("_original", original)):
            object.__setattr__(other, field_, value)
        return other

    def _features_once(self, what: str, make: Callable[[], T]) -> T:
        """Once for all labels."""
        return self._ledger.get(((self._original or self)._name, what), make)

    def _labels_once(self, what: str, make: Callable[[], T]) -> T:
        return self._ledger.get((self._name, what), make)

    def _spectrum(self, what: str, *, centred: bool) -> Spectrum:
        features, labels = self._given("features"), getattr(self, "labels", None)
        # A score without labels has a spectrum without them.
        columns = np.zeros((len(features), 1)) if labels is None else self.onehot
        original = self._original
        if original is not None:
            whole = original._spectrum(what, centred=centred)
            return self._labels_once(what, lambda: whole.with_labels(columns))
        moments = self._labels_once("moments", lambda: Moments(features, columns))
        return self._labels_once(what, lambda: Spectrum(features, columns, centred=centred, moments=moments))


def _standardise(features: Array) -> tuple[Float, Float, Float]:
    """(features at mean 0 and variance 1, their means, their standard deviations), all read-only."""
    matrix, mean, unit = standardise(features)
    return locked(matrix), locked(mean), locked(unit)


def logits_of(features: Array, weight: Float, bias: Float) -> Float:
    """W f + b in float64, by blocks: the features are never held whole in float64."""
    blocks = (features[start : start + 4096] for start in range(0, len(features), 4096))
    return np.concatenate([block.astype(np.float64) @ weight.T + bias for block in blocks])
