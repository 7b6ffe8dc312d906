"""What a fine-tuning method adds to plain training: the base class of penalty plugins.

Fine-tuning minimises cross-entropy; a method adds a term to the loss, changes the features that the head
sees, the gradients or the weight decay (equation 1 of batch-spectral-shrinkage, Chen et al. 2019). Each such
addition is a ``Penalty``, and a method is a list of them: ``["l2-sp:strength=0.01", "bss"]``. A plugin
subclasses ``Penalty`` in a file below ``truth/penalties/``, given with ``--plugins`` or by an entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.networks.training import Pixel, to_input

EVALUATION_BATCH = 512


@dataclass
class FineTuning:
    """One fine-tuning run as its penalties see it; tensors are on the device.

    Attributes
    ----------
    network : gives the features (b x D) of an input batch; holds the checkpoint's weights at the start
    head : the new linear head, D -> C
    images, labels : the training examples, uint8 n x 3 x H x W and int64 n
    batch : how many examples a step sees
    parts : into how many parts each batch is divided for want of memory; each passes through alone
    seed : everything that a penalty draws should derive from it
    loss : of the head's outputs and the labels
    """

    network: nn.Module
    head: nn.Linear
    images: Tensor
    labels: Tensor
    mean: Pixel
    std: Pixel
    batch: int
    parts: int
    seed: int
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    watched: bool = False
    stack: ExitStack = field(default_factory=ExitStack)

    def inputs(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The network's input for these training examples, not augmented: float32 b x 3 x H x W."""
        return to_input(self.images[rows], self.mean, self.std)

    def pieces(self) -> Iterator[Tensor]:
        """``inputs`` of all training examples in order, in pieces that fit into memory without gradients."""
        size = EVALUATION_BATCH // self.parts
        for begin in range(0, len(self.images), size):
            yield self.inputs(slice(begin, begin + size))

    def watch(self, names: Sequence[str]) -> dict[str, Tensor]:
        """A dict that holds, after each forward pass of the run, the outputs of these layers."""
        self.watched = True
        return self.stack.enter_context(layer_outputs(self.network, names))


class Penalty:
    """Base class of penalties. A subclass sets ``name`` and overrides the hooks that it needs.

    Annotated class attributes with defaults are parameters. Hooks run in the order in which the method lists
    its penalties, and in float32 or bfloat16 autocast as the protocol says.
    """

    name: ClassVar[str]
    passes: ClassVar[float] = 0.0
    """Forward passes over each example that it costs in every step, beside training's own."""
    additive: ClassVar[bool] = True
    """Whether the mean of a batch's parts, weighted by their sizes, is the loss term of the whole batch."""

    def start(self, run: FineTuning) -> None:
        """Before the first step. The network holds W_0 and is in evaluation mode."""

    def smallest_batch(self) -> int:
        """The fewest examples that may pass through the network together (batch norm needs two)."""
        return 2

    def decay(self, body: float, head: float) -> tuple[float, float]:
        """Weight decay of the network and of the head, given what it is without this penalty."""
        return body, head

    def features(self, features: Tensor) -> Tensor:
        """What the head sees in training instead of the features (b x D)."""
        return features

    def penalise(self, inputs: Tensor, features: Tensor) -> Tensor | float:
        """The term that is added to a batch's mean cross-entropy.

        ``inputs`` have just passed through the network and gave ``features``, whatever ``features()`` does.
        """
        return 0.0

    def gradients(self) -> None:
        """After the backward pass: change the ``grad`` of the network's parameters in place."""


@contextmanager
def layer_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """A dict that holds, after each forward pass, what those layers put out, in the order they ran."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
