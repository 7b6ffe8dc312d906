"""Hessian products against a quadratic and a small network's full Hessian; directions and walks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ckptbench.networks.curvature import Loss, flat


def network(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), *([nn.BatchNorm1d(6)] if norm else []), nn.Tanh(), nn.Linear(6, 3)]
    return nn.Sequential(*layers)


@pytest.fixture
def examples() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(12, 4), torch.arange(12) % 3


class Quadratic(Loss):
    """x'Ax/2 - b'x for one parameter x."""

    def __init__(self, matrix: torch.Tensor, b: torch.Tensor) -> None:
        self.matrix, self.b = matrix, b
        self.parameters = [nn.Parameter(torch.ones(len(b), dtype=torch.float64))]

    def __call__(self) -> torch.Tensor:
        x = self.parameters[0]
        return x @ self.matrix @ x / 2 - self.b @ x


def test_eigenvalues_of_a_quadratic_are_those_of_its_matrix() -> None:
    spectrum = torch.linspace(-3, 9, 40, dtype=torch.float64)
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q
    loss = Quadratic(basis @ torch.diag(spectrum) @ basis.T, torch.randn(40, dtype=torch.float64))
    np.testing.assert_allclose(loss.eigenvalues(5, tolerance=1e-10), spectrum.flip(0)[:5].numpy(), rtol=1e-8)


class Attention(nn.Module):
    """One head over three tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x.view(-1, 1, 3, 4)).chunk(3, -1)
        out: torch.Tensor = self.head(F.scaled_dot_product_attention(q, k, v).mean((1, 2)))
        return out


def test_products_pass_through_attention() -> None:
    """Fused attention, which networks otherwise take, has no second derivative."""
    torch.manual_seed(1)
    loss = Loss(Attention(), torch.randn(6, 12), torch.arange(6) % 3)
    gradient, step = flat(loss.gradient()), 1e-2
    along = torch.split(gradient, [parameter.numel() for parameter in loss.parameters])
    parts = [part.view_as(parameter) for part, parameter in zip(along, loss.parameters, strict=True)]
    with loss.moved(parts, step):
        ahead = flat(loss.gradient())
    with loss.moved(parts, -step):
        behind = flat(loss.gradient())
    product = loss.products().matvec(gradient.numpy())
    np.testing.assert_allclose(product, (ahead - behind).numpy() / (2 * step), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_products_are_those_of_a_networks_full_hessian(norm: bool, examples) -> None:
    inputs, labels = examples
    loss = Loss(network(norm), inputs, labels, dtype=torch.float64)
    shapes = [parameter.shape for parameter in loss.parameters]
    sizes = [parameter.numel() for parameter in loss.parameters]

    def of(vector: torch.Tensor) -> torch.Tensor:
        parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        named = dict(zip(loss.names, parts, strict=True))
        return F.cross_entropy(torch.func.functional_call(loss.model, named, loss.inputs), labels)

    full = torch.autograd.functional.hessian(of, flat(loss.parameters).detach()).numpy()
    operator = loss.products()
    vector = np.random.default_rng(0).normal(size=len(full))
    np.testing.assert_allclose(operator @ vector, full @ vector, atol=1e-10)
    top = np.sort(np.linalg.eigvalsh(full))[::-1][:4]
    np.testing.assert_allclose(loss.eigenvalues(4, tolerance=1e-9), top, rtol=1e-6)


def test_directions_are_as_long_as_each_filter_and_leave_biases(examples) -> None:
    loss = Loss(network(norm=True), *examples)
    for direction in loss.filter_directions(seed=3):
        for step, parameter in zip(direction, loss.parameters, strict=True):
            if parameter.ndim > 1:
                torch.testing.assert_close(step.flatten(1).norm(dim=1), parameter.flatten(1).norm(dim=1))
            else:
                assert not step.any()
    first, second = (flat(direction) for direction in loss.filter_directions(seed=3))
    assert abs(float(first @ second)) < 0.2 * float(first.norm() * second.norm())


def test_a_walk_gives_the_losses_on_its_way_and_leaves_the_network_alone(examples) -> None:
    inputs, labels = examples
    model = network()
    loss = Loss(model, inputs, labels, dtype=torch.float64)
    gradient = loss.gradient()
    before = flat(loss.parameters).detach().clone()
    small = 1e-6
    slope = (loss.along(gradient, [small])[0] - loss.value()) / small
    assert slope == pytest.approx(float(flat(gradient).square().sum()), rel=1e-4)
    assert torch.equal(flat(loss.parameters), before)
    assert next(model.parameters()).dtype == torch.float32


def test_only_the_parameters_of_the_named_layers_are_free(examples) -> None:
    loss = Loss(network(), *examples, layers=["2"])
    assert loss.names == ["2.weight", "2.bias"]
