"""What every penalty has to keep to, checked by a few steps on a tiny network and made-up images.

``ckptbench check FILE`` runs it on a plugin, the repository's tests run it on every penalty of the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.base.findings import Exempt, Fault, find
from ckptbench.base.types import Finding
from ckptbench.networks.training import seeded
from ckptbench.plugins import PluginSpec
from ckptbench.suites import FT
from ckptbench.truth.finetune import FTResult, backward, finetune
from ckptbench.truth.penalty import FineTuning, Penalty

CLASSES, WIDTH, BATCH = 3, 16, 16
PIXEL = (0.5, 0.5, 0.5)
CPU = torch.device("cpu")


def check_penalty(spec: PluginSpec) -> list[Finding]:
    """Run every test on one penalty with the parameters of its spec.

    ``tsvd`` with ``stop_gradient`` fails ``gradient``, as it should.
    """
    tests: dict[str, Callable[[PluginSpec], None]] = {
        "finite": _finite,
        "deterministic, and leaves nothing behind": _deterministic,
        "gradient": _gradient,
        "parts of a batch": _parts,
    }
    return [find(name, partial(test, spec)) for name, test in tests.items()]


def _network() -> nn.Sequential:
    """Smooth, so that differences approach the gradient, and two stages, which DELTA asks for."""
    with seeded(0, CPU):
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, WIDTH, 3, 2, 1), nn.GELU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 5))


def _examples() -> tuple[Tensor, Tensor]:
    labels = torch.arange(3 * BATCH) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 3, 16, 16), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    images[labels == 1, :, ::4] //= 2
    images[labels == 2, :, :, ::4] //= 2
    return images, labels


def _protocol(spec: PluginSpec) -> FT:
    training = {"lr": 0.05, "batch": BATCH, "precision": "fp32"}
    return FT.model_validate(
        {"name": spec.label, "training": training, "epochs": 2, "penalties": [spec.label]}
    )


def _finetune(spec: PluginSpec, network: nn.Sequential, weights: dict[str, Tensor]) -> FTResult:
    data = _examples()
    head = str(len(network) - 1)
    return finetune(
        network, head, weights, *data, *data, CLASSES, _protocol(spec), [spec.make()], 1, PIXEL, PIXEL, CPU
    )  # fmt: skip


class _Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def _begin(spec: PluginSpec, parts: int = 1) -> tuple[FineTuning, Penalty]:
    """A run that has begun, a little away from the weights that the penalty has met as W_0."""
    network, (images, labels) = nn.Sequential(_Double(), *_network()[:-1]).double(), _examples()
    with seeded(1, CPU):
        head = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
        run = FineTuning(network.eval(), head, images, labels, PIXEL, PIXEL, BATCH, parts, 1)
        penalty = spec.make()
        penalty.start(run)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    return run, penalty


def _finite(spec: PluginSpec) -> None:
    network = _network()
    _finetune(spec, network, dict(network.state_dict()))
    if not all(weight.isfinite().all() for weight in network.parameters()):
        raise Fault("the weights after fine-tuning are not finite")


def _deterministic(spec: PluginSpec) -> None:
    network, state = _network(), torch.random.get_rng_state()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    first, second = (_finetune(spec, network, weights) for _ in range(2))
    if (first.deviation, first.final_loss) != (second.deviation, second.final_loss):
        raise Fault(
            f"two equal runs on one network object differ: deviation {first.deviation:.9g} and "
            f"{second.deviation:.9g}"
        )
    if not torch.equal(state, torch.random.get_rng_state()):
        raise Fault("torch's global random state changed")
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        raise Fault("a forward hook was left on the network: use FineTuning.watch")


def _gradient(spec: PluginSpec) -> None:
    """The change of the added term, and of the loss behind changed features, along their own gradients."""
    run, penalty = _begin(spec)
    inputs, labels = run.inputs(slice(0, BATCH)), run.labels[:BATCH]

    def term() -> Tensor:
        value = penalty.penalise(inputs, run.network.forward(inputs))
        return torch.as_tensor(value)

    def loss() -> Tensor:
        return F.cross_entropy(run.head(penalty.features(run.network.forward(inputs))), labels)

    with run.stack:
        _compare("the term that it adds", term, run.network)
        _compare("the loss behind its features", loss, run.network)


def _compare(what: str, function: Callable[[], Tensor], network: nn.Module) -> None:
    """The slope of a function along its gradient, by central differences, against the gradient's norm."""
    value, weights = function(), list(network.parameters())
    if not value.requires_grad:
        return
    gradients = torch.autograd.grad(value, weights)
    norm = float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
    # Small enough for a smallest singular value, large enough for a term that is kept in float32.
    step, values = min(0.01, 0.02 * abs(value.item()) / norm), []
    with torch.no_grad():
        for move in (step, -2 * step, step):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient, alpha=move / norm)
            values.append(float(function()))
    slope = (values[0] - values[1]) / (2 * step)
    if not abs(slope - norm) <= 0.02 * norm:
        raise Fault(f"{what} rises by {slope:.4g} per unit along its gradient of norm {norm:.4g}")


def _parts(spec: PluginSpec) -> None:
    """Two halves of a batch accumulate the gradient of the whole batch."""
    if not spec.make().additive:
        raise Exempt("says that it is not additive: it needs the whole batch")
    gradients = []
    for parts in (1, 2):
        run, penalty = _begin(spec, parts)
        with run.stack:
            rows = torch.arange(BATCH)
            backward(run, _protocol(spec), [penalty], run.network.forward, rows, 0)
        grads = [weight.grad for weight in run.network.parameters() if weight.grad is not None]
        gradients.append(torch.cat([grad.flatten() for grad in grads]))
    difference = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    if not difference <= 1e-4:
        raise Fault(
            f"the gradient of a batch in two parts differs by {difference:.2g} of its norm: "
            "set additive = False, or average the term over the batch"
        )
