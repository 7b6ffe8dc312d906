"""Truth of targets whose examples have several labels, or numbers: mean average precision, or R2.

As `rank` measures them (`ckptbench.truth.crossval`), on the test split: FE gives each label a softmax head of
its own, and numbers ridge regression with the penalty of least leave-one-out error; FT trains one head for
all, by binary cross-entropy, or by squared error on standardised numbers. The value stands where an accuracy
would.
"""

from __future__ import annotations

import numpy as np

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Float, Metric, Task
from ckptbench.suites import FE
from ckptbench.truth.crossval import contributions, ridge_heads
from ckptbench.truth.probe import Inputs, fit_exact, training_rows

MEASURE: dict[Task, Metric] = {"classification": "accuracy", "multilabel": "map", "regression": "r2"}


def column_probe(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    task: Task,
    protocol: FE,
    seed: int,
    pool: tuple[Array, Array] | None = None,
    name: str = "",
) -> float:
    """One seed's heads on frozen features (N x D) with labels (N x K), measured on the test split.

    A seed draws its training rows as for classes, all of one kind.

    Raises
    ------
    InputError
        If the protocol is Adam's recipe, or a fixed penalty for numbers.
    """
    if protocol.solver == "adam" or (task == "regression" and protocol.penalty != "tuned"):
        raise InputError(f"protocol {protocol.name!r} is not defined for the task {task}")
    one_kind = np.zeros(len(train[1]), np.int64)
    pooled = None if pool is None else np.zeros(len(pool[1]), np.int64)
    rows = training_rows(one_kind, seed, protocol.sample, pooled, (name,))
    features, labels = (part[rows] for part in pool or train)
    batching, fitting = (
        np.random.default_rng(derive_seed(name, what, seed)) for what in ("fe batches", "fe fit")
    )
    inputs = Inputs(np.asarray(features, np.float64), protocol, batching)
    tested: Float = np.empty((len(test[0]), inputs.train.shape[1]))
    for block, x in inputs.blocks(test[0]):
        tested[block] = x
    if task == "regression":
        predicted = ridge_heads(inputs.train, labels, tested)
    else:
        fits = [
            fit_exact(inputs.train, column.astype(np.int64), 2, protocol, fitting)[2] for column in labels.T
        ]
        predicted = np.stack(
            [
                tested @ (heads.coef[0, 1] - heads.coef[0, 0]) + heads.intercept[0, 1] - heads.intercept[0, 0]
                for heads in fits
            ],
            axis=1,
        )
    return measured(predicted, test[1], task)


def measured(predicted: Array, labels: Array, task: Task) -> float:
    """The measure of N x K predictions."""
    return float(contributions(np.asarray(predicted, np.float64)[None], labels, MEASURE[task]).mean())
