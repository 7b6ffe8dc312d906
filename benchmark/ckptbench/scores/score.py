"""One selector's number for one feature matrix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.special import softmax

from ckptbench.base import guard
from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Float
from ckptbench.plugins import PluginSpec, load_plugins
from ckptbench.scores.candidate import Candidate, SourceRows

_ROUNDING = 5e-3  # how far probabilities of one example may be from adding up to 1: those of float16 are


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

    Arrays may be NumPy arrays, torch tensors or nested lists.

    Parameters
    ----------
    selector : a name, or ``name:param=value``
    features : N x D; for a pool selector a list of such matrices, one per checkpoint
    labels : N class labels of any kind (they are renumbered), or N (x K) floats for regression
    source_probs : N x C_s, the source head's softmax probabilities
    source_logits : N x C_s, what they are the softmax of; given instead of them
    source : features and labels of some rows of the source set
    plugins : further plugin files or folders
    params : the selector's parameters

    Returns
    -------
    The score; for a pool selector an array with one score per matrix.

    Raises
    ------
    InputError
        If the selector is not known, a parameter is out of range, the arrays do not fit together or hold
        what they cannot, or the selector needs something that was not given.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> round(score("logme", *load_iris(return_X_y=True)), 5)
    -0.16006
    """
    spec = load_plugins("selector", plugins)[selector]
    if params:
        spec = spec.with_params(",".join(f"{key}={value}" for key, value in params.items()))
    if spec.pool and (not len(features) or _array("features", features[0]).ndim != 2):
        raise InputError(
            f"{spec.name} is defined on a pool: give a list of feature matrices, one per checkpoint"
        )
    matrices = [_matrix("features", one) for one in (features if spec.pool else [features])]
    encoded = encode_labels(labels)
    probs, logits = _head(source_probs, source_logits)
    rows = None
    if source is not None:
        rows = SourceRows(_matrix("source features", source[0]), encode_labels(source[1]))
        _same_length("rows of source features", rows.features, "source labels", rows.labels)
    for matrix in matrices:
        _same_length("rows of features", matrix, "labels", encoded)
        if probs is not None:
            _same_length("rows of features", matrix, "rows of the source head's output", probs)
        if rows is not None and rows.features.shape[1] != matrix.shape[1]:
            raise InputError(f"{matrix.shape[1]} features but {rows.features.shape[1]} of the source rows")
    candidates = [
        Candidate(matrix, encoded, source_probs=probs, source_logits=logits, source=rows, seed=seed)
        for matrix in matrices
    ]
    for candidate in candidates:
        check_needs(spec, candidate)
    plugin = spec.make()
    views = [view(spec, candidate) for candidate in candidates]
    values = plugin.score_pool(views) if spec.pool else [plugin.score(views[0])]
    numbers = np.array([float(value) for value in values])
    for number, seen in zip(numbers, views, strict=True):
        flag = outside_bounds(plugin, seen, number)
        if flag:
            warnings.warn(f"{spec.label}: {flag}", stacklevel=2)
    return numbers if spec.pool else float(numbers[0])


def encode_labels(labels: Array | Sequence[Any]) -> Array:
    """Class labels as 0..C-1 in sorted order; floats (regression, multi-label) as N x K float64."""
    array = _array("labels", labels)
    if array.ndim == 2 or array.dtype.kind == "f":
        columns = array.astype(np.float64).reshape(len(array), -1)
        if not np.isfinite(columns).all():
            raise InputError("labels hold NaN or infinity")
        if array.ndim == 1 and len(array) and (array == np.round(array)).all():
            raise InputError(
                "labels are whole numbers held as floats: give integers for classes (labels.astype(int)) "
                "or a column for regression (labels[:, None])"
            )
        return columns
    try:
        names, encoded = np.unique(array, return_inverse=True)
    except TypeError:
        raise InputError("labels are of several types: give all as numbers or all as texts") from None
    if len(names) < 2:
        raise InputError(
            f"all labels are {names[0]!r}: at least two classes are needed" if len(names) else "no labels"
        )
    return encoded.astype(np.int64)


def view(spec: PluginSpec, candidate: Candidate, needs: Sequence[str] | None = None) -> Candidate:
    """The candidate as the selector sees it: what it needs alone, scaled as its parameter ``scale`` asks."""
    scale = dict(spec.params).get("scale", spec.defaults.get("scale", "raw"))
    if scale not in ("raw", "std"):
        raise InputError(f"{spec.name}: scale={scale!r} is not known: raw or std")
    seen = candidate.only(spec.needs if needs is None else needs)
    return seen.standardised if scale == "std" else seen


