"""Extraction: penultimate features of every checkpoint on every split, each image decoded once.

The data set is the outer loop: a batch is decoded, normalised, and run through every checkpoint
whose features are missing; rows are written by sample index. Penultimate means the input of the
last linear layer. Memory does not grow with the number of examples: rows go to a memory map.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ckptbench.checkpoints import Architecture
from ckptbench.store import Store, make_folder
from ckptbench.training import autocast, to_input
from ckptbench.types import Array, Checkpoint, Examples, InputError

BATCH = 256
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
# ImageNet's statistics: what torchvision's own weights were trained with.
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Recipe:
    """What changes the features of a given checkpoint on given images."""

    architecture: Architecture
    normalisation: Normalisation
    precision: Literal["fp32", "bf16"] = "fp32"

    def key(self, checkpoint: Checkpoint, examples: Examples) -> dict[str, Any]:
        return {
            "what": "features/1",
            "weights": checkpoint.digest,
            "architecture": self.architecture.spec,
            "layer": self.architecture.layer,
            "extractor": self.architecture.extractor_digest,
            "normalisation": self.normalisation,
            "precision": self.precision,
            "examples": examples.digest,
        }


def extract(
    checkpoints: Sequence[Checkpoint],
    examples: Examples,
    recipe: Recipe,
    store: Store,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    memory: float | None = None,
) -> None:
    """Store the features of ``examples`` under every checkpoint that lacks them.

    Parameters
    ----------
    progress : called with the number of forward passes (images x checkpoints) done since last time
    memory : bytes that the weights held at once may take; by default half of what is free

    Raises
    ------
    InputError
        If a checkpoint does not fit its architecture, or its features are not finite.
    """
    missing = [c for c in checkpoints if store.read_features(recipe.key(c, examples)) is None]
    group: list[tuple[Checkpoint, nn.Module]] = []
    held = 0
    budget = memory if memory is not None else _free_memory(device) / 2
    for position, checkpoint in enumerate(missing):
        group.append((checkpoint, _network(checkpoint, recipe, store, device)))
        held += sum(p.numel() * p.element_size() for p in group[-1][1].parameters())
        # The next network is as large as this one: stop before it would not fit.
        if position + 1 == len(missing) or held * (len(group) + 1) / len(group) > budget:
            with contextlib.ExitStack() as locks:
                for member, _ in group:
                    locks.enter_context(store.lock(recipe.key(member, examples)))
                # Another process may have stored some while we waited for its lock.
                todo = [(c, n) for c, n in group if not store.has_features(recipe.key(c, examples))]
                if todo:
                    _extract_group(todo, examples, recipe, store, device, progress)
            group, held = [], 0


def _network(checkpoint: Checkpoint, recipe: Recipe, store: Store, device: torch.device) -> nn.Module:
    """The network with its head replaced by identity: its output is the penultimate activation."""
    if checkpoint.path is None:
        raise InputError(f"checkpoint {checkpoint.run} epoch {checkpoint.epoch} has no file")
    model, has_head = recipe.architecture.load(checkpoint.path)
    name = recipe.architecture.head_name(model)
    head = model.get_submodule(name)
    if has_head and isinstance(head, nn.Linear):
        bias = head.bias if head.bias is not None else torch.zeros(head.out_features)
        store.write_head(checkpoint.digest, head.weight.detach().numpy(), bias.detach().numpy())
    if isinstance(head, nn.Linear):
        # What follows the last linear layer (nothing, in every torchvision family) sees features.
        model.set_submodule(name, nn.Identity())
    model.requires_grad_(False)
    return model.to(device).to(memory_format=torch.channels_last)


def _extract_group(
    group: list[tuple[Checkpoint, nn.Module]],
    examples: Examples,
    recipe: Recipe,
    store: Store,
    device: torch.device,
    progress: Callable[[int], None],
) -> None:
    mean, std = recipe.normalisation
    seconds = np.zeros(len(group))
    largest = np.zeros(len(group))
    width = 0
    with torch.inference_mode(), contextlib.ExitStack() as files:
        # float32 rows go to scratch files until it is known that float16 can hold every value.
        make_folder(store.root / "scratch")
        scratch = [
            files.enter_context(tempfile.TemporaryFile(dir=store.root / "scratch")) for _ in range(len(group))
        ]
        for start, images in _batches(examples):
            before = time.perf_counter()
            batch = to_input(torch.from_numpy(images).to(device), mean, std)
            seconds += (time.perf_counter() - before) / len(group)
            for position, (checkpoint, network) in enumerate(group):
                before = time.perf_counter()
                with autocast(recipe.precision, device):
                    rows = _penultimate(network, batch, recipe.architecture.layer)
                values = rows.float().cpu().numpy()
                if not np.isfinite(values).all():
                    raise InputError(
                        f"features of checkpoint {checkpoint.path} on examples {start}.."
                        f"{start + len(values) - 1} are not finite (NaN or infinite): the checkpoint diverged"
                    )
                width = values.shape[1]
                largest[position] = max(largest[position], np.abs(values).max(initial=0.0))
                scratch[position].write(values.tobytes())
                seconds[position] += time.perf_counter() - before
            progress(len(images) * len(group))
        for position, (checkpoint, _) in enumerate(group):
            dtype = np.float16 if largest[position] <= np.finfo(np.float16).max else np.float32
            scratch[position].seek(0)
            blocks = _blocks(scratch[position], BATCH * width)
            shape = (len(examples), width)
            store.write_features(
                recipe.key(checkpoint, examples), blocks, shape, dtype, float(seconds[position])
            )


def _blocks(file: IO[bytes], values: int) -> Iterator[Array]:
    while data := file.read(4 * values):
        yield np.frombuffer(data, dtype=np.float32)


def _penultimate(network: nn.Module, batch: Tensor, layer: str | None) -> Tensor:
    """The features of a batch, n x D; a ``layer`` that is no linear layer gives its pooled input."""
    if layer is None or isinstance(network.get_submodule(layer), nn.Identity):
        rows = network(batch)
    else:
        caught: list[Tensor] = []
        handle = network.get_submodule(layer).register_forward_pre_hook(
            lambda _module, inputs: caught.append(inputs[0])
        )
        try:
            network(batch)
        finally:
            handle.remove()
        rows = caught[-1]
    return rows.mean(dim=(2, 3)) if rows.ndim == 4 else torch.flatten(rows, 1)


def _batches(examples: Examples) -> Iterator[tuple[int, Array]]:
    """(first index, uint8 images), the next batch decoded while this one is worked on."""
    starts = range(0, len(examples), BATCH)
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(examples.images, slice(start, start + BATCH)) for start in starts[:1]]
        for position, start in enumerate(starts):
            images = ahead.pop().result()
            if position + 1 < len(starts):
                following = starts[position + 1]
                ahead.append(pool.submit(examples.images, slice(following, following + BATCH)))
            yield start, images


def _free_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU.

    Raises
    ------
    InputError
        If CUDA is asked for and there is none, or the name is not a device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not known: auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is at hand: use --device cpu, or auto")
    return torch.device(name)
