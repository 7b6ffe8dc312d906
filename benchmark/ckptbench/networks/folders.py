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


@dataclass(frozen=True)
class Entry:
    """A checkpoint's file, or its folder of shards, and its place in time."""

    path: Path
    epoch: int


@dataclass(frozen=True)
class Content:
    """What a file holds: a digest of its tensors, and the epoch and step that it says it is of."""

    digest: str
    facts: dict[str, int]


def content_of(path: Path) -> Content:
    content = read_file(path)
    return Content(_digest(content), facts_of(content))


def find_checkpoints(
    where: Path | Sequence[Path],
    pattern: str | None = None,
    read: Callable[[Path], Content] = content_of,
) -> tuple[list[Entry], list[str]]:
    """The checkpoints of a folder (or a file, or a list of them) in epoch order.

    Parameters
    ----------
    pattern : a regular expression whose group finds the epoch in a name
    read : what a file holds, where its name does not say it; a caller may remember that

    Returns
    -------
    The checkpoints, and a sentence on each file that was left out.

    Raises
    ------
    InputError
        If there is no checkpoint, the pattern finds nothing in a name, or two files are of one epoch.
    """
    paths = _listed(where)
    if pattern is not None:
        return _distinct([Entry(path, _matched(pattern, path)) for path in paths]), []
    if not isinstance(where, Path) or len(paths) == 1:
        numbered = [Entry(path, n) for n, path in enumerate(paths)]
        named = number_of(paths[0].stem, "epoch") if len(paths) == 1 else None
        return ([Entry(paths[0], named)] if named is not None else numbered), []
    aliases = [path for path in paths if _ALIAS.search(path.stem) and number_of(path.stem, "epoch") is None]
    proper = [path for path in paths if path not in aliases]
    if not proper:
        proper, aliases = paths, []
    entries, notes = _numbered(proper, read)
    for path in aliases:
        entry, note = _matched_alias(path, entries, read)
        entries += [entry] if entry else []
        notes += [note] if note else []
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


def _numbered(paths: list[Path], read: Callable[[Path], Content]) -> tuple[list[Entry], list[str]]:
    for what in ("epoch", "step"):
        numbers = [number_of(path.stem, what) for path in paths]
        if None not in numbers:
            return [Entry(path, n) for path, n in zip(paths, numbers, strict=True) if n is not None], []
        if any(n is not None for n in numbers):
            return _with_content(paths, numbers, what, read)
    tokens = [_NUMBER.findall(path.stem) for path in paths]
    if len({len(own) for own in tokens}) == 1:
        for column in zip(*tokens, strict=True):
            if len({int(n) for n in column}) == len(paths):
                return [Entry(path, int(n)) for path, n in zip(paths, column, strict=True)], []
    return [Entry(path, n) for n, path in enumerate(paths)], []


def _with_content(
    paths: list[Path], numbers: list[int | None], what: str, read: Callable[[Path], Content]
) -> tuple[list[Entry], list[str]]:
    """Names without a number among names with one: what the file itself says, else it is left out."""
    entries, notes = [], []
    for path, number in zip(paths, numbers, strict=True):
        own = number if number is not None else read(path).facts.get(what)
        if own is None:
            notes.append(f"{path.name} has no {what} in its name nor in it, as others there do: left out")
        else:
            entries.append(Entry(path, own))
    return entries, notes


def _matched_alias(
    path: Path, entries: list[Entry], read: Callable[[Path], Content]
) -> tuple[Entry | None, str]:
    """A ``last`` or ``best`` file: the copy of another, or of the epoch that it says."""
    try:
        content = read(path)
    except InputError as error:
        return None, f"{error}: left out"
    for entry in entries:
        try:
            same = read(entry.path).digest == content.digest
        except InputError:  # said where it is loaded
            continue
        if same:
            return None, f"{path.name} holds the weights of epoch {entry.epoch}"
    epoch = content.facts.get("epoch")
    if epoch is None:
        return None, f"{path.name} does not say its epoch and equals no other: left out"
    if epoch in {entry.epoch for entry in entries}:
        return None, f"{path.name} says it is of epoch {epoch}, of which there is another file: left out"
    return Entry(path, epoch), ""


def _digest(content: object) -> str:
    """Of all tensors in a file by name, whatever else it holds."""
    return digest([[path, tensors_digest(state)] for path, state in state_dicts(content)])


def _distinct(entries: list[Entry]) -> list[Entry]:
    by_epoch: dict[int, Entry] = {}
    for entry in entries:
        other = by_epoch.setdefault(entry.epoch, entry)
        if other is not entry:
            raise InputError(
                f"{other.path.name} and {entry.path.name} are both of epoch {entry.epoch}: "
                "move one, or say with --pattern where the epoch is in the names"
            )
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
