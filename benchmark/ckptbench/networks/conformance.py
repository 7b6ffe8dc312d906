"""What every extractor has to keep to, checked on the smallest of the architectures that it declares.

``ckptbench check FILE`` runs it on a plugin, the repository's tests run it on every extractor of the tree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ckptbench.base.errors import InputError
from ckptbench.base.findings import Fault, find
from ckptbench.base.types import Finding
from ckptbench.networks.architectures import Architecture
from ckptbench.networks.training import seeded
from ckptbench.plugins import PluginSpec

LISTED = 12  # so many of the declared architectures are built without weights, to find small ones
CHECKED = 2
SIDES = (32, 64, 224)  # pixels: the first that a network takes, where the extractor names none
CPU = torch.device("cpu")


def check_extractor(spec: PluginSpec, architectures: Sequence[str] | None = None) -> list[Finding]:
    """Run every test on some architectures of one extractor.

    Parameters
    ----------
    architectures : as suites name them, ``name:option=value``; by default the smallest two of a dozen that
        are spread over the extractor's list

    Returns
    -------
    A finding per test and architecture.
    """
    names: list[str] = [*(architectures or ())]
    if not names and not (declared := find("declaration", lambda: names.extend(_smallest(spec)))).passed:
        return [declared]
    tests = {"head": _head, "features": _features, "load": _load, "deterministic": _deterministic}
    return [
        find(f"{name}: {test}", partial(_seeded, function, Architecture(name, spec.make(), spec.digest)))
        for name in names
        for test, function in tests.items()
    ]


def _seeded(test: Callable[[Architecture], None], architecture: Architecture) -> None:
    with seeded(0, CPU):
        test(architecture)


def _smallest(spec: PluginSpec) -> list[str]:
    names = spec.make().architectures()
    if not names:
        raise Fault(f"extractor {spec.name} declares no architecture")
    sizes = {}
    for name in names[:: -(-len(names) // LISTED)]:
        with torch.device("meta"):
            try:
                network = spec.make().build(name, 2)
            except NotImplementedError:  # widths computed with tensors, which meta has no values for
                continue
        sizes[name] = sum(weight.numel() for weight in network.parameters())
    return sorted(sizes, key=lambda name: sizes[name])[:CHECKED] or [names[0]]


def _head(architecture: Architecture) -> None:
    """The head is linear, and the only part that depends on the number of classes."""
    two, three = architecture.build(2), architecture.build(3)
    name = architecture.head_name(two)
    head = two.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise Fault(f"the head {name!r} is a {type(head).__name__}, not a linear layer")
    if head.out_features != 2:
        raise Fault(f"built for 2 classes, the head {name!r} has {head.out_features} outputs")
    shapes = {key: value.shape for key, value in three.state_dict().items()}
    for key, value in two.state_dict().items():
        inside = key.rpartition(".")[0] == name
        if (shapes.get(key) != value.shape) and not inside:
            raise Fault(f"{key} differs between 2 and 3 classes, and is no part of the head {name!r}")


def _features(architecture: Architecture) -> None:
    """The network ends in its head: its output is the head's, and the head's input is one row an image."""
    network = architecture.build(3).eval()
    caught: list[tuple[Tensor, Tensor]] = []
    head = network.get_submodule(architecture.head_name(network))
    head.register_forward_hook(lambda _module, inputs, output: caught.append((inputs[0], output)))
    with torch.inference_mode():
        output = network(_images(architecture, network))
    if not caught:
        raise Fault("the network does not use its head")
    features, logits = caught[-1]
    if features.ndim != 2 or len(features) != 4:
        raise Fault(f"four images have features of the shape {tuple(features.shape)}, not 4 x D")
    if not isinstance(output, Tensor) or output.shape != logits.shape or not torch.equal(output, logits):
        raise Fault("the network's output is not what its head puts out")
    if not torch.isfinite(features).all():
        raise Fault("features of a network fresh from its initialisation are not finite")


def _load(architecture: Architecture) -> None:
    """Saved and loaded again, the network puts out the same."""
    network = architecture.build(3).eval()
    images = _images(architecture, network)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "epoch-000.safetensors"
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        again, has_head = architecture.load(path)
        if not has_head:
            raise Fault("the head of a saved network is not found again")
        if not torch.equal(network(images), again(images)):
            raise Fault("a network that was saved and loaded puts out other numbers")


def _deterministic(architecture: Architecture) -> None:
    """In evaluation mode an image's output hangs on that image alone."""
    network = architecture.build(3).eval()
    images = _images(architecture, network)
    with torch.inference_mode():
        output = network(images)
        if not torch.equal(network(images), output):
            raise Fault("in evaluation mode two passes over the same images differ")
        alone = network(images[:1])
    if not torch.allclose(alone, output[:1], rtol=1e-3, atol=1e-4):
        raise Fault("in evaluation mode an image's output depends on the others of its batch")


def _images(architecture: Architecture, network: nn.Module) -> Tensor:
    """Four noise images of a size that the network takes."""
    sides: Sequence[int] = SIDES
    preprocessing = getattr(architecture.extractor, "preprocessing", None)
    if preprocessing is not None:
        name, options = architecture.name_and_options
        sides = (preprocessing(name, **options).size,)
    refused = ""
    for side in sides:
        images = torch.randn(4, 3, side, side)
        try:
            with torch.inference_mode():
                network(images)
            return images
        except (RuntimeError, ValueError, InputError) as error:
            refused = str(error).splitlines()[0]
    raise Fault(f"the network takes no images of {' or '.join(map(str, sides))} pixels: {refused}")
