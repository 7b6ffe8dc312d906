"""The score stage: one selector's number for one candidate, and all of them for a trajectory.

A candidate's spectra are computed once and shared by all its selectors. Each cell's seconds are what
the selector would have taken alone: its own time and that of the spectra it looked at.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from ckptbench.plugins import PluginSpec, load_plugins
from ckptbench.spectrum import Spectrum
from ckptbench.store import Store
from ckptbench.types import Array, Candidate, Cell, Checkpoint, Float, InputError, SourceRows, derive_seed

SOURCE_ROWS = 1000


def score(
    selector: str,
    features: Array | Sequence[Array],
    labels: Array | Sequence[Any],
    source_probs: Array | None = None,
    *,
    source_logits: Array | None = None,
    source: tuple[Array, Array] | None = None,
    seed: int = 0,
    plugins: Sequence[str] = (),
    **params: Any,
) -> float | Float:
    """One selector's number; higher is better.

    Parameters
    ----------
    selector : a name, or ``name:param=value``
    features : N x D; for a pool selector a list of such matrices, one per checkpoint
    labels : N class labels of any kind (they are renumbered), or N (x K) floats for regression
    source_probs : N x C_s, the source head's softmax probabilities
    source_logits : N x C_s, what they are the softmax of
    source : features and labels of some rows of the source set
    plugins : further plugin files or folders
    params : the selector's parameters

    Returns
    -------
    The score; for a pool selector an array with one score per matrix.

    Raises
    ------
    InputError
        If the selector is not known, the arrays do not fit together, features are not finite, or
        the selector needs something that was not given.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> round(score("logme", *load_iris(return_X_y=True)), 5)
    -0.16006
    """
    spec = load_plugins("selector", plugins)[selector]
    if params:
        spec = spec.with_params(",".join(f"{key}={value}" for key, value in params.items()))
    matrices = [np.asarray(m) for m in features] if spec.pool else [np.asarray(features)]
    if spec.pool and matrices[0].ndim != 2:
        raise InputError(
            f"{spec.name} is defined on a pool: give a list of feature matrices, one per checkpoint"
        )
    rows = None if source is None else SourceRows(np.asarray(source[0]), encode_labels(source[1]))
    candidates = []
    for matrix in matrices:
        _check_features(matrix)
        encoded = encode_labels(labels)
        if len(encoded) != len(matrix):
            raise InputError(f"{len(matrix)} rows of features but {len(encoded)} labels")
        probs = None if source_probs is None else np.asarray(source_probs, dtype=np.float64)
        logits = None if source_logits is None else np.asarray(source_logits, dtype=np.float64)
        if logits is not None and probs is None:
            probs = softmax(logits, axis=1)
        candidates.append(Candidate(matrix, encoded, Spectrum, probs, rows, seed=seed, source_logits=logits))
    for candidate in candidates:
        _check_needs(spec, candidate)
    selector_object = spec.make()
    scaled = [_view(spec, candidate) for candidate in candidates]
    if spec.pool:
        return np.asarray(selector_object.score_pool(scaled), dtype=np.float64)
    return float(selector_object.score(scaled[0]))


def encode_labels(labels: Array | Sequence[Any]) -> Array:
    """Class labels as 0..C-1 in sorted order; floats (regression, multi-label) as N x K float64."""
    array = np.asarray(labels)
    if array.ndim == 2 or array.dtype.kind == "f":
        columns = array.astype(np.float64).reshape(len(array), -1)
        if not np.isfinite(columns).all():
            raise InputError("labels hold NaN or infinity")
        return columns
    names, encoded = np.unique(array, return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"all labels are {names[0]!r}: at least two classes are needed" if len(names) else "no labels"
        )
    return encoded.astype(np.int64)


@dataclass(frozen=True)
class CandidateFiles:
    """Where a worker finds one candidate: keys into the store, never a live object."""

    store: Path
    features: dict[str, Any]
    labels: Array
    checkpoint: Checkpoint
    seed: int
    source_features: dict[str, Any] | None = None
    source_labels: Array | None = None
    make_model: Callable[[], Any] | None = None

    def load(self, make_spectrum: Callable[..., Spectrum] = Spectrum) -> Candidate:
        """Read the candidate; features stay a memory map.

        Raises
        ------
        InputError
            If the features are gone or damaged: extraction makes them again.
        """
        store = Store(self.store)
        features = store.read_features(self.features, verify=False)
        if features is None:
            raise InputError(
                f"features of {self.checkpoint.run} epoch {self.checkpoint.epoch} are not in the store: extract first"
            )
        logits = None
        head = store.read_head(self.checkpoint.digest)
        if head is not None and head[0].shape[1] == features.shape[1]:
            logits = features.astype(np.float64) @ head[0].T + head[1]
        source = None
        if self.source_features is not None and self.source_labels is not None:
            rows = store.read_features(self.source_features, verify=False)
            source = None if rows is None else SourceRows(rows, self.source_labels)
        return Candidate(
            features, self.labels, make_spectrum, None if logits is None else softmax(logits, axis=1), source,
            self.checkpoint, self.seed, self.make_model, source_logits=logits,
        )  # fmt: skip

    def key(self, spec: PluginSpec, repeat: int) -> dict[str, Any]:
        """All that changes a score."""
        return {
            "what": "score/1",
            "selector": spec.name,
            "params": dict(spec.params),
            "plugin": spec.digest,
            "numerics": _numerics_digest(),
            "features": self.features,
            "labels": hashlib.sha256(self.labels.tobytes()).hexdigest()[:16],
            "source": self.source_features if "source" in spec.needs else None,
            "epoch": self.checkpoint.epoch,
            "source_accuracy": self.checkpoint.source_accuracy,
            "seed": self.seed,
            "repeat": repeat,
        }


class _Ledger:
    """Makes spectra once per candidate and charges their seconds to whoever looks at them."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, bool], tuple[Spectrum, float]] = {}
        self.charged: dict[tuple[int, bool], float] = {}
        self.spent = 0.0

    def __call__(self, features: Array, labels: Array, *, centred: bool) -> Spectrum:
        # Views of one array are one array: its address says which.
        key = (features.__array_interface__["data"][0], centred)
        if key not in self.made:
            before = time.perf_counter()
            spectrum = Spectrum(features, labels, centred=centred)
            self.made[key] = (spectrum, time.perf_counter() - before)
            self.spent += self.made[key][1]
        spectrum, seconds = self.made[key]
        self.charged[key] = seconds
        return spectrum

    def start(self) -> None:
        self.charged = {}
        self.spent = 0.0

    def seconds(self, elapsed: float) -> float:
        """What the selector took, had it been alone."""
        return elapsed - self.spent + sum(self.charged.values())


