"""The head's gradient and Fisher trace, against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.made_up import SELECTORS

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array
from ckptbench.scores.candidate import Candidate, SourceRows


def network(classes: int = 4, bias: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(9, 6), torch.nn.ReLU(), torch.nn.Linear(6, classes, bias=bias))


def with_source(model: torch.nn.Module, features: Array, labels: Array) -> Candidate:
    rows = SourceRows(features, labels)
    return Candidate(np.zeros((3, features.shape[1])), np.arange(3), source=rows, make_model=lambda: model)


def rows() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 6)).astype(np.float16), np.arange(40) % 4


def test_fisher_trace_is_the_mean_squared_gradient_over_labels_drawn_from_the_head() -> None:
    model, (features, labels) = network(), rows()
    head = torch.nn.Linear(6, 4).double()
    head.load_state_dict(model[2].state_dict())
    total = 0.0
    for row in torch.from_numpy(features.astype(np.float64)):
        for label, p in enumerate(torch.softmax(head(row), dim=0).detach()):
            loss = torch.nn.functional.cross_entropy(head(row)[None], torch.tensor([label]))
            total += float(p) * sum(float((g**2).sum()) for g in torch.autograd.grad(loss, head.parameters()))
    found = SELECTORS["head-fisher-trace"].make().score(with_source(model, features, labels))
    assert found == pytest.approx(-total / 40, rel=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_head_gradient_is_that_of_autograd(bias: bool) -> None:
    model, (features, labels) = network(bias=bias), rows()
    head = torch.nn.Linear(6, 4, bias=bias).double()
    head.load_state_dict(model[2].state_dict())
    loss = torch.nn.functional.cross_entropy(
        head(torch.from_numpy(features.astype(np.float64))), torch.from_numpy(labels)
    )
    (gradient,) = torch.autograd.grad(loss, head.weight)
    found = SELECTORS["head-gradient"].make().score(with_source(model, features, labels))
    assert found == pytest.approx(-float(gradient.norm()), rel=1e-6)


def test_rows_that_the_head_does_not_fit_are_refused() -> None:
    features, labels = rows()
    for name in ("head-gradient", "head-fisher-trace"):
        with pytest.raises(InputError, match="the head takes 6 and knows 3"):
            SELECTORS[name].make().score(with_source(network(3), features, labels))