def member_score(label: str, candidate: Candidate) -> float:
    """What another selector (``NAME`` or ``NAME:PARAM=VALUE,...``) says of the candidate that one is given.

    For a selector that fuses others: it lists their labels in ``members``, which puts their sources into its
    digest. What the members compute of the features is shared.

    Raises
    ------
    InputError
        If the member is not known, sees a whole pool or refuses the candidate.
    """
    spec = _member(label)
    if spec.pool:
        raise InputError(f"{label} is defined on a pool: it cannot be fused candidate by candidate")
    return float(spec.make().score(view(spec, candidate)))


@cache
def _member(label: str) -> PluginSpec:
    with guard.suspended():
        return load_plugins("selector")[label]


def check_needs(spec: PluginSpec, candidate: Candidate) -> None:
    for need in spec.needs:
        if need in ("source_probs", "source_logits") and candidate.source_probs is None:
            raise InputError(f"{spec.name} needs source logits, and this checkpoint has no source head")
        if need == "source_logits" and candidate.source_logits is None:
            raise InputError(f"{spec.name} needs source logits, and only probabilities are at hand")
        if need == "source" and candidate.source is None:
            raise InputError(f"{spec.name} needs rows of the source set, and none are known for this run")
        if need == "source_images" and candidate.read_source_images is None:
            raise InputError(f"{spec.name} needs images of the source set, and none are known for this run")
        if need == "target_images" and candidate.read_target_images is None:
            raise InputError(f"{spec.name} needs images of the target, and only features are at hand")
        if need == "weights" and candidate.make_model is None:
            raise InputError(f"{spec.name} needs the network's weights, and only features are at hand")


def outside_bounds(plugin: Any, candidate: Candidate, value: float) -> str:
    """What is wrong with a score outside the bounds that its selector declares; "" inside."""
    low, high = (
        bound(candidate.n_classes) if callable(bound) else bound
        for bound in getattr(plugin, "bounds", (-math.inf, math.inf))
    )
    rounding = 1e-9 * max(1.0, *(abs(bound) for bound in (low, high) if math.isfinite(bound)), 1.0)
    if low - rounding <= value <= high + rounding or math.isnan(value):
        return ""
    return f"{value:.6g} is outside its bounds [{low:.6g}, {high:.6g}]"


def _array(what: str, values: Any) -> Array:
    """An array of what may be a torch tensor of any device and type, with gradients or without."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError(f"{what} should be one array: its rows differ in length") from None


def _matrix(what: str, values: Any) -> Array:
    matrix = _array(what, values)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"{what} should be N x D, got shape {matrix.shape}")
    if matrix.dtype.kind not in "fiub":
        raise InputError(f"{what} should be real numbers, got {matrix.dtype}")
    if not np.isfinite(matrix).all():
        row = int(np.argwhere(~np.isfinite(matrix))[0][0])
        raise InputError(f"{what} of example {row} hold NaN or infinity")
    return matrix


def _head(source_probs: Any, source_logits: Any) -> tuple[Float | None, Float | None]:
    """(probabilities, logits) in float64."""
    if source_logits is not None:
        if source_probs is not None:
            raise InputError("give source_probs or source_logits, not both: one follows from the other")
        logits = _matrix("source_logits", source_logits).astype(np.float64)
        return softmax(logits, axis=1), logits
    if source_probs is None:
        return None, None
    probs = _matrix("source_probs", source_probs).astype(np.float64)
    sums = probs.sum(axis=1)
    wrong = (probs < 0).any(axis=1) | (np.abs(sums - 1) > _ROUNDING)
    if wrong.any():
        row = int(np.argmax(wrong))
        found = f"add up to {sums[row]:.4g}" if probs[row].min() >= 0 else f"hold {probs[row].min():.4g}"
        raise InputError(
            f"source_probs of example {row} {found}: probabilities are at least 0 and add up to 1; "
            "give logits as source_logits"
        )
    return probs, None


def _same_length(what: str, one: Array, other_what: str, other: Array) -> None:
    if len(one) != len(other):
        raise InputError(f"{len(one)} {what} but {len(other)} {other_what}")
