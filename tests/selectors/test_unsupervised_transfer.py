"""TURTLE's search against autograd and torch's own layers, and on classes that anyone can see."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from helpers.made_up import SELECTORS, candidate
from torch import nn
from torch.nn import functional as F

from ckptbench.base.types import Array

find_labelling = sys.modules[SELECTORS["turtle"].plugin.__module__].find_labelling  # type: ignore[attr-defined]


def slow_labelling(x: Array, classes: int, steps: int, gamma: float, rng: np.random.Generator) -> Array:
    """The authors' loop, with layers whose weights are drawn as ours."""
    z, limit = torch.tensor(x), 1 / np.sqrt(x.shape[1])

    def layer() -> nn.Module:
        made = nn.Linear(x.shape[1], classes).double()
        for weight in (made.weight, made.bias):
            weight.data = torch.tensor(rng.uniform(-limit, limit, tuple(weight.shape)))
        return made

    task = nn.utils.parametrizations.weight_norm(layer())
    outer = torch.optim.Adam(task.parameters(), lr=1e-3)
    for _ in range(steps):
        labels = F.softmax(task(z), dim=1)
        head = layer()
        inner = torch.optim.Adam(head.parameters(), lr=1e-3)
        for _ in range(10):
            inner.zero_grad()
            F.cross_entropy(head(z), labels.detach()).backward()
            inner.step()
        outer.zero_grad()
        entropy = torch.special.entr(labels.mean(0)).sum()
        (F.cross_entropy(head(z).detach(), labels) - gamma * entropy).backward()
        outer.step()
    return F.softmax(task(z), dim=1).detach().numpy()


def test_search_is_the_authors_loop() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) + 3 * np.eye(30, 5)
    ours, theirs = (way(x, 3, 25, 10.0, np.random.default_rng(4)) for way in (find_labelling, slow_labelling))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_classes_far_apart_are_found_without_labels() -> None:
    y = np.arange(60) % 3
    x = 4 * np.eye(3, 6)[y] + 0.1 * np.random.default_rng(0).normal(size=(60, 6))
    assert SELECTORS["turtle:steps=600"].make().score(candidate(x, y)) == 1.0
    shuffled = np.random.default_rng(1).permutation(y)
    assert SELECTORS["turtle:steps=600"].make().score(candidate(x, shuffled)) < 0.6


def test_names_of_classes_do_not_matter() -> None:
    y = np.arange(40) % 4
    x = np.random.default_rng(0).normal(size=(40, 6))
    plugin = SELECTORS["turtle:steps=50"].make()
    assert plugin.score(candidate(x, y)) == pytest.approx(
        plugin.score(candidate(x, np.array([7, 0, 3, 1])[y]))
    )
