"""TURTLE: how much of the labelling can be found without labels, as what linear heads learn best."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax, softmax

from ckptbench import Candidate, Float


class _Adam:
    """Adam with the usual settings, on arrays that it changes in place."""

    def __init__(self, rate: float, *weights: Float) -> None:
        self.rate, self.weights, self.count = rate, weights, 0
        self.moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]

    def step(self, *gradients: Float) -> None:
        self.count += 1
        scale = self.rate * np.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count)
        small = 1e-8 * np.sqrt(1 - 0.999**self.count)
        for weight, gradient, (first, second) in zip(self.weights, gradients, self.moments, strict=True):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            weight -= scale * first / (np.sqrt(second) + small)


def find_labelling(matrix: Float, classes: int, steps: int, gamma: float, rng: np.random.Generator) -> Float:
    """N x C probabilities of the labelling that the paper's bilevel search ends at, in one feature space.

    The labelling is a softmax of a linear map with weight normalisation. Each of ``steps`` outer steps trains
    a new linear head on it (ten steps of Adam from a random start), then moves the labelling to lower that
    head's cross-entropy minus ``gamma`` times the entropy of the mean labelling (first-order gradient).
    """
    n, d = matrix.shape
    limit = 1 / np.sqrt(d)

    def start() -> tuple[Float, Float]:
        return rng.uniform(-limit, limit, (classes, d)), rng.uniform(-limit, limit, classes)

    direction, bias = start()
    length = np.linalg.norm(direction, axis=1)
    outer = _Adam(1e-3, direction, length, bias)
    for _ in range(steps):
        norm = np.linalg.norm(direction, axis=1)
        unit = direction / norm[:, None]
        labelling = softmax(matrix @ (length[:, None] * unit).T + bias, axis=1)
        weight, offset = start()
        inner = _Adam(1e-3, weight, offset)
        for _ in range(10):
            error = (softmax(matrix @ weight.T + offset, axis=1) - labelling) / n
            inner.step(error.T @ matrix, error.sum(axis=0))
        log_p = log_softmax(matrix @ weight.T + offset, axis=1)
        slope = (gamma * np.log(np.maximum(labelling.mean(axis=0), 1e-300)) - log_p) / n
        slope = labelling * (slope - np.einsum("nc,nc->n", labelling, slope)[:, None])
        turn = slope.T @ matrix
        along = np.einsum("cd,cd->c", turn, unit)
        outer.step((length / norm)[:, None] * (turn - along[:, None] * unit), along, slope.sum(axis=0))
    unit = direction / np.linalg.norm(direction, axis=1)[:, None]
    labels: Float = softmax(matrix @ (length[:, None] * unit).T + bias, axis=1)
    return labels


class Turtle:
    """Share of examples in their class under the labelling that TURTLE finds without labels.

    The search (``find_labelling``) looks for the labelling that linear heads learn fastest, kept balanced by
    the entropy of its mean; labels serve afterwards alone, to name its C clusters by the one-to-one
    assignment that gets most examples right. F is N x D, labels are classes. In [0, 1]. Cost: 6,000 outer
    steps of 11 heads, 4 N D C operations each: about a minute at 1,000 x 512 x 10. N < D makes no
    difference. As the authors' code with a cold start, one feature space and all rows in each batch.

    Random: the starts are drawn. Invariant to label names; Adam sees the axes and the scale of the features.

    Parameters
    ----------
    steps : outer steps; the authors take 6,000
    gamma : weight of the entropy; the authors take 10
    """

    name = "turtle"
    paper = "Gadetsky et al. 2024, Let Go of Your Labels with Unsupervised Transfer"
    bounds = (0.0, 1.0)
    random = True
    dear = True
    steps: Annotated[int, Field(ge=1)] = 6000
    gamma: Annotated[float, Field(ge=0)] = 10.0
    scale: str = "raw"

    def score(self, candidate: Candidate) -> float:
        present, labels = np.unique(candidate.classes, return_inverse=True)
        found = find_labelling(candidate.matrix, len(present), self.steps, self.gamma, candidate.rng)
        table = np.zeros((len(present), len(present)))
        np.add.at(table, (found.argmax(axis=1), labels), 1.0)
        rows, columns = linear_sum_assignment(table, maximize=True)
        return float(table[rows, columns].sum() / len(labels))
