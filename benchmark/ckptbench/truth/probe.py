"""FE truth, a linear probe: how well a new softmax head on frozen features classifies the test split.

``fe_truth`` runs one ``FE`` protocol of a suite on one checkpoint's features, a seed at a time with all
its penalties together: a seed is its own training set, standardised on its own rows, so that no
eigenbasis serves two seeds, and a seed alone gives exactly what it gives among others. ``probe`` is one such
head, fitted on some rows and tested on others, whichever they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.sampling import stratified
from ckptbench.base.types import Array, Float
from ckptbench.numerics.features import leading_directions, main_part, standardise
from ckptbench.numerics.softmax import Heads, Labels, fit_softmax
from ckptbench.suites import FE

BLOCK = 4096
"""Rows of the test split that are in double precision at a time."""
TUNING_TOLERANCE = 1e-4
"""Of the fits that choose a penalty: half the steps of 1e-5, for the same choice."""
TOGETHER = 3
"""Penalties that are fitted at once, from the strongest on."""


@dataclass(frozen=True)
class ProbeResult:
    """One head on the T test examples; accuracies are shares of them in [0, 1].

    ``penalty``, ``gradient`` (relative, at the end of the fit) and ``edge`` are None for the adam recipe.
    ``edge``: the penalty was tuned, is the end of the grid, and the loss still falls there by more than a
    standard error, so that a wider grid would matter.
    """

    seed: int
    correct: NDArray[np.bool_]
    accuracy: float
    balanced_accuracy: float
    penalty: float | None
    gradient: float | None
    edge: bool | None
    seconds: float


def fe_truth(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    n_classes: int,
    protocol: FE,
    seeds: Sequence[int],
    *,
    pool: tuple[Array, Array] | None = None,
    name_parts: Sequence[str] = (),
) -> list[ProbeResult]:
    """Test accuracy of a softmax head on one checkpoint's features, for each seed.

    Parameters
    ----------
    train_features, test_features : N x D and T x D, of any real type; may be memory maps
    train_labels, test_labels : integers in 0..n_classes-1
    protocol : what is fitted on what; its ``seeds`` is not looked at
    seeds : a seed draws its training set: ``protocol.sample`` of each class of train or, with a pool, as
        many of each class as train has from the pool, disjoint for seeds 0, 1, ... while the pool lasts
    pool : further features and labels to train on
    name_parts : name the target. Draws depend on these and the seed alone, so that checkpoints and
        protocols meet the same training sets

    Raises
    ------
    InputError
        If a feature is not finite, shapes do not fit, a label is out of range or in test but not in
        train, the pool is too small, or the protocol contradicts itself.
    FloatingPointError
        If the adam recipe diverges.
    """
    name = "/".join(name_parts) or "the target"
    splits = {"train": (train_features, train_labels), "test": (test_features, test_labels)}
    if pool is not None:
        splits["pool"] = pool
    for split, (features, labels) in splits.items():
        _check_split(split, name, features, labels, n_classes, np.shape(train_features)[-1])
    known = np.unique(train_labels)
    strange = np.setdiff1d(test_labels, known)
    if len(strange):
        raise InputError(f"{name}: the test split holds class {strange[0]}, which the train split lacks")
    if len(known) < 2:
        raise InputError(f"{name}: the train split holds one class, a classifier needs at least two")

    features, labels = (train_features, train_labels) if pool is None else pool
    pool_labels = None if pool is None else labels
    test = test_features, test_labels, n_classes, protocol
    each = [
        (seed, training_rows(train_labels, seed, protocol.sample, pool_labels, name_parts)) for seed in seeds
    ]
    return [probe(features[rows], labels[rows], *test, seed, name_parts) for seed, rows in each]


def probe(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    n_classes: int,
    protocol: FE,
    seed: int,
    name_parts: Sequence[str] = (),
) -> ProbeResult:
    """Fit one head on all of these training rows and test it, as a seed of ``fe_truth`` does.

    The protocol's ``sample`` and ``seeds`` are not looked at. ``seed`` and ``name_parts`` draw the validation
    part, the batches and Adam's initial weights.
    """
    began = time.perf_counter()
    batching, fitting = (
        np.random.default_rng(derive_seed(*name_parts, what, seed)) for what in ("fe batches", "fe fit")
    )
    inputs = Inputs(np.asarray(train_features, dtype=np.float64), protocol, batching)
    penalty = gradient = edge = None
    if protocol.solver == "adam":
        coef, intercept = fit_adam(inputs.train, train_labels, n_classes, protocol, fitting, inputs.step)
    else:
        penalty, edge, heads = fit_exact(inputs.train, train_labels, n_classes, protocol, fitting)
        coef, intercept, gradient = heads.coef[0], heads.intercept[0], float(heads.gradient[0])
    predicted = np.empty(len(test_labels), dtype=np.int64)
    for block, x in inputs.blocks(test_features):
        predicted[block] = np.argmax(x @ coef.T + intercept, axis=1)
    correct = predicted == test_labels
    balanced = balanced_accuracy(correct, test_labels)
    seconds = time.perf_counter() - began
    return ProbeResult(seed, correct, float(correct.mean()), balanced, penalty, gradient, edge, seconds)


def balanced_accuracy(correct: NDArray[np.bool_], labels: Array) -> float:
    """The mean recall of the classes that there are."""
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


def _check_split(split: str, name: str, features: Array, labels: Array, n_classes: int, d: int) -> None:
    if features.ndim != 2 or features.shape != (len(labels), d) or not len(labels):
        raise InputError(
            f"{name}: {split} features {features.shape} should be {len(labels)} x {d}, one row a label"
        )
    for start in range(0, len(features), BLOCK):
        bad = np.argwhere(~np.isfinite(features[start : start + BLOCK]))
        if len(bad):
            row, column = bad[0]
            value = features[start + row, column]
            raise InputError(f"{name}: {split} features hold {value} in row {start + row}, column {column}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= n_classes:
        raise InputError(
            f"{name}: {split} labels should be integers in 0..{n_classes - 1}, "
            f"not {labels.dtype} in {labels.min()}..{labels.max()}"
        )


def training_rows(
    labels: Array, seed: int, share: float, pool_labels: Array | None = None, name_parts: Sequence[str] = ()
) -> NDArray[np.intp]:
    """Rows of one seed's own stratified training set, in ascending order.

    Without a pool a ``share`` (at least one) of each class of ``labels``. With one, rows of the pool, as
    many of each class as ``labels`` has: consecutive stretches of one permutation of the pool for seeds
    0, 1, ..., and once it is used up (for any class), draws of the seed's own.

    Raises
    ------
    InputError
        If the pool has fewer examples of a class than a training set needs.
    """
    own = derive_seed(*name_parts, "fe rows", seed)
    if pool_labels is None:
        return stratified(labels, share, own)
    classes, counts = np.unique(labels, return_counts=True)
    wanted = np.zeros(int(max(labels.max(), pool_labels.max())) + 1, dtype=np.int64)
    wanted[classes] = counts
    available = np.bincount(pool_labels, minlength=len(wanted))
    if (available < wanted).any():
        short = int(np.argmax(available < wanted))
        raise InputError(
            f"{'/'.join(name_parts) or 'the target'}: a training set needs {wanted[short]} examples of "
            f"class {short}, and the pool has {available[short]}"
        )
    if seed >= 0 and ((seed + 1) * wanted <= available).all():
        return stratified(pool_labels, wanted, derive_seed(*name_parts, "fe pool"), least=0, stretch=seed)
    return stratified(pool_labels, wanted, own, least=0)


class Inputs:
    """What a head is fitted on: the protocol's part of the features, scaled by one training set.

    V_k of the split is the training set's own, or with ``split_batch`` that of each batch of rows, train and
    test, in a seeded order; ``minibatch`` leaves the training rows whole for ``step``.
    """

    def __init__(self, train: Float, protocol: FE, rng: np.random.Generator) -> None:
        self._protocol, self._rng = protocol, rng
        self._basis: Float | None = None
        self._mean, self._unit = np.zeros(train.shape[1]), np.ones(train.shape[1])
        self.step: Callable[[Float], Float] | None = None
        """What each of Adam's minibatches goes through."""
        if protocol.split_batch == "minibatch":
            self.step, self.train = self._part, train
            return
        if protocol.part != "all" and protocol.split_batch is None:
            self._basis = leading_directions(train, protocol.threshold)
        self.train = np.empty_like(train)
        for rows, x in self.blocks(train):
            self.train[rows] = x
        if protocol.scale == "std":
            # A part may be nothing but rounding error of the whole.
            self.train, self._mean, self._unit = standardise(self.train, np.abs(train).max(axis=0))

    def blocks(self, features: Array) -> Iterator[tuple[NDArray[np.intp], Float]]:
        """Row indices and what a head sees of those rows; every row comes once."""
        rows, size = np.arange(len(features)), BLOCK
        split = self._protocol.split_batch
        if self._protocol.part != "all" and split is not None:
            rows, size = self._rng.permutation(rows), self._protocol.batch if split == "minibatch" else split
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            yield block, (self._part(np.asarray(features[block], dtype=np.float64)) - self._mean) / self._unit

    def _part(self, x: Float) -> Float:
        if self._protocol.part == "all":
            return x
        if self._basis is None:
            main = main_part(x, self._protocol.threshold)
        else:
            main = (x @ self._basis) @ self._basis.T
        return main if self._protocol.part == "main" else x - main


