"""Source runs on disk: the checkpoints of a folder as a trajectory, held against the record of the run.

``run.json`` is written by ``ckptbench pretrain``; it names every checkpoint with its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.files import read_json
from ckptbench.base.types import Checkpoint
from ckptbench.networks.folders import Content, content_of, find_checkpoints
from ckptbench.networks.layouts import weight_files

RUN_FILE = "run.json"
RESUME_PREFIX = "resume"


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
    record = (folder if folder.is_dir() else folder.parent) / RUN_FILE
    facts = _record(record) if record.is_file() else {}
    if facts and folder.is_dir():
        gone = sorted(name for name in facts if not (folder / name).is_file())
        if gone:
            raise InputError(
                f"checkpoint {folder / gone[0]} is gone, which {record} names: restore it, or delete its "
                "folder to train the run again"
            )
    entries, notes = find_checkpoints(where, pattern, read)
    run = name or folder.resolve().name
    trajectory = []
    for entry in entries:
        fact = facts.get(entry.path.name, {})
        found = digest_of(entry.path)
        if fact and fact.get("digest") != found:
            raise InputError(
                f"checkpoint {entry.path} is damaged: its bytes are not those that {record} names; "
                "restore it, or delete its folder to train the run again"
            )
        accuracy = fact.get("source_accuracy")
        trajectory.append(Checkpoint(run, entry.epoch, architecture, found, entry.path, accuracy))
    return trajectory, notes


def _record(path: Path) -> dict[str, dict[str, Any]]:
    """What ``run.json`` says of each file."""
    try:
        return {row["file"]: row for row in read_json(path)["checkpoints"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: delete its folder to train the run again") from None
