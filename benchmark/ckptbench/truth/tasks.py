"""Ground truth: test accuracy of one checkpoint on one target under one protocol and one seed.

FE (a softmax head on frozen features, ``probe``) is one task a checkpoint, with a cell a seed; each seed
has a head of its own for all penalties, since one head for all seeds, by weights on the union of their
rows, took as long where seeds draw 80 % of one set and four times as long on five disjoint sets. FT (the
whole network, ``finetune``) is one task a seed, and where a suite asks for it the FE truth of the
fine-tuned network's features with it, which only that process ever holds. Every cell keeps the
correctness of each test example, packed to bits, so that differences can be tested in pairs. A cell that
diverges, runs out of memory or raises is recorded as failed with its message, and computed again on the
next run.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.types import Array, Cell, Checkpoint, Key, Target, Task
from ckptbench.data.targets import load_target
from ckptbench.plugins import PluginSpec, load_plugins
from ckptbench.suites import FE, FT, Data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ckptbench.networks.architectures import Architecture
    from ckptbench.networks.extract import Normalisation
    from ckptbench.truth.probe import ProbeResult

    Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


# What addresses cached cells: bumped when a number of tests/golden moves.
FE_VERSION = "fe/3"
FT_VERSION = "ft/5"


def pack(correct: Array) -> str:
    """Per-example correctness (bool, T) as text: packed bits in base64."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str, count: int) -> Array:
    """The bool array of length ``count`` that ``pack`` was given."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def protocol_key(protocol: FE | FT) -> Key:
    """What of a protocol changes a cell's value: not its name, nor how many seeds or which epochs.

    Defaults are left out, so that a new option does not orphan what was computed without it; a changed
    default therefore needs a new version. Penalties are in the key as specs, precision as it was resolved.
    """
    exclude = {"name", "seeds", "epochs_judged", "targets", "assumed", "after", "penalties"}
    key = protocol.model_dump(mode="json", exclude=exclude, exclude_defaults=True)
    key.get("training", {}).pop("precision", None)
    return key


def of_task(task: Task) -> Key:
    """The part of a key that says what the labels are; nothing where they are classes."""
    return {} if task == "classification" else {"task": task}


@dataclass(frozen=True)
class Split:
    """The labels of a split's examples, and the key of their features in the store."""

    features: Key
    labels: Array


@dataclass(frozen=True, kw_only=True)
class FETask(CellTask):
    """All seeds of one (checkpoint, target, FE protocol)."""

    checkpoint: Checkpoint
    target: str
    protocol: FE
    train: Split
    test: Split
    pool: Split | None
    n_classes: int
    task: Task = "classification"

    @property
    def name(self) -> str:
        return f"{self.protocol.name} {self.target} {self.checkpoint.run} epoch {self.checkpoint.epoch}"

    @property
    def protocols(self) -> list[FE | FT]:
        """Each cell's."""
        return [self.protocol] * self.protocol.seeds

    def cell_keys(self) -> list[Key]:
        """One cell's key per seed."""
        common = {
            "what": FE_VERSION,
            "protocol": protocol_key(self.protocol),
            "target": self.target,  # its name: the draws hang on it
            "train": self.train.features,
            "test": self.test.features,
            "pool": self.pool.features if self.pool else None,
        } | of_task(self.task)
        return [{**common, "seed": seed} for seed in range(self.protocol.seeds)]

    def lock_key(self) -> Key:
        return {"fe": self.cell_keys()[0]}

    def compute(self, store: Store, missing: Sequence[Key]) -> list[Cell]:
        from ckptbench.truth.columns import column_probe
        from ckptbench.truth.probe import fe_truth

        train, test = self._read(store, self.train), self._read(store, self.test)
        pool = self._read(store, self.pool) if self.pool else None
        if self.task != "classification":
            cells = []
            for key in missing:
                began = time.perf_counter()
                value = column_probe(train, test, self.task, self.protocol, key["seed"], pool, self.target)
                cells.append(Cell(key, "ok", value, "", time.perf_counter() - began))
            return cells
        results = fe_truth(
            *train,
            *test,
            self.n_classes,
            self.protocol,
            [key["seed"] for key in missing],
            pool=pool,
            name_parts=(self.target,),
        )
        return [_fe_cell(key, result) for key, result in zip(missing, results, strict=True)]

    def _read(self, store: Store, split: Split) -> tuple[Array, Array]:
        features = store.read_features(split.features)
        if features is None:
            raise InputError(
                f"features of {self.checkpoint.run} epoch {self.checkpoint.epoch} on {self.target} are "
                "missing from the store: extract again"
            )
        return features, split.labels


def _fe_cell(key: Key, result: ProbeResult) -> Cell:
    extra = {
        "balanced_accuracy": result.balanced_accuracy,
        "penalty": result.penalty,
        "gradient": result.gradient,
        "edge": result.edge,
        "test_examples": len(result.correct),
        "correct": pack(result.correct),
    }
    return Cell(key, "ok", result.accuracy, "", result.seconds, extra)


