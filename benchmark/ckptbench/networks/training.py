"""Training pieces that source runs and fine-tuning share.

Images stay uint8 on the device and are augmented there, as in cifar10-airbench. Nothing reads a
global random state: an epoch's order comes from (seed, epoch) and an example's augmentation from
(seed, epoch, index), so a run that is resumed, or computed beside others, gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.base.digests import derive_seed
from ckptbench.base.types import Examples
from ckptbench.networks.hardware import resolve_precision
from ckptbench.suites import Augment, Precision, Training

Pixel = Sequence[float]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators (dropout, initial weights) start from ``seed``; the old state comes back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation of 0..n-1 in which an epoch sees the examples (int64, on the CPU)."""
    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return torch.randperm(n, generator=generator)


def steps_per_epoch(n: int, batch: int) -> int:
    return max(1, n // batch)


def batches(
    n: int, batch: int, seed: int, epoch: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """Example indices of each step of an epoch, all batches full (one smaller one where n < batch).

    The epoch's remainder is left out: batch norm, and the singular values of a batch's features,
    mean something else on a handful of examples.
    """
    steps = steps_per_epoch(n, batch)
    return torch.split(order(n, seed, epoch)[: steps * batch].to(device), min(batch, n))


def _mix(x: Tensor) -> Tensor:
    """Bijective 32-bit hash (multiply and xor-shift, constants of lowbias32), in int64."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def _draw(seed: int, epoch: int, stream: str, indices: Tensor, below: int) -> Tensor:
    """One integer in 0..below-1 per example, from (seed, epoch, stream, index) alone."""
    key = derive_seed("augment", seed, epoch, stream)
    bits = _mix(_mix(indices ^ (key & 0xFFFFFFFF)) ^ (key >> 32))
    return bits * below >> 32


def uniform(seed: int, epoch: int, stream: str, indices: Tensor) -> Tensor:
    """A number in [0, 1) per example (float32), from (seed, epoch, stream, index) alone."""
    return _draw(seed, epoch, stream, indices, 1 << 24) / (1 << 24)  # float32 holds 24 bits exactly


def augment(
    images: Tensor, kind: Augment, seed: int, epoch: int, indices: Tensor, window: int | None = None
) -> Tensor:
    """Random flips and crops of a batch, drawn per example.

    Parameters
    ----------
    images : uint8, n x c x H x W, on any device
    kind : ``flip`` mirrors half of the images; ``crop`` takes an H x W window of the image padded with
        H // 8 black pixels on each side (4 at 32 x 32); ``crop-flip`` does both; ``resized-crop`` takes
        8 to 100 % of the image, 3/4 to 4/3 as wide as high, scaled to ``window`` x ``window``
    indices : int64, n, on the device of the images: which example of the training set each image is
    window : pixels to a side of resized crops; H where None
    """
    if kind.startswith("resized-crop"):
        images = _resized_crops(images, window or images.shape[2], seed, epoch, indices)
        kind = "flip" if kind == "resized-crop-flip" else "none"
    if kind == "none":
        return images
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(n, -1)
    columns = torch.arange(width, device=images.device).expand(n, -1)
    if "flip" in kind:
        mirrored = _draw(seed, epoch, "flip", indices, 2)[:, None] == 1
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if "crop" in kind:
        pad = height // 8
        images = F.pad(images, (pad, pad, pad, pad))
        rows = rows + _draw(seed, epoch, "row", indices, 2 * pad + 1)[:, None]
        columns = columns + _draw(seed, epoch, "column", indices, 2 * pad + 1)[:, None]
    each = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _resized_crops(images: Tensor, side: int, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """As torchvision's, but that a box too wide or too high for the image is cut down to it."""
    n, channels, *size = images.shape
    area, shape, top, left = (
        uniform(seed, epoch, stream, indices) for stream in ("area", "shape", "top", "left")
    )
    area, ratio = 0.08 + 0.92 * area, torch.exp((2 * shape - 1) * math.log(4 / 3))
    pixels = area * math.prod(size)
    # Height and width of each box, and its centre, as shares of the image.
    high = ((pixels / ratio).sqrt() / size[0]).clamp(max=1)
    wide = ((pixels * ratio).sqrt() / size[1]).clamp(max=1)
    theta = torch.zeros(n, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2] = wide, (1 - wide) * (2 * left - 1)
    theta[:, 1, 1], theta[:, 1, 2] = high, (1 - high) * (2 * top - 1)
    grid = F.affine_grid(theta, [n, channels, side, side], align_corners=False)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round().clamp(0, 255).to(torch.uint8)


def ten_crops(images: Tensor, side: int) -> list[Tensor]:
    """The four corners and the middle of images (n x c x H x W), each as it is and mirrored."""
    down, across = (length - side for length in images.shape[2:])
    corners = [(top, left) for top in (0, down) for left in (0, across)]
    crops = [
        images[:, :, top : top + side, left : left + side]
        for top, left in [*corners, (down // 2, across // 2)]
    ]
    return [*crops, *(crop.flip(3) for crop in crops)]


@lru_cache(maxsize=8)
def _scale_and_shift(mean: Pixel, std: Pixel, device: torch.device) -> tuple[Tensor, Tensor]:
    """x * scale - shift = (x / 255 - mean) / std. Kept, since each copy to a GPU makes it wait."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale[:, None, None], shift[:, None, None]


def to_input(images: Tensor, mean: Pixel, std: Pixel) -> Tensor:
    """uint8 n x 3 x H x W to float32 (x / 255 - mean) / std, channels_last."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(scale).sub_(shift)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Forward passes inside run in bfloat16 where ``precision`` says so; ``auto`` where that is native."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(precision, device) == "bf16")


def optimiser(groups: Any, training: Training) -> torch.optim.Optimizer:
    """The optimiser that ``training`` names; ``groups`` as torch.optim takes them."""
    groups = list(groups)
    if training.optimiser != "sgd":
        adam = torch.optim.AdamW if training.optimiser == "adamw" else torch.optim.Adam
        return adam(groups, lr=training.lr, weight_decay=training.weight_decay, fused=True)
    return torch.optim.SGD(
        groups, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay, fused=True
    )


def schedule(training: Training, step: int, total: int, unit: int) -> float:
    """What the learning rate is multiplied by at a step.

    Parameters
    ----------
    step, total : steps done so far, and in the whole run
    unit : steps per unit of ``training.milestones`` and ``warmup`` (those of an epoch, or 1 for iterations)
    """
    rising = min(1.0, (step + 1) / (training.warmup * unit)) if training.warmup else 1.0
    if training.schedule == "cosine":
        return rising * 0.5 * (1 + math.cos(math.pi * step / total))
    if training.schedule == "step":
        return rising * training.gamma ** sum(step >= milestone * unit for milestone in training.milestones)
    return rising


def set_rate(opt: torch.optim.Optimizer, factor: float) -> None:
    """Multiply each group's first learning rate by ``factor``."""
    for group in opt.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class _SmallMapConv2d(nn.Conv2d):
    """A padded convolution that is one matrix product on maps of up to 2 x 2 pixels."""

    def forward(self, input: Tensor) -> Tensor:
        size = input.shape[-2:]
        pads = tuple(int(pad) for pad in self.padding)
        # Every pixel must lie under the kernel wherever the kernel stands, else a product would waste more.
        if max(size) > 2 or any(length > pad + 1 for length, pad in zip(size, pads, strict=True)):
            return super().forward(input)
        rows, columns = (range(0, length, step) for length, step in zip(size, self.stride, strict=True))
        (up, left), (height, width) = pads, size
        taps = [
            (slice(up - row, up - row + height), slice(left - column, left - column + width))
            for row in rows
            for column in columns
        ]
        if size == (1, 1):
            return F.conv2d(input, self.weight[:, :, *taps[0]], self.bias, groups=self.groups)
        if self.groups > 1:
            return super().forward(input)
        weight = self.weight.permute(0, 2, 3, 1)
        taken = torch.cat([weight[:, *tap].flatten(1) for tap in taps])
        bias = None if self.bias is None else self.bias.repeat(len(taps))
        product = F.linear(input.permute(0, 2, 3, 1).flatten(1), taken, bias)
        return product.view(len(input), len(rows), len(columns), -1).permute(0, 3, 1, 2)


def skip_padding(network: nn.Module) -> None:
    """Let padded convolutions of the smallest maps leave out the taps that multiply zeros.

    Small images are 2 x 2 and 1 x 1 pixels in a network's last stages (ResNet-18 at 32 x 32), where a 3 x 3
    kernel multiplies mostly padding: half of a training step on a CPU, for the same result up to rounding.
    """
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.padding_mode == "zeros"
            and module.dilation == (1, 1)
            and not isinstance(module.padding, str)
            and module.kernel_size == tuple(2 * pad + 1 for pad in module.padding)
            and module.kernel_size != (1, 1)
        ):
            module.__class__ = _SmallMapConv2d


def on_device(examples: Examples, device: torch.device) -> tuple[Tensor, Tensor]:
    """All images of a split as uint8 on the device, with their labels, decoded once."""
    images = torch.from_numpy(examples.images(slice(None))).to(device)
    return images, torch.tensor(examples.labels, device=device)


@contextmanager
def evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Networks are in evaluation mode inside; every module's mode and torch's generators come back."""
    modules = [(module, module.training) for network in networks for module in network.modules()]
    try:
        with torch.random.fork_rng(enabled=True):
            for module, _ in modules:
                module.training = False
            yield
    finally:
        for module, mode in modules:
            module.training = mode


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, torch computes with one thread inside: sums split among threads give other weights."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def predict(
    network: nn.Module, images: Tensor, mean: Pixel, std: Pixel, precision: Precision, batch: int = 512
) -> Tensor:
    """Class predictions (int64, n, on the device) of a network in evaluation mode; images as uint8."""
    return torch.cat([part.argmax(1) for part in outputs(network, images, mean, std, precision, batch)])


@torch.no_grad()
def outputs(
    network: nn.Module, images: Tensor, mean: Pixel, std: Pixel, precision: Precision, batch: int = 512
) -> list[Tensor]:
    """What a network in evaluation mode puts out, a tensor a batch; images as uint8."""
    network.eval()
    with autocast(precision, images.device):
        return [network(to_input(part, mean, std)) for part in torch.split(images, batch)]