def fit_exact(
    X: Float, y: Labels, n_classes: int, protocol: FE, rng: np.random.Generator
) -> tuple[float, bool, Heads]:
    """The penalty, whether it is an edge of the grid (``ProbeResult``), and its head on all rows.

    A tuned penalty has the smallest log-loss on a stratified validation part when fitted on the others. The
    grid is followed from its strongest penalty until the loss has risen by more than a standard error: weak
    penalties take the most steps, and past the rise they are not chosen.
    """
    penalty, edge = protocol.penalty, False
    if penalty == "tuned":
        # Every class keeps an example to learn from.
        rows = stratified(y, protocol.validation, rng, spare=1)
        held = np.isin(np.arange(len(y)), rows)
        if not held.any():
            raise InputError("to tune the penalty, some class needs two training examples or more")
        grid = np.sort(protocol.grid)[::-1]
        losses = np.empty((0, len(rows)))
        for start in range(0, len(grid), TOGETHER):
            some = grid[start : start + TOGETHER]
            heads = fit_softmax(X[~held], y[~held], n_classes, some, tol=TUNING_TOLERANCE)
            logits = np.einsum("nd,hcd->hnc", X[held], heads.coef, optimize=True) + heads.intercept[:, None]
            own = np.logaddexp.reduce(logits, axis=2) - logits[:, np.arange(len(rows)), y[held]]
            losses = np.vstack([losses, own])
            best = int(losses.mean(axis=1).argmin())
            if _exceeds(losses[-1], losses[best]):
                break
        penalty = float(grid[best])
        if len(grid) > 1 and best in (0, len(grid) - 1):
            edge = _exceeds(losses[1 if best == 0 else best - 1], losses[best])
    return penalty, edge, fit_softmax(X, y, n_classes, penalty)


