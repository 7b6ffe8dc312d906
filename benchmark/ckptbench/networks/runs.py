"""Source runs: what one hangs on, its folder, its record, and the trajectory of its checkpoints.

``run.json`` is written by ``ckptbench pretrain``; it names every checkpoint with its digest, and says how
training went.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.files import read_json
from ckptbench.base.store import Store
from ckptbench.base.types import Checkpoint, Key, Target
from ckptbench.networks.architectures import Architecture, find_architecture
from ckptbench.networks.extract import IMAGENET, Normalisation
from ckptbench.networks.folders import Content, content_of, find_checkpoints
from ckptbench.networks.hardware import Precision, machine, resolve_precision
from ckptbench.networks.layouts import weight_files
from ckptbench.plugins import PluginSpec, load_plugins
from ckptbench.suites import Source

PRETRAIN_VERSION = 4  # raised when the same source run ends with other weights
RUN_FILE = "run.json"
SOON = 0.1  # of the run's epochs, but at least three: until then the loss must be below that of guessing
COLLAPSE = 0.5  # of the best training accuracy so far


def normalisation(source: Source) -> Normalisation:
    """The pixel statistics a source run was trained with: as declared, else ImageNet's."""
    return source.mean or IMAGENET[0], source.std or IMAGENET[1]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A source run with everything found that its weights hang on; ``data`` is None for given checkpoints."""

    source: Source
    data: Target | None
    architecture: Architecture
    objective: PluginSpec
    device: torch.device
    compile: bool = False

    @property
    def key(self) -> Key:
        """All that changes the weights. Defaults are left out: a new option orphans no run without it."""
        source = self.source
        training = source.training
        named = ("name", "judge", "learnt", "checkpoints", "data", "architecture", "objective")
        exclude: Any = {**dict.fromkeys(named, True), "training": {"precision"}}
        declared = source.model_dump(mode="json", exclude=exclude, exclude_defaults=True)
        return {
            "what": f"run/{PRETRAIN_VERSION}",
            **declared,
            "architecture": source.architecture,
            "extractor": self.architecture.extractor_digest,
            "objective": [self.objective.label, self.objective.digest],
            "data": self.data.digest if self.data else None,
            "precision": resolve_precision(training.precision, self.device) if training else None,
            "compile": self.compile,
            "threads": 1 if self.device.type == "cpu" else None,
            **machine(self.device),
        }

    def folder(self, store: Store) -> Path:
        if self.source.checkpoints is not None:
            return Path(self.source.checkpoints)
        return store.run_folder(self.key, self.source.name)

    @property
    def precision(self) -> Precision:
        """That the network is trained in."""
        assert self.source.training is not None
        return resolve_precision(self.source.training.precision, self.device)


def find_run(
    source: Source,
    data: Target | None,
    device: torch.device,
    plugins: Sequence[str] = (),
    compile: bool = False,
) -> Run:
    """The run that a suite's source stands for, its architecture and objective found among the plugins."""
    return Run(
        source=source,
        data=data,
        architecture=find_architecture(source.architecture, load_plugins("extractor", plugins)),
        objective=load_plugins("objective", plugins)[source.objective],
        device=device,
        compile=compile,
    )


