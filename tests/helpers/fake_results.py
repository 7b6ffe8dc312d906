"""A results folder as the stages write it, from simulated trajectories: for the tests of the judging side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ckptbench.base.files import checksum, read_json, write_json
from ckptbench.base.types import Computed, Provenance
from ckptbench.results import MANIFEST, Results, make_table, table_from_csv
from ckptbench.suites import FE, FT, Data, Source, Suite, TargetSpec, Training

DIGEST = "0123456789abcdef"


def write_results(
    folder: Path,
    *,
    sources: int = 1,
    targets: int = 2,
    protocols: tuple[tuple[str, str], ...] = (("tuned", "fe"), ("raw", "fe"), ("short", "ft")),
    epochs: int = 12,
    seeds: int = 3,
    examples: int = 803,
    selectors: dict[str, float] | None = None,
    seed: int = 0,
    suite: Suite | None = None,
) -> Path:
    """Write a results folder. ``selectors`` maps a name to how much noise (in sd of the truth) its score has.

    A selector whose name starts with "random" gets three repeats.
    """
    rng = np.random.default_rng(seed)
    selectors = {"logme": 0.5, "ridge-loo": 0.1, "random-gmm": 1.0} if selectors is None else selectors
    scores, truth, checkpoints, extraction, correct = [], [], [], [], {}
    for s in range(sources):
        source = f"run{s}"
        for epoch in range(epochs):
            checkpoints.append(
                {"source": source, "epoch": epoch, "digest": f"{epoch:016x}", "architecture": "resnet18",
                 "source_accuracy": 0.1 + 0.8 * epoch / epochs}
            )  # fmt: skip
        for t in range(targets):
            target = f"target{t}"
            level = 0.7 + 0.12 * np.cumsum(rng.normal(size=epochs)) / np.sqrt(epochs)
            bits = []
            for protocol, goal in protocols:
                for number in range(seeds):
                    for epoch in range(epochs):
                        hits = rng.random(examples) < level[epoch]
                        truth.append(
                            {"source": source, "target": target, "protocol": protocol, "goal": goal,
                             "epoch": epoch, "seed": number, "accuracy": hits.mean(),
                             "balanced_accuracy": hits.mean(), "status": "ok", "seconds": 2.0,
                             "device": "cpu", "penalty": 0.01, "test_examples": examples, "row": len(bits)}
                        )  # fmt: skip
                        bits.append(np.packbits(hits))
            correct[f"{source}|{target}"] = np.array(bits)
            for name, noise in selectors.items():
                for repeat in range(3 if name.startswith("random") else 1):
                    values = level + noise * level.std() * rng.normal(size=epochs)
                    scores += [
                        {"source": source, "target": target, "epoch": epoch, "selector": name,
                         "repeat": repeat, "score": values[epoch], "status": "ok", "seconds": 0.02,
                         "origin": "built in"}
                        for epoch in range(epochs)
                    ]  # fmt: skip
            extraction += [
                {"source": source, "target": target, "split": split, "epoch": epoch, "examples": 100,
                 "seconds": 1.5, "bytes": 1000}
                for split in ("train", "test") for epoch in range(epochs)
            ]  # fmt: skip
    computed = (Computed("truth", "abc1234", "cpu", "AVX2", "fp32", "2.9", len(truth)),)
    Results(
        suite or fake_suite(protocols, sources, targets),
        make_table("scores", scores),
        make_table("truth", truth),
        make_table("checkpoints", checkpoints),
        make_table("extraction", extraction),
        correct,
        Provenance("fake", DIGEST, {"python": "3.11"}, computed, {"truth": 10.0}),
    ).write(folder)
    return folder


def fake_suite(protocols: tuple[tuple[str, str], ...], sources: int = 1, targets: int = 1) -> Suite:
    """A suite with protocols of these names and goals."""
    training = Training(lr=0.01)
    return Suite(
        name="fake",
        title="A fake suite",
        note="Simulated, not measured.",
        sources=tuple(
            Source(name=f"run{s}", architecture="resnet18", checkpoints="x") for s in range(sources)
        ),
        targets=tuple(TargetSpec(name=f"target{t}", data=Data(name="digits")) for t in range(targets)),
        fe=tuple(
            FE(name=name, part=goal.partition("-")[2] or "all") for name, goal in protocols if goal != "ft"
        ),
        ft=tuple(FT(name=name, epochs=10, training=training) for name, goal in protocols if goal == "ft"),
    )


def edit(folder: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Apply ``change`` to one table as if the stages had written it so: the manifest fits."""
    path = folder / f"{name}.csv"
    change(table_from_csv(name, path.read_bytes(), path)).to_csv(path, index=False)
    sign(folder, path.name)


def sign(folder: Path, name: str) -> None:
    """Let the manifest fit a file that a test has written."""
    files = read_json(folder / MANIFEST)["files"]
    write_json(folder / MANIFEST, {"files": files | {name: checksum(folder / name)}})