@dataclass(frozen=True, kw_only=True)
class FTTask(CellTask):
    """One fine-tuning run: (checkpoint, target, FT protocol, seed), and the FE protocols ``after`` it.

    ``facts`` says where the network runs (``networks.hardware.machine``) and in which precision;
    ``extractor`` is the digest of the plugin that builds the network.
    """

    checkpoint: Checkpoint
    target: str
    protocol: FT
    penalties: tuple[PluginSpec, ...]
    data: Data
    data_digest: str
    seed: int
    architecture: str
    extractor: str
    layer: str | None
    normalisation: Normalisation
    device: str
    facts: Mapping[str, str]
    plugins: tuple[str, ...] = ()
    compile: bool = False
    after: tuple[FE, ...] = ()

    @property
    def protocols(self) -> list[FE | FT]:
        """Each cell's."""
        return [self.protocol, *self.after]

    @property
    def name(self) -> str:
        at = f"{self.checkpoint.run} epoch {self.checkpoint.epoch} seed {self.seed}"
        return f"{self.protocol.name} {self.target} {at}"

    def machine(self) -> dict[str, str]:
        return dict(self.facts)

    def lock_key(self) -> Key:
        """The key of the fine-tuned network and its accuracy."""
        return {
            "what": FT_VERSION,
            "protocol": protocol_key(self.protocol),
            "penalties": [[spec.label, spec.digest] for spec in self.penalties],
            "weights": self.checkpoint.digest,
            "architecture": self.architecture,
            "extractor": self.extractor,
            "layer": self.layer,
            "normalisation": self.normalisation,
            "target": [self.target, self.data_digest],  # the draws hang on the name
            "seed": self.seed,
            "machine": self.machine(),
            "threads": 1 if self.device == "cpu" else None,
            "compile": self.compile,
        } | of_task(self.data.task)

    def cell_keys(self) -> list[Key]:
        key = self.lock_key()
        common = {"what": FE_VERSION, "ft": key, "seed": self.seed}
        return [key, *({**common, "protocol": protocol_key(protocol)} for protocol in self.after)]

    def features_key(self) -> Key | None:
        """Of the train split's features after fine-tuning, kept for a map: of the first seed alone."""
        return {"what": "ft-features", "ft": self.lock_key()} if self.after and self.seed == 0 else None

    def missing(self, store: Store) -> list[Key]:
        """All cells where the features after fine-tuning are damaged: only fine-tuning gives them again."""
        left = super().missing(store)
        kept = self.features_key()
        if left or (kept is not None and store.read_features(kept) is None):
            return self.cell_keys()
        return []

    def compute(self, store: Store, missing: Sequence[Key]) -> list[Cell]:
        import torch

        from ckptbench.networks.hardware import machine
        from ckptbench.truth.finetune import finetune

        device = torch.device(self.device)
        here = machine(device)
        if not here.items() <= self.facts.items():
            raise InputError(f"this worker is another machine ({here}) than the run began on ({self.facts})")
        if self.checkpoint.path is None:
            raise InputError(f"checkpoint {self.checkpoint.run} epoch {self.checkpoint.epoch} has no file")
        if self.after and self.data.task != "classification":
            raise InputError(f"FE after fine-tuning is not defined for the task {self.data.task}")
        target, tensors = _target_on(self.data, self.target, self.device)
        if target.digest != self.data_digest:
            raise InputError(f"target {self.target} changed on disk since this run began: start again")
        architecture, network, head = _network(
            self.architecture, self.layer, self.plugins, self.checkpoint.path, self.device
        )
        result = finetune(
            network,
            head,
            architecture.load(self.checkpoint.path)[0].state_dict(),
            *self.examples(*tensors),
            n_classes=len(target.classes),
            protocol=self.protocol,
            penalties=[spec.make() for spec in self.penalties],
            # Not the checkpoint: all of a track are compared on the same draws.
            seed=derive_seed("ft", self.target, self.seed),
            mean=self.normalisation[0],
            std=self.normalisation[1],
            device=device,
            compile=self.compile,
            features=bool(self.after),
            task=self.data.task,
        )
        extra: dict[str, Any] = {"deviation": result.deviation, "loss": result.final_loss}
        if result.correct is not None:
            extra |= {
                "balanced_accuracy": result.balanced_accuracy,
                "test_examples": len(result.correct),
                "correct": pack(result.correct),
            }
        cell = Cell(missing[0], "ok", result.accuracy, result.note, result.seconds, extra)
        if result.features is None:
            return [cell]
        return [cell, *self._after(store, missing[1:], target, *result.features)]

    def examples(self, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor) -> Tensors:
        """Images and labels to train on, then those to measure."""
        return images, labels, test_images, test_labels

    def _after(
        self, store: Store, keys: Sequence[Key], target: Target, train: Array, test: Array
    ) -> list[Cell]:
        """The FE truths of the features that the fine-tuned network gives."""
        from ckptbench.truth.probe import fe_truth

        kept = self.features_key()
        if kept is not None:
            store.write_features(kept, [train], train.shape, np.float16, 0.0)
        cells = []
        for key, protocol in zip(keys, self.after, strict=True):
            (result,) = fe_truth(
                train,
                target.train.labels,
                test,
                target.test.labels,
                len(target.classes),
                protocol,
                [self.seed],
                name_parts=(self.target,),
            )
            cells.append(_fe_cell(key, result))
        return cells


@lru_cache(maxsize=2)
def _target_on(data: Data, name: str, device: str) -> tuple[Target, Tensors]:
    """A target with its images on the device as uint8, decoded once per worker."""
    import torch

    from ckptbench.networks.training import on_device

    target, where = load_target(data, name), torch.device(device)
    return target, (*on_device(target.train, where), *on_device(target.test, where))


_networks: dict[tuple[object, ...], tuple[Architecture, nn.Module, str]] = {}


def _network(
    spec: str, layer: str | None, plugins: tuple[str, ...], path: Path, device: str
) -> tuple[Architecture, nn.Module, str]:
    """One network object per architecture and worker, and its head's name; its weights are overwritten."""
    from ckptbench.networks.architectures import find_architecture

    key = (spec, layer, plugins, device)
    if key not in _networks:
        architecture = find_architecture(spec, load_plugins("extractor", plugins), layer)
        network, _ = architecture.load(path)
        _networks[key] = (architecture, network, architecture.head_name(network))
    return _networks[key]
