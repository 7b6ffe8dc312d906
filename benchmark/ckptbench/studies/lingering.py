"""Source classes that a target lacks, which of them linger after fine-tuning, and how far they distract.

Source: detrimental-memories (Detrimental Memories in Transfer Learning), equations 1 to 5; Grad-CAM is that
of Selvaraju et al. 2017. What the paper leaves open: k is a hundredth of the classes, at least 1; source-only
are classes in fewer top-k predictions than a quarter of an even share, shared ones have at least an even
share; p_lo = min(10 / C_s, 0.5); maps are of the overlay's class and of the source class, at the deepest
layer whose output has at least 4 x 4 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array, Checkpoint, Target
from ckptbench.networks.training import on_device, outputs, to_input
from ckptbench.numerics.softmax import fit_softmax
from ckptbench.studies.finetuned import Bench
from ckptbench.truth.penalty import layer_outputs

SHRINK = 0.4  # of each side: an overlay's size
TOP = 0.2  # of the pixels outside the overlay: those that a map singles out
LEAST = 4  # pixels to a side of the map that Grad-CAM takes
SOURCE_ONLY, SHARED, BETWEEN = "source-only", "shared", "between"
HEAD_PENALTY = 1e-3  # of the source head that is fitted where a run has none


@dataclass(frozen=True, eq=False)
class SourceModel:
    """M^s, the network of a checkpoint with its source head, and what the target lacks of its classes.

    A checkpoint without a head for the source's classes (another objective) gets one fitted to its features
    of the source's training images.
    """

    bench: Bench
    checkpoint: Checkpoint

    @cached_property
    def data(self) -> Target:
        """The source set.

        Raises
        ------
        InputError
            If the source run's images are not known.
        """
        data = self.bench.source.data
        if data is None:
            raise InputError(f"source {self.bench.source.name} has no images of its own to take classes from")
        return data

    @cached_property
    def parts(self) -> tuple[nn.Module, nn.Linear]:
        """Backbone and head, in evaluation mode."""
        device = self.bench.source.recipe.device
        network = self.bench.load(self.checkpoint)
        name = self.bench.architecture.head_name(network)
        head = network.get_submodule(name)
        network.set_submodule(name, nn.Identity())
        network.to(device)
        own = self.bench.source.spec.objective.partition(":")[0] == "supervised"
        if own and isinstance(head, nn.Linear) and head.out_features == len(self.data.classes):
            return network, head.to(device)
        return network, self._fitted(network).to(device)

    def _fitted(self, network: nn.Module) -> nn.Linear:
        images, labels = on_device(self.data.train, self.bench.source.recipe.device)
        features = self._features(network, images)
        fit = fit_softmax(features.numpy(), labels.cpu().numpy(), len(self.data.classes), HEAD_PENALTY)
        head = nn.Linear(features.shape[1], len(self.data.classes))
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(fit.coef[0]))
            head.bias.copy_(torch.from_numpy(fit.intercept[0]))
        return head

    def _features(self, network: nn.Module, images: Tensor) -> Tensor:
        return torch.cat(outputs(network, images, *self.bench.source.recipe.normalisation, "fp32")).cpu()

    @cached_property
    def layer(self) -> str:
        """The layer that Grad-CAM looks at."""
        return deepest_map(self.parts[0], self.inputs(self.bench.test[0][:1]))

    def inputs(self, images: Tensor) -> Tensor:
        return to_input(images, *self.bench.source.recipe.normalisation)

    @cached_property
    def prevalence(self) -> Tensor:
        """Equation 1 on the target's training images: int64, C_s."""
        normalisation = self.bench.source.recipe.normalisation
        model = nn.Sequential(*self.parts)
        logits = torch.cat(outputs(model, self.bench.train[0], *normalisation, "fp32"))
        return prevalence(logits, top_k(len(self.data.classes))).cpu()

    @cached_property
    def kinds(self) -> list[str]:
        """Of each source class: source-only, shared, or between.

        Raises
        ------
        InputError
            If no class is source-only.
        """
        found = kinds(self.prevalence, len(self.bench.train[0]), top_k(len(self.data.classes)))
        if SOURCE_ONLY not in found:
            target, source = self.bench.target.name, self.bench.source.name
            raise InputError(f"target {target} shows every class of source {source}: none is source-only")
        return found

    @cached_property
    def floor(self) -> float:
        """p_lo of equation 3."""
        return min(10 / len(self.data.classes), 0.5)

    def images(self, c: int, most: int) -> Tensor:
        """The first images of a class in the source's test split: uint8, on the device."""
        rows = np.flatnonzero(self.data.test.labels == c)[:most]
        return torch.from_numpy(self.data.test.images(rows)).to(self.bench.source.recipe.device)

    def probabilities(self, network: nn.Module, images: Tensor) -> Tensor:
        """M^st: the source head on a fine-tuned backbone; n x C_s."""
        with torch.no_grad():
            found: Tensor = self.parts[1](network(self.inputs(images))).softmax(1)
        return found

    def lingering(self, network: nn.Module, most: int) -> dict[int, float]:
        """Of every source-only and shared class, the mean probability of equation 3."""
        return {
            c: float(self.probabilities(network, self.images(c, most))[:, c].mean())
            for c, kind in enumerate(self.kinds)
            if kind != BETWEEN
        }