def score_candidate(files: CandidateFiles, specs: Sequence[PluginSpec], repeats: int) -> list[Cell]:
    """Every (selector, repeat) of one candidate that the store lacks; stores and returns all cells."""
    store = Store(files.store)
    cells = []
    candidate: Candidate | None = None
    ledger = _Ledger()
    for spec in specs:
        for repeat in range(repeats if spec.random else 1):
            cell = store.read_cell(files.key(spec, repeat))
            if cell is None or cell.status != "ok":
                if candidate is None:
                    candidate = files.load(ledger)
                seeded = _repeat(candidate, repeat)
                cell = _guarded(files.key(spec, repeat), spec, [seeded], ledger)[0]
                store.write_cell(cell)
            cells.append(cell)
    return cells


def score_pool(files: Sequence[CandidateFiles], specs: Sequence[PluginSpec], repeats: int) -> list[Cell]:
    """As ``score_candidate`` for selectors that see the whole trajectory."""
    store = Store(files[0].store)
    cells = []
    candidates: list[Candidate] | None = None
    ledger = _Ledger()
    for spec in specs:
        for repeat in range(repeats if spec.random else 1):
            keys = pool_keys(files, spec, repeat)
            found = [store.read_cell(key) for key in keys]
            if any(cell is None or cell.status != "ok" for cell in found):
                candidates = candidates or [file.load(ledger) for file in files]
                found = list(_guarded_pool(keys, spec, [_repeat(c, repeat) for c in candidates], ledger))
                for cell in found:
                    store.write_cell(cell)
            cells += [cell for cell in found if cell is not None]
    return cells


