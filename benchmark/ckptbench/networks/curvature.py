"""Gradients, Hessian products and walks on the loss of a network, as transferability-of-deep-representations
(Liu et al. 2019) and Li et al. 2018, Visualizing the Loss Landscape of Neural Nets, look at them.

The loss is that of fixed examples: dropout is off, and batch norm uses the statistics of these examples, so
that it is one differentiable function of the parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from ckptbench.base.types import Array, Float

WALK = 100  # steps down the gradient
STEP = 0.01  # how long they are where that is fixed; the paper does not say


class Loss:
    """Mean cross-entropy of a copy of a model on fixed examples, as a function of some of its parameters.

    Parameters
    ----------
    model : gives logits (n x C)
    inputs, labels : the examples, n x ... and n
    layers : names of the modules whose parameters are free; all where None
    dtype : in which everything is computed
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        layers: Iterable[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = copy.deepcopy(model).eval().to(dtype)
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        self.inputs, self.labels = inputs.to(dtype), labels
        free = None if layers is None else {f"{name}." for name in layers}
        named = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if free is None or any(name.startswith(layer) for layer in free)
        }
        self.names, self.parameters = list(named), list(named.values())

    def __call__(self) -> Tensor:
        loss: Tensor = F.cross_entropy(self.model(self.inputs), self.labels)
        return loss

    def value(self) -> float:
        with torch.no_grad():
            return float(self())

    def gradient(self) -> list[Tensor]:
        """One tensor a parameter."""
        return list(torch.autograd.grad(self(), self.parameters))

    @contextmanager
    def moved(self, direction: Sequence[Tensor], by: float) -> Iterator[None]:
        """The parameters at theta + by * direction; exactly theta again afterwards."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        try:
            with torch.no_grad():
                for parameter, step in zip(self.parameters, direction, strict=True):
                    parameter.add_(step, alpha=by)
            yield
        finally:
            with torch.no_grad():
                for parameter, old in zip(self.parameters, before, strict=True):
                    parameter.copy_(old)

    def along(self, direction: Sequence[Tensor], steps: Iterable[float]) -> Float:
        """The loss at theta + s * direction for each s."""
        losses = []
        for by in steps:
            with self.moved(direction, by):
                losses.append(self.value())
        return np.array(losses)

    def products(self) -> LinearOperator:
        """The Hessian as an operator on vectors v: the gradient of (gradient . v)."""
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            gradient = flat(torch.autograd.grad(self(), self.parameters, create_graph=True))

        def product(vector: Array) -> Array:
            v = torch.as_tensor(vector.ravel(), dtype=gradient.dtype, device=gradient.device)
            out = torch.autograd.grad(
                gradient @ v, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return flat(out).detach().double().cpu().numpy()

        return LinearOperator((len(gradient), len(gradient)), matvec=product, dtype=np.float64)

    def eigenvalues(self, count: int, seed: int = 0, tolerance: float = 1e-3) -> Float:
        """The ``count`` largest eigenvalues of the Hessian, descending, by Lanczos iteration.

        ``tolerance`` is relative. The network should be in float64: in float32 products carry an error of
        about 1e-4 of the largest eigenvalue.
        """
        operator = self.products()
        start = np.random.default_rng(seed).normal(size=operator.shape[0])
        found = eigsh(operator, k=count, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
        return np.sort(found)[::-1]

    def filter_directions(self, seed: int, count: int = 2) -> list[list[Tensor]]:
        """Random directions, orthogonal, each filter of each as long as the network's own (Li et al. 2018).

        A filter is a row of a weight's first dimension; biases and batch norm stay where they are.
        """
        generator = torch.Generator().manual_seed(seed)
        found: list[list[Tensor]] = []
        for _ in range(count):
            drawn = [
                torch.randn(parameter.shape, generator=generator).to(parameter) * (parameter.ndim > 1)
                for parameter in self.parameters
            ]
            for other in found:
                share = flat(drawn) @ flat(other) / flat(other).square().sum()
                drawn = [one - share * two for one, two in zip(drawn, other, strict=True)]
            found.append([_like_filters(*pair) for pair in zip(drawn, self.parameters, strict=True)])
        return found


def loss_variation(loss: Loss, rate: float | None = None, every: int = 1) -> float:
    """The largest |L(theta - s g) - L(theta)| on a walk of 100 steps down the gradient g.

    Source: Liu et al. 2019, appendix A, after Santurkar et al. 2018, How Does Batch Normalization Help
    Optimization?, section 3.2.

    Parameters
    ----------
    rate : steps are this times the gradient; ``STEP`` long where None
    every : of so many steps one is looked at
    """
    gradient, here = loss.gradient(), loss.value()
    size = STEP / max(float(flat(gradient).norm()), 1e-30) if rate is None else rate
    walked = loss.along(gradient, -size * np.arange(every, WALK + 1, every))
    return float(np.nanmax(np.abs(walked - here)))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All entries as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _like_filters(direction: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    rows, own = direction.flatten(1), weight.detach().flatten(1)
    length = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    scaled: Tensor = rows / length * own.norm(dim=1, keepdim=True)
    return scaled.view_as(weight)


def unfolded(weight: Tensor) -> Float:
    """A kernel (c_out, c_in, k, k) or matrix as a float64 matrix, c_out x the rest."""
    return weight.detach().double().cpu().flatten(1).numpy()


def weight_layers(network: nn.Module) -> list[str]:
    """The names of all convolutions and linear layers, in the order in which they were defined."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
