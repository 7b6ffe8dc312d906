"""Answers that were given before: found again by what they rest on, without opening any of it.

An answer rests on files (checkpoints, data, plugins, this package's own), each known by its path, size and
time of change, and on what was said. What is in memory is not remembered.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from ckptbench.base.digests import digest
from ckptbench.base.folders import PACKAGE, plugin_folders, results_roots
from ckptbench.base.types import Key
from ckptbench.ranking.options import Options, is_path

Mark = tuple[str, int, int]
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "datasets")


def question(checkpoints: Any, data: Any, options: Options) -> Key | None:
    """The key of an answer; None where something is in memory, or not there."""
    listed = [checkpoints] if is_path(checkpoints) else checkpoints
    if not isinstance(listed, list | tuple) or not all(map(is_path, [*listed, data])):
        return None
    if options.groups is not None and not is_path(options.groups):
        return None
    extra = [one for one in os.environ.get("CKPTBENCH_PLUGINS", "").split(os.pathsep) if one]
    records = [path for root in results_roots() for path in root.glob("record.csv")]
    own = [PACKAGE, *plugin_folders("extractors"), *plugin_folders("selectors"), *records]
    try:
        paths = [*listed, *options.plugins, *extra, *own]
        files = [mark for path in paths for mark in marks(Path(path).expanduser())]
        files += _data_marks(str(data))
        if options.groups is not None and Path(options.groups).is_file():
            files += marks(Path(options.groups))
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return None
    return {
        "what": "answer/1",
        "asked": {**asdict(options), "checkpoints": [str(one) for one in listed], "data": str(data)},
        "files": digest(files),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Of the libraries that networks come from, and of packages that bring plugins."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    for group in ("ckptbench.extractors", "ckptbench.selectors", "ckptbench.readers"):
        found |= {entry.dist.name: entry.dist.version for entry in entry_points(group=group) if entry.dist}
    return found


def marks(path: Path) -> Iterator[Mark]:
    """(path, size, time of change) of a file, or of every file below a folder; links are followed once."""
    if not path.is_dir():
        yield _mark(os.path.abspath(path))
        return
    seen: set[tuple[int, int]] = set()
    for folder, inside, names in os.walk(os.path.abspath(path), followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen or os.path.basename(folder) == "__pycache__":
            inside.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        inside.sort()
        for name in sorted(names):
            yield _mark(os.path.join(folder, name))


def _mark(path: str) -> Mark:
    facts = os.stat(path)
    return path.encode("utf-8", "backslashreplace").decode(), facts.st_size, facts.st_mtime_ns


def _data_marks(text: str) -> list[Mark]:
    name = text.partition("?")[0]
    path = Path(name).expanduser()
    if path.exists():
        is_table = path.suffix in (".csv", ".tsv") and path.is_file()  # not a pipe
        return [*marks(path), *(_marks_of_table(path) if is_table else ())]
    from ckptbench.data.raw import data_root

    reader, _, rest = name.partition(":")
    if reader == "folder":
        return list(marks(data_root() / rest.partition("*")[0]))
    # A published set, which nobody changes inside: what there is, and since when.
    entries = sorted(data_root().glob("*")) if data_root().is_dir() else []
    return [_mark(os.path.abspath(entry)) for entry in entries]


def _marks_of_table(path: Path) -> Iterator[Mark]:
    """Of the images that a table names."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","):
            if row.get("path"):
                yield _mark(os.path.join(os.path.abspath(path.parent), row["path"]))