def pool_keys(files: Sequence[CandidateFiles], spec: PluginSpec, repeat: int) -> list[dict[str, Any]]:
    """Keys of a pool selector's cells: the pool's members are part of each."""
    pool = hashlib.sha256(json.dumps([file.features for file in files], default=str).encode()).hexdigest()[
        :16
    ]
    return [{**file.key(spec, repeat), "pool": pool} for file in files]


def _repeat(candidate: Candidate, repeat: int) -> Candidate:
    """The candidate under the seed of a random selector's repeat; what was computed stays shared."""
    if repeat == 0:
        return candidate
    return replace(candidate, seed=derive_seed(candidate.seed, "repeat", repeat))


def _guarded(
    key: dict[str, Any], spec: PluginSpec, candidates: list[Candidate], ledger: _Ledger
) -> list[Cell]:
    return _guarded_pool([key], spec, candidates, ledger)


def _guarded_pool(
    keys: Sequence[dict[str, Any]], spec: PluginSpec, candidates: list[Candidate], ledger: _Ledger
) -> list[Cell]:
    """Run a selector; whatever it raises becomes a failed cell with its message."""
    ledger.start()
    before = time.perf_counter()
    try:
        for candidate in candidates:
            _check_needs(spec, candidate)
        # Each selector gets its own object, so that the ledger sees which spectra it looks at.
        views = [_fresh(_view(spec, candidate)) for candidate in candidates]
        before = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plugin = spec.make()
            values = plugin.score_pool(views) if spec.pool else [plugin.score(views[0])]
            numbers = [float(value) for value in values]
        if len(numbers) != len(keys):
            raise ValueError(f"score_pool returned {len(numbers)} scores for {len(keys)} candidates")
    except Exception as error:  # a plugin may raise anything; it is named and the rest goes on
        seconds = time.perf_counter() - before
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return [Cell(key, "failed", None, message, seconds) for key in keys]
    seconds = ledger.seconds(time.perf_counter() - before) / len(keys)
    notes = "; ".join(dict.fromkeys(str(warning.message) for warning in caught))
    return [
        Cell(
            key,
            "ok",
            number,
            notes if math.isfinite(number) else f"score is {number}; {notes}".rstrip("; "),
            seconds,
        )
        for key, number in zip(keys, numbers, strict=True)
    ]


def _view(spec: PluginSpec, candidate: Candidate) -> Candidate:
    scale = dict(spec.params).get("scale", spec.defaults.get("scale", "raw"))
    if scale not in ("raw", "std"):
        raise InputError(f"{spec.name}: scale={scale!r} is not known: raw or std")
    return candidate.standardised if scale == "std" else candidate


def _fresh(candidate: Candidate) -> Candidate:
    """The same candidate without its cached spectra, but with its converted arrays."""
    fresh = replace(candidate)
    for name in ("matrix", "onehot", "standardised"):
        if name in candidate.__dict__:
            fresh.__dict__[name] = candidate.__dict__[name]
    return fresh


def _check_needs(spec: PluginSpec, candidate: Candidate) -> None:
    for need in spec.needs:
        if need in ("source_probs", "source_logits") and candidate.source_probs is None:
            raise InputError(f"{spec.name} needs source logits, and this checkpoint has no source head")
        if need == "source" and candidate.source is None:
            raise InputError(f"{spec.name} needs rows of the source set, and none are known for this run")
        if need == "weights" and candidate.make_model is None:
            raise InputError(f"{spec.name} needs the network's weights, and only features are at hand")


def _check_features(matrix: Array) -> None:
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"features should be N x D, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        row = int(np.argwhere(~np.isfinite(matrix))[0][0])
        raise InputError(f"features of example {row} hold NaN or infinity")


@cache
def _numerics_digest() -> str:
    """Of the code that plugins build on: when it changes, every score is computed again."""
    here = Path(__file__).parent
    names: Iterable[str] = ("probe.py", "spectrum.py")
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in names)).hexdigest()[:16]