def file_digest(path: Path) -> str:
    """Of a file's bytes, or of the weight files in a folder together."""
    if path.is_dir():
        return digest([[file.name, file_digest(file)] for file in weight_files(path)])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_run(
    where: Path | Sequence[Path],
    architecture: str,
    name: str | None = None,
    pattern: str | None = None,
    digest_of: Callable[[Path], str] = file_digest,
    read: Callable[[Path], Content] = content_of,
) -> tuple[list[Checkpoint], list[str]]:
    """The trajectory in a folder, in epoch order, and a sentence on each file that was left out.

    Source accuracies come from ``run.json`` where ``ckptbench pretrain`` wrote one.

    Parameters
    ----------
    where : a folder of checkpoints, one file, or files in the order of time
    pattern : a regular expression whose group finds the epoch in a file's name
    digest_of, read : of a file's bytes, and what it holds; a caller may remember them

    Raises
    ------
    InputError
        If there is no checkpoint, two files are of one epoch, or the record of the run names a file that is
        gone or has other bytes.
    """
    folder = where if isinstance(where, Path) else where[0].parent
    named_in = folder if folder.is_dir() else folder.parent
    record = named_in / RUN_FILE
    facts = {row["file"]: row for row in read_record(named_in).get("checkpoints", ())}
    gone = [file for file in sorted(facts) if folder.is_dir() and not (folder / file).is_file()]
    if gone:
        raise InputError(
            f"checkpoint {folder / gone[0]} is gone, which {record} names: restore it, or delete its "
            "folder to train the run again"
        )
    entries, notes = find_checkpoints(where, pattern, read)
    run = name or folder.resolve().name
    checkpoints = []
    for epoch, path in entries.items():
        fact = facts.get(path.name, {})
        found = digest_of(path)
        if fact and fact.get("digest") != found:
            raise InputError(
                f"checkpoint {path} is damaged: its bytes are not those that {record} names; "
                "restore it, or delete its folder to train the run again"
            )
        checkpoints.append(Checkpoint(run, epoch, architecture, found, path, fact.get("source_accuracy")))
    return checkpoints, notes


def trajectory(source: Source, folder: Path) -> list[Checkpoint]:
    """The checkpoints of a run that the suite judges.

    Raises
    ------
    InputError
        If an epoch that the suite names has no checkpoint.
    """
    checkpoints, _ = read_run(folder, source.architecture, source.name)
    if source.judge is None:
        return checkpoints
    by_epoch = {checkpoint.epoch: checkpoint for checkpoint in checkpoints}
    absent = [epoch for epoch in source.judge if epoch not in by_epoch]
    if absent:
        raise InputError(f"source {source.name} has no checkpoint of epoch {absent[0]} in {folder}")
    return [by_epoch[epoch] for epoch in source.judge]


def read_record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says; nothing for a folder of somebody's own, which has none.

    Raises
    ------
    InputError
        If it is damaged.
    """
    path = folder / RUN_FILE
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise InputError(f"{path} is damaged: delete its folder to train the run again") from None


def last_epoch(folder: Path) -> tuple[int, float]:
    """The last epoch whose checkpoint a run has and its source accuracy; -1 and 0 where it has none."""
    try:
        row = read_json(folder / RUN_FILE)["checkpoints"][-1]
        return int(row["epoch"]), float(row["source_accuracy"])
    except (OSError, ValueError, KeyError, IndexError):
        return -1, 0.0


def soundness(record: dict[str, Any], source: Source) -> str:
    """Why a source run is not sound by its record; "" where it is, or where there is no record of training.

    A sound run is whole; its training loss is below that of guessing from a tenth of its epochs on (from the
    third where that is later); its training accuracy never falls below half of the best so far, and ends at
    ``source.learnt`` or above. Both are measured at what the run learns, on the batches as they come.
    """
    rows = [row for row in record.get("checkpoints", ()) if row["epoch"] > 0]
    if record and source.epochs is not None and len(rows) < source.epochs:
        return f"it has {len(rows)} of its {source.epochs} epochs"
    best = 0.0
    for row in rows:
        epoch, loss, accuracy = row["epoch"], row["training_loss"], row["training_accuracy"]
        if epoch >= max(3, round(SOON * len(rows))) and loss >= record["guess"]:
            return f"its training loss is {loss:.2f} in epoch {epoch}, and guessing has {record['guess']:.2f}"
        if accuracy < COLLAPSE * best:
            return f"its training accuracy falls from {best:.0%} to {accuracy:.0%} in epoch {epoch}"
        best = max(best, accuracy)
    if rows and rows[-1]["training_accuracy"] < source.learnt:
        reached = rows[-1]["training_accuracy"]
        return f"its training accuracy ends at {reached:.0%}, and {source.learnt:.0%} was expected"
    return ""