def top_k(classes: int) -> int:
    return max(1, classes // 100)


def prevalence(logits: Tensor, k: int) -> Tensor:
    """Equation 1: for how many images (rows) each class is among the k largest logits."""
    return logits.topk(k, dim=1).indices.flatten().bincount(minlength=logits.shape[1])


def kinds(counts: Tensor, images: int, k: int) -> list[str]:
    """Equation 2, and its opposite as a control, from each class's prevalence in so many images."""
    even = images * k / len(counts)
    return [SOURCE_ONLY if v < even / 4 else SHARED if v >= even else BETWEEN for v in counts.tolist()]


def composites(backgrounds: Tensor, overlays: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each overlay at 40 % of each side, at a random place of its background.

    Parameters
    ----------
    backgrounds, overlays : uint8, n x c x H x W

    Returns
    -------
    The images, and bool n x H x W: where the overlay is.
    """
    n, _, *size = backgrounds.shape
    small = [round(SHRINK * side) for side in size]
    pasted = F.interpolate(overlays.float(), small, mode="bilinear", antialias=True).round().to(torch.uint8)
    images, inside = backgrounds.clone(), torch.zeros((n, *size), dtype=torch.bool, device=backgrounds.device)
    corners = rng.integers([0, 0], [side - less + 1 for side, less in zip(size, small, strict=True)], (n, 2))
    for i, (top, left) in enumerate(corners.tolist()):
        down, across = slice(top, top + small[0]), slice(left, left + small[1])
        images[i, :, down, across] = pasted[i]
        inside[i, down, across] = True
    return images, inside


def deepest_map(network: nn.Module, x: Tensor) -> str:
    """The last layer to run whose output is maps of at least 4 x 4 pixels.

    Raises
    ------
    InputError
        If there is none, as in a transformer.
    """
    names = [name for name, _ in network.named_modules() if name]
    ran: list[str] = []
    with torch.no_grad(), layer_outputs(network, names) as seen:
        handles = [
            network.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
            for name in names
        ]
        network(x)
        for handle in handles:
            handle.remove()
    for name in reversed(ran):
        output = seen[name]
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) >= LEAST:
            return name
    raise InputError(f"Grad-CAM needs maps of {LEAST} x {LEAST} pixels: {type(network).__name__} has none")


def grad_cam(network: nn.Module, head: nn.Module, layer: str, x: Tensor, classes: Tensor) -> Tensor:
    """Where in each input its class's logit comes from: n x H x W, at least 0.

    The ReLU of a layer's maps summed with the means of their gradients as weights, enlarged to the input.
    """
    with layer_outputs(network, [layer]) as seen:
        logits = head(network(x))
        maps = seen[layer]
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    heat = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def distraction(ours: Tensor, theirs: Tensor, inside: Tensor) -> Tensor:
    """Equation 4: intersection over union of the top fifths of two maps outside the overlay, n numbers.

    A map that is 0 there singles out nothing: its overlap is 0.
    """

    def top(heat: Tensor) -> Tensor:
        outside = heat.masked_fill(inside, torch.nan).flatten(1)
        level = outside.nanquantile(1 - TOP, dim=1)[:, None, None]
        return (heat > level) & ~inside

    one, other = top(ours), top(theirs)
    both, either = ((one & other).sum((1, 2)), (one | other).sum((1, 2)))
    return both / either.clamp_min(1)


def interference(model: SourceModel, network: nn.Module, classes: list[int], images: Tensor) -> Array:
    """Equation 5: the largest probability of these (lingering) classes for each image, to be held to p_lo.

    ``network`` is the fine-tuned backbone, ``images`` uint8 n x 3 x H x W.
    """
    found: Array = model.probabilities(network, images)[:, classes].amax(1).cpu().numpy()
    return found
