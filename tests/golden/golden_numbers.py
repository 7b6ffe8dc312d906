"""The numbers that must not move: scores, FE and FT on stored features and made-up images.

``python tests/golden/golden_numbers.py`` writes ``numbers.json`` anew. Do so only together with the numerics
version that the moved number belongs to: cached cells are addressed by it.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ckptbench.networks.training import seeded
from ckptbench.plugins import load_plugins
from ckptbench.scores.score import score
from ckptbench.suites import FE, FT, Training
from ckptbench.truth.finetune import finetune
from ckptbench.truth.probe import fe_truth

FOLDER = Path(__file__).parent
CPU = torch.device("cpu")
PROBES = [
    FE(name="tuned"),
    FE(name="fixed", penalty=1e-3),
    FE(name="raw", scale="raw"),
    FE(name="main", part="main"),
    FE(name="residual", part="residual"),
    FE(name="batches", part="residual", split_batch=64, penalty=1e-2),
    FE(name="adam", solver="adam", scale="raw", iterations=60),
]


def scores() -> dict[str, Any]:
    """Every selector but the dear and those that need facts or weights of a checkpoint, in all readings."""
    stored = np.load(FOLDER / "features.npz")
    features = [stored[f"features-{i}"] for i in range(3)]
    found: dict[str, Any] = {}
    registry = load_plugins("selector")
    for spec in sorted(registry.select(["*"]), key=lambda one: one.name):
        if spec.name in ("last-epoch", "source-accuracy", "chance") or "weights" in spec.needs:
            continue
        common: dict[str, Any] = {"source": (stored["rows"], stored["row_labels"])}
        if spec.pool:
            found[spec.label] = np.asarray(score(spec.label, features, stored["labels"], **common)).tolist()
        else:
            logits = features[1].astype(float) @ stored["weight"].T + stored["bias"]
            found[spec.label] = score(
                spec.label, features[1], stored["labels"], source_logits=logits, seed=1, **common
            )
    return found


def probes() -> dict[str, list[int]]:
    """Test examples that each FE protocol's heads get right, by seed."""
    stored = np.load(FOLDER / "features.npz")
    features, labels = stored["features-1"], stored["labels"]
    train = np.arange(len(labels)) % 5 < 3
    return {
        protocol.name: [
            int(result.correct.sum())
            for result in fe_truth(
                features[train], labels[train], features[~train], labels[~train], 10, protocol, [0, 1]
            )
        ]
        for protocol in PROBES
    }


def fine_tunings() -> dict[str, list[float]]:
    """[deviation, final loss] of a few steps of every method."""
    rng = np.random.default_rng(0)
    labels = torch.arange(48) % 3
    images = torch.from_numpy(rng.integers(0, 256, (48, 3, 16, 16), dtype=np.uint8))
    images[labels == 1, :, ::4] //= 2
    images[labels == 2, :, :, ::4] //= 2
    found = {}
    registry = load_plugins("penalty")
    for name, penalties in METHODS.items():
        with seeded(0, CPU):
            network = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                torch.nn.Conv2d(8, 16, 3, stride=2, padding=1), torch.nn.ReLU(),
                torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 5),
            )  # fmt: skip
        protocol = FT(
            name=name,
            training=Training(lr=0.05, batch=16, augment="crop-flip", precision="fp32"),
            epochs=4,
            head_multiplier=10,
            penalties=penalties,
        )
        weights = {key: value.clone() for key, value in network.state_dict().items()}
        result = finetune(
            network,
            "7",
            weights,
            images,
            labels,
            images,
            labels,
            3,
            protocol,
            [registry[label].make() for label in penalties],
            1,
            (0.5,) * 3,
            (0.25,) * 3,
            CPU,
        )
        found[name] = [result.deviation, result.final_loss]
    return found


METHODS: dict[str, tuple[str, ...]] = {
    "l2": ("l2",),
    "l2-sp": ("l2-sp",),
    "delta": ("delta",),
    "tsvd": ("tsvd:r=2,stop_gradient=true",),
    "l2+bss": ("l2", "bss:eta=0.01"),
}


def machine() -> str:
    """What fine-tuning's last digits hang on."""
    release = torch.__version__.split("+")[0]
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {release}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = {"scores": scores(), "fe": probes(), "ft": fine_tunings(), "ft machine": machine()}
    (FOLDER / "numbers.json").write_text(json.dumps(content, indent=1) + "\n")