def _exceeds(losses: Float, others: Float) -> bool:
    """Whether the first loss is larger by more than one standard error of the paired differences."""
    difference = losses - others
    if len(difference) < 2:
        return False
    return bool(difference.mean() > difference.std(ddof=1) / np.sqrt(len(difference)))


def fit_adam(
    X: Float,
    y: Labels,
    n_classes: int,
    protocol: FE,
    rng: np.random.Generator,
    transform: Callable[[Float], Float] | None = None,
) -> tuple[Float, Float]:
    """Coefficients (C x D) and intercepts (C) of a softmax classifier trained by Adam.

    The recipe of inadequately-pretrained-models, section 4.4: Gaussian initial weights (standard
    deviation 0.01; intercepts 0), ``epochs`` passes in shuffled batches, or ``iterations`` of them, no
    penalty, the published defaults of Adam (Kingma and Ba 2014). ``transform`` is applied to every batch.

    Raises
    ------
    InputError
        If the protocol sets neither epochs nor iterations, or sets a penalty.
    FloatingPointError
        If the weights are no longer finite at the end.
    """
    import torch
    from torch.nn import functional as F

    if protocol.penalty != "tuned":
        raise InputError(f"protocol {protocol.name!r}: the adam recipe has no penalty to set")
    length = protocol.iterations
    if length is None:
        if protocol.epochs is None:
            raise InputError(f"protocol {protocol.name!r} needs epochs or iterations")
        length = protocol.epochs * -(-len(y) // protocol.batch)
    weight = torch.from_numpy(rng.normal(scale=0.01, size=(n_classes, X.shape[1]))).requires_grad_()
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=protocol.lr)
    order = rng.permutation(0)
    for step in range(length):
        if not len(order):
            order = rng.permutation(len(y))
        batch, order = order[: protocol.batch], order[protocol.batch :]
        x = X[batch] if transform is None else transform(X[batch])
        drops = sum(step >= share * length for share in protocol.lr_milestones)
        optimiser.param_groups[0]["lr"] = protocol.lr * 0.1**drops
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(torch.from_numpy(x), weight, bias), torch.from_numpy(y[batch]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    coef, intercept = weight.detach().numpy(), bias.detach().numpy()
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise FloatingPointError(f"protocol {protocol.name!r}: adam diverged within {length} steps")
    return coef, intercept
