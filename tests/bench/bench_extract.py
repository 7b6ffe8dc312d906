"""Extraction against a loop that decodes for every checkpoint, interleaved in one run on one thread.

The loop is the usual one: PIL, torchvision's transforms, a ResNet-18 in fp32, one checkpoint after the
other. The floor is forward passes alone, on batches that are ready, with the weights loaded.
``pytest tests/bench/bench_extract.py --benchmark-only -s``
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms

from ckptbench.base.store import Store
from ckptbench.base.types import Checkpoint
from ckptbench.data.targets import load_target
from ckptbench.networks.architectures import find_architecture
from ckptbench.networks.extract import BATCH, IMAGENET, Recipe, extract
from ckptbench.networks.runs import read_run
from ckptbench.networks.training import autocast, to_input
from ckptbench.plugins import load_plugins
from ckptbench.suites import Data

CPU = torch.device("cpu")
# One thread on a shared processor: its own time, the decoding thread's included, not its neighbours'.
CLOCK = time.process_time
ROUNDS = 2


def photographs(folder: Path, count: int, width: int, height: int, kind: str) -> None:
    """Files like photographs: noise of all scales, the finer the fainter; two classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = np.full((height, width, 3), 127.0)
        for scale in (2, 8, 32, 128):
            noise = rng.integers(0, 256, (-(-height // scale) + 1, -(-width // scale) + 1, 3), dtype=np.uint8)
            smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            pixels += (np.asarray(smooth) - 127.0) * (0.1 if scale == 2 else 0.3)
        for split in ("train", "test"):
            path = folder / split / str(number % 2) / f"{number}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if split == "train" or number < 2:
                shade = pixels if split == "train" else 255 - pixels
                Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(path)


def plain(checkpoints: list[Checkpoint], files: list[Path], size: int) -> list[np.ndarray]:
    """The loop of any tutorial: the features of each checkpoint, n x 512."""
    scaled = [transforms.Resize(size), transforms.CenterCrop(size)]
    transform = transforms.Compose([*scaled, transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    found = []
    for checkpoint in checkpoints:
        network = models.resnet18(num_classes=10)
        network.load_state_dict(torch.load(checkpoint.path))
        network.fc = nn.Identity()
        network.eval()
        parts = []
        with torch.no_grad():
            for start in range(0, len(files), BATCH):
                images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
                parts.append(network(torch.stack([transform(image) for image in images])).numpy())
        found.append(np.concatenate(parts))
    return found


def floor(networks: list[nn.Module], batches: list[torch.Tensor], precision: Any) -> float:
    """Seconds that the forward passes alone take, in the precision and layout of ``extract``."""
    before = CLOCK()
    with torch.inference_mode(), autocast(precision, CPU):
        for network in networks:
            for batch in batches:
                network(batch)
    return CLOCK() - before


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(
    ("size", "precision", "checkpoints", "images", "file"),
    [
        (32, "fp32", 16, 512, (32, 32, "png")),
        (32, "bf16", 16, 512, (32, 32, "png")),
        (224, "bf16", 8, 32, (500, 375, "jpg")),
    ],
)
def test_extraction_against_decoding_for_every_checkpoint(
    benchmark: Any,
    tmp_path: Path,
    size: int,
    precision: Literal["fp32", "bf16"],
    checkpoints: int,
    images: int,
    file: tuple[int, int, str],
) -> None:
    torch.set_num_threads(1)
    photos = tmp_path / "photographs"
    photographs(photos, images, *file)
    split = load_target(Data(name=f"folder:{photos}", size=size)).train
    how = Recipe(find_architecture("resnet18", load_plugins("extractor")), IMAGENET, precision)
    (tmp_path / "run").mkdir()
    networks = []
    for epoch in range(checkpoints):
        torch.manual_seed(epoch)
        networks.append(models.resnet18(num_classes=10).eval())
        torch.save(networks[-1].state_dict(), tmp_path / "run" / f"epoch{epoch}.pt")
        networks[-1].to(memory_format=torch.channels_last)
    run = read_run(tmp_path / "run", "resnet18")
    files = [photos / "train" / split.raw.identifier(int(row)) for row in split.rows]
    ready = [
        to_input(torch.from_numpy(split.images(slice(start, start + BATCH))), *IMAGENET)
        for start in range(0, len(split), BATCH)
    ]
    stores = [Store(tmp_path / f"store{number}") for number in range(ROUNDS)]
    theirs: list[float] = []
    floors: list[float] = []
    expected: list[np.ndarray] = []

    def others_first() -> tuple[tuple[Any, ...], dict[str, Any]]:
        floors.append(floor(networks, ready, precision))
        before = CLOCK()
        expected[:] = plain(run, files, size)
        theirs.append(CLOCK() - before)
        return (run, split, how, stores[len(theirs) - 1], CPU), {}

    benchmark.pedantic(extract, setup=others_first, rounds=ROUNDS)
    # Pixels differ by rounding where images are scaled; bf16 has eight bits.
    allowed = 0.001 if precision == "fp32" else 0.02
    for checkpoint, wanted in zip(run, expected, strict=True):
        features = stores[0].read_features(how.key(checkpoint, split))
        assert features is not None
        assert np.linalg.norm(features - wanted) < allowed * np.linalg.norm(wanted)

    seconds = benchmark.stats.stats.min
    ratio, over_floor = min(theirs) / seconds, seconds / min(floors)
    benchmark.extra_info["ratio"], benchmark.extra_info["over_floor"] = ratio, over_floor
    print(
        f"\n{checkpoints} checkpoints at {size} px in {precision}: {ratio:.2f}x over decoding for every "
        f"checkpoint, {over_floor:.2f} times the forward passes alone ({seconds:.1f} s)"
    )
