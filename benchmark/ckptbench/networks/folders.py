"""The checkpoints in a folder, and the epoch of each, from their names or from what they say themselves.

``step_5000_epoch_4.pt`` is of epoch 4; in ``acc0.41.pt`` there is no epoch; ``last.ckpt`` and ``best.ckpt``
are matched to their epoch by what is in them. Where no name has an epoch, steps are taken, else the one
number that differs from file to file, else the order of the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.networks.layouts import facts_of, read_file, state_dicts, tensors_digest, weight_files

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
# What trainers leave beside the weights.
_OTHER = re.compile(
    r"^(\.|resume|optimizer|optim_|scheduler|training_args|rng_state|scaler|random_states|trainer_state)"
)
_EPOCH = re.compile(r"(?<![a-z])(?:epochs?|ep|e)[-_=. ]*(\d+)", re.IGNORECASE)
_STEP = re.compile(
    r"(?<![a-z])(?:(?:global[-_ ]?)?steps?|iterations?|iters?|it|checkpoint|ckpt|s)[-_=. ]*(\d+)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\d.])\d+(?!\d*\.\d)(?!\d)")
_ALIAS = re.compile(r"last|best|final|latest", re.IGNORECASE)


Entries = list[tuple[int, Path]]
"""Checkpoints' files, or folders of shards, with their epochs."""


@dataclass(frozen=True)
class Content:
    """What a file holds: a digest of its tensors, and the epoch and step that it says it is of."""

    digest: str
    facts: dict[str, int]


def content_of(path: Path) -> Content:
    content = read_file(path)
    return Content(_digest(content), facts_of(content))


Read = Callable[[Path], Content]


def find_checkpoints(
    where: Path | Sequence[Path], pattern: str | None = None, read: Read = content_of
) -> tuple[dict[int, Path], list[str]]:
    """The checkpoints of a folder (or a file, or a list of them) by epoch, in epoch order.

    Parameters
    ----------
    pattern : a regular expression whose group finds the epoch in a name
    read : what a file holds, where its name does not say it; a caller may remember that

    Returns
    -------
    Each epoch's file or folder of shards, and a sentence on each file that was left out.

    Raises
    ------
    InputError
        If there is no checkpoint, the pattern finds nothing in a name, or two files are of one epoch.
    """
    paths = _listed(where)
    if pattern is not None:
        return _distinct([(_matched(pattern, path), path) for path in paths]), []
    if len(paths) == 1:
        return {number_of(paths[0].stem, "epoch") or 0: paths[0]}, []
    if not isinstance(where, Path):
        return dict(enumerate(paths)), []
    aliases = [path for path in paths if _ALIAS.search(path.stem) and number_of(path.stem, "epoch") is None]
    proper = [path for path in paths if path not in aliases]
    if not proper:
        proper, aliases = paths, []
    entries, notes = _numbered(proper, read)
    for path in aliases:
        _add_alias(path, entries, notes, read)
    return _distinct(entries), notes


def _listed(where: Path | Sequence[Path]) -> list[Path]:
    if not isinstance(where, Path):
        return list(where)
    if not where.exists():
        raise InputError(f"there is no folder of checkpoints {where}")
    if where.is_file():
        return [where]
    paths = [path for path in sorted(where.iterdir()) if is_checkpoint(path)]
    if any(path.name in ("model.safetensors", "pytorch_model.bin") or "-of-" in path.name for path in paths):
        return [where]  # one model of Hugging Face's, not a folder of them
    if not paths:
        raise InputError(f"{where} holds no checkpoint: files should end in {', '.join(SUFFIXES)}")
    return paths


def is_checkpoint(path: Path) -> bool:
    """Whether a file or folder is one, by its name."""
    if _OTHER.search(path.name):
        return False
    return bool(weight_files(path)) if path.is_dir() else path.is_file() and path.suffix in SUFFIXES


def number_of(stem: str, what: str) -> int | None:
    """The epoch or the step that a name says, or None."""
    found = (_EPOCH if what == "epoch" else _STEP).search(stem)
    return int(found[1]) if found else None


def _matched(pattern: str, path: Path) -> int:
    try:
        return int(re.search(pattern, path.name)[1])  # type: ignore[index]
    except (TypeError, IndexError, ValueError):
        raise InputError(
            f"the pattern {pattern!r} finds no number in {path.name}: its group should"
        ) from None
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from None


def _numbered(paths: list[Path], read: Read) -> tuple[Entries, list[str]]:
    for what in ("epoch", "step"):
        numbers = {path: number_of(path.stem, what) for path in paths}
        if any(number is not None for number in numbers.values()):
            return _with_content(numbers, what, read)
    tokens = [_NUMBER.findall(path.stem) for path in paths]
    if len({len(own) for own in tokens}) == 1:
        for column in zip(*tokens, strict=True):
            if len({int(n) for n in column}) == len(paths):
                return [(int(n), path) for n, path in zip(column, paths, strict=True)], []
    return list(enumerate(paths)), []


def _with_content(numbers: dict[Path, int | None], what: str, read: Read) -> tuple[Entries, list[str]]:
    """Names without a number among names with one: what the file itself says, else it is left out."""
    entries, notes = [], []
    for path, number in numbers.items():
        own = number if number is not None else read(path).facts.get(what)
        if own is None:
            notes.append(f"{path.name} has no {what} in its name nor in it, as others there do: left out")
        else:
            entries.append((own, path))
    return entries, notes


def _add_alias(path: Path, entries: Entries, notes: list[str], read: Read) -> None:
    """A ``last`` or ``best`` file: the copy of another, or of the epoch that it says."""
    try:
        content = read(path)
    except InputError as error:
        notes.append(f"{error}: left out")
        return

    def is_same(other: Path) -> bool:
        try:
            return read(other).digest == content.digest
        except InputError:  # said where it is loaded
            return False

    epoch = content.facts.get("epoch")
    same = next((number for number, other in entries if is_same(other)), None)
    if same is not None:
        notes.append(f"{path.name} holds the weights of epoch {same}")
    elif epoch is None:
        notes.append(f"{path.name} does not say its epoch and equals no other: left out")
    elif epoch in dict(entries):
        notes.append(f"{path.name} says it is of epoch {epoch}, of which there is another file: left out")
    else:
        entries.append((epoch, path))


def _digest(content: object) -> str:
    """Of all tensors in a file by name, whatever else it holds."""
    return digest([[place, tensors_digest(state)] for place, state in state_dicts(content)])


def _distinct(entries: Entries) -> dict[int, Path]:
    by_epoch: dict[int, Path] = {}
    for epoch, path in sorted(entries, key=lambda entry: entry[0]):
        other = by_epoch.setdefault(epoch, path)
        if other is not path:
            raise InputError(
                f"{other.name} and {path.name} are both of epoch {epoch}: "
                "move one, or say with --pattern where the epoch is in the names"
            )
    return by_epoch
