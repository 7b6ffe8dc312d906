"""Extraction: penultimate features of every checkpoint on every split, each image decoded once.

The data set is the outer loop: a batch is decoded, normalised, and run through every checkpoint
whose features are missing; rows are written by sample index. Penultimate means the input of the
last linear layer. Memory does not grow with the number of examples: rows go to a scratch file, from
which a killed extraction goes on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.files import make_folder, read_json, write_json
from ckptbench.base.store import Store
from ckptbench.base.types import Array, Checkpoint, Examples, Key
from ckptbench.networks.architectures import Architecture
from ckptbench.networks.hardware import Precision, machine
from ckptbench.networks.training import autocast, skip_padding, to_input

FEATURES_VERSION = 3  # raised when the same network has other features of the same images
BATCH = 256
KEEP = 30.0  # so many seconds of forward passes may be lost to a kill
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
# ImageNet's statistics: what torchvision's own weights were trained with.
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Recipe:
    """What changes the features of a given checkpoint on given images."""

    architecture: Architecture
    normalisation: Normalisation
    device: torch.device
    precision: Precision = "fp32"

    def key(self, checkpoint: Checkpoint, examples: Examples) -> Key:
        place = [self.architecture.key, self.architecture.prefix]
        return {
            "what": f"features/{FEATURES_VERSION}",
            "weights": checkpoint.digest,
            "architecture": self.architecture.spec,
            "layer": self.architecture.layer,
            "extractor": self.architecture.extractor_digest,
            "normalisation": self.normalisation,
            "precision": self.precision,
            "examples": examples.digest,
            **machine(self.device),
            **({"place": place} if any(place) else {}),
        }


def extract(
    checkpoints: Sequence[Checkpoint],
    examples: Examples,
    recipe: Recipe,
    store: Store,
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
    # By key: two files of the same weights are one.
    keys = {digest(key): (key, c) for c in checkpoints for key in [recipe.key(c, examples)]}
    missing = []
    for key, checkpoint in keys.values():
        if store.read_features(key) is None:
            missing.append((key, checkpoint))
        elif not store.has_head(key):
            _network(checkpoint, key, recipe, store)
    budget = memory if memory is not None else _free_memory(recipe.device) / 2
    diverged: list[str] = []
    for group in _groups(missing, budget):
        with contextlib.ExitStack() as locks:
            # In one order for everybody, so that no two processes wait for each other.
            for key, _ in sorted(group, key=lambda member: digest(member[0])):
                locks.enter_context(store.lock(key))
            # Another process may have stored some while we waited for its lock.
            todo = [
                _Member(key, c, _network(c, key, recipe, store))
                for key, c in group
                if store.read_features(key) is None
            ]
            if todo:
                diverged += _extract_group(todo, examples, recipe, store, progress)
    if diverged:
        raise InputError("; ".join(diverged[:3]))


def extract_networks(
    networks: Sequence[tuple[Checkpoint, nn.Module]],
    examples: Examples,
    recipe: Recipe,
    store: Store,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """The same of networks in memory, which are on the recipe's device and in evaluation mode.

    Raises
    ------
    InputError
        If their features are not finite.
    """
    members = {}
    for checkpoint, network in networks:
        key = recipe.key(checkpoint, examples)
        members[digest(key)] = _Member(key, checkpoint, network)
    todo = [member for member in members.values() if store.read_features(member.key) is None]
    diverged = _extract_group(todo, examples, recipe, store, progress) if todo else []
    if diverged:
        raise InputError("; ".join(diverged[:3]))


def _groups(members: list[tuple[Key, Checkpoint]], budget: float) -> Iterator[list[tuple[Key, Checkpoint]]]:
    """Members whose weights, as large as their files, fit into memory together; at least one at a time."""
    group: list[tuple[Key, Checkpoint]] = []
    held = 0.0
    for key, checkpoint in members:
        size = _path(checkpoint).stat().st_size
        if group and held + size > budget:
            yield group
            group, held = [], 0.0
        group.append((key, checkpoint))
        held += size
    if group:
        yield group


def _label(checkpoint: Checkpoint) -> str:
    return str(checkpoint.path or f"of epoch {checkpoint.epoch}")


def _path(checkpoint: Checkpoint) -> Path:
    if checkpoint.path is None:
        raise InputError(f"checkpoint {checkpoint.run} epoch {checkpoint.epoch} has no file")
    return checkpoint.path


@dataclass(frozen=True)
class _Member:
    key: Key
    checkpoint: Checkpoint
    network: nn.Module


def _network(checkpoint: Checkpoint, key: Key, recipe: Recipe, store: Store) -> nn.Module:
    """The network of a checkpoint on the device; its head goes to the store."""
    architecture = recipe.architecture
    network, has_head = architecture.load(_path(checkpoint))
    name = architecture.head_name(network)
    layer = network.get_submodule(name)
    head = None
    # Another linear layer, named by the user, gives features but no source logits.
    if has_head and isinstance(layer, nn.Linear) and name == architecture.extractor.head(network):
        bias = layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
        head = layer.weight.detach().numpy(), bias.detach().numpy()
    store.write_head(key, head)
    network.requires_grad_(False)
    skip_padding(network)
    return network.to(recipe.device).to(memory_format=torch.channels_last)


def _extract_group(
    group: list[_Member],
    examples: Examples,
    recipe: Recipe,
    store: Store,
    progress: Callable[[int], None],
) -> list[str]:
    """Store the features of a group; returns a sentence on each checkpoint whose are not finite."""
    device = recipe.device
    mean, std = recipe.normalisation
    layer = recipe.architecture.head_name(group[0].network)
    diverged: dict[int, str] = {}
    rows = [_Rows(store, member.key) for member in group]
    first = min(each.count for each in rows)
    progress(first * len(group))
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        for each in rows:
            stack.enter_context(each.open(first))
        kept = time.monotonic()
        for start, images in _batches(examples, first):
            before = time.perf_counter()
            batch = to_input(torch.from_numpy(images).to(device), mean, std)
            shared = (time.perf_counter() - before) / len(group)
            for position, member in enumerate(group):
                if position in diverged:
                    continue
                before = time.perf_counter()
                with autocast(recipe.precision, device):
                    features = _penultimate(member.network, batch, layer)
                values = features.float().cpu().numpy()
                if np.isfinite(values).all():
                    rows[position].add(values, shared + time.perf_counter() - before)
                else:
                    diverged[position] = (
                        f"features of checkpoint {_label(member.checkpoint)} on examples {start}.."
                        f"{start + len(values) - 1} are not finite (NaN or infinite): the checkpoint diverged"
                    )
            progress(len(images) * len(group))
            if time.monotonic() - kept > KEEP:
                for each in rows:
                    each.keep()
                kept = time.monotonic()
        for position, each in enumerate(rows):
            if position not in diverged:
                each.finish(len(examples))
            each.drop()
    return list(diverged.values())


class _Rows:
    """float32 rows of one checkpoint on their way to the store.

    They stay in a scratch file until it is known that float16 can hold them. ``keep`` makes what
    is there so far count for a run that comes after a kill.
    """

    def __init__(self, store: Store, key: Key) -> None:
        self._store, self._key = store, key
        self._path = store.root / "scratch" / f"{digest(key)}.rows"
        self._facts_path = self._path.with_suffix(".json")
        self.count, self._width, self._largest, self._seconds = 0, 0, 0.0, 0.0
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = read_json(self._facts_path)
            if self._path.stat().st_size >= 4 * facts["count"] * facts["width"]:
                self.count, self._width = facts["count"], facts["width"]
                self._largest, self._seconds = facts["largest"], facts["seconds"]

    @contextlib.contextmanager
    def open(self, count: int) -> Iterator[None]:
        """Go on behind the first ``count`` rows, of those that are there."""
        make_folder(self._path.parent)
        self._seconds *= count / max(self.count, 1)
        self.count = count
        with self._path.open("r+b" if count else "w+b") as self._file:
            self._file.truncate(4 * count * self._width)
            self._file.seek(0, os.SEEK_END)
            try:
                yield
            except BaseException:
                self.keep()
                raise

    def add(self, values: Array, seconds: float) -> None:
        self._file.write(values.tobytes())
        self.count += len(values)
        self._width = values.shape[1]
        self._largest = max(self._largest, float(np.abs(values).max(initial=0.0)))
        self._seconds += seconds

    def keep(self) -> None:
        if not self.count:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        facts = {"count": self.count, "width": self._width, "largest": self._largest}
        write_json(self._facts_path, {**facts, "seconds": self._seconds})

    def finish(self, count: int) -> None:
        """All ``count`` rows are there: hand them to the store."""
        dtype = np.float16 if self._fits_float16() else np.float32
        self._file.seek(0)
        blocks = _blocks(self._file, BATCH * self._width)
        self._store.write_features(self._key, blocks, (count, self._width), dtype, self._seconds)

    def _fits_float16(self) -> bool:
        """Whether rounding costs a column less than 1 % of its variance, in the mean over those that vary.

        Some untrained networks have features of 1e-10, others vary by a millionth of their mean.
        """
        if self._largest > float(np.finfo(np.float16).max):
            return False
        self._file.seek(0)
        total, squares, error = np.zeros((3, self._width))
        for block in _blocks(self._file, BATCH * self._width):
            values = block.reshape(-1, self._width).astype(np.float64)
            total += values.sum(axis=0)
            squares += np.square(values).sum(axis=0)
            error += np.square(values - values.astype(np.float16)).sum(axis=0)
        variance = squares - total**2 / self.count
        varies = variance > 1e-13 * squares  # by more than the last digits of float32
        lost = np.minimum(error[varies] / variance[varies], 1.0)
        return not varies.any() or bool(lost.mean() < 0.01)

    def drop(self) -> None:
        self.count = 0
        self._path.unlink(missing_ok=True)
        self._facts_path.unlink(missing_ok=True)


def _blocks(file: IO[bytes], values: int) -> Iterator[Array]:
    while data := file.read(4 * values):
        yield np.frombuffer(data, dtype=np.float32)


def _penultimate(network: nn.Module, batch: Tensor, layer: str) -> Tensor:
    """The input of a layer on a batch, n x D; the input of a convolution is averaged over its positions."""
    caught: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_pre_hook(
        lambda _module, inputs: caught.append(inputs[0])
    )
    try:
        network(batch)
    finally:
        handle.remove()
    if not caught:
        raise InputError(f"{type(network).__name__} does not use its layer {layer!r}: name another one")
    return caught[-1].mean(dim=(2, 3)) if caught[-1].ndim == 4 else torch.flatten(caught[-1], 1)


def _batches(examples: Examples, first: int = 0) -> Iterator[tuple[int, Array]]:
    """(first index, uint8 images) from example ``first`` on, the next batch decoded meanwhile."""
    starts = range(first, len(examples), BATCH)
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
