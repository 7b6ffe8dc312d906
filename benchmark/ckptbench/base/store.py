"""The store: features, heads and cells on disk, addressed by a digest of all that changes them.

A file is written to a temporary name in its own folder, flushed, and renamed, so a reader never
sees half of one and a killed run goes on where it stopped. A lock per key (dropped with its process)
keeps two processes from computing one thing twice. Every file holds its key, which is compared with the one
asked for: a file under another's name is damaged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic, checksum, make_folder, read_json, write_json
from ckptbench.base.folders import commit
from ckptbench.base.types import Array, Cell, Float, Key

ENVIRONMENT = "CKPTBENCH_STORE"


class Store:
    """A folder of features, heads, cells and source runs.

    ``root`` defaults to ``CKPTBENCH_STORE``, else ``.ckptbench`` in the current folder. A file that is
    damaged counts as missing and is named in ``damaged``; whoever computes it again replaces it, so no
    reader ever removes what another process may just have written.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root or os.environ.get(ENVIRONMENT) or ".ckptbench").absolute()
        self.damaged: list[str] = []
        self._read: dict[str, Cell] = {}  # cells that are ok stay so: each is read and checked once

    def report(self, path: Path, why: object) -> None:
        """Name a damaged file, once."""
        line = f"{path}: {why}"
        if line not in self.damaged:
            self.damaged.append(line)

    def run_folder(self, key: Key, name: str) -> Path:
        """Where a source run keeps its checkpoints."""
        return self.root / "runs" / f"{name}-{digest(key)}"

    def _read_keyed(self, path: Path) -> dict[str, Any] | None:
        """What ``write_json`` wrote of this key, or None where it is missing, damaged or of another key."""
        try:
            facts = read_json(path)
            if digest(facts.get("key")) != path.stem:
                raise ValueError("it holds the number of another key")
            return facts
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            self.report(path, error)
            return None

    # Features: one .npy per (checkpoint, target, split) beside a JSON sidecar with key and checksum.

    def _features_path(self, key: Key) -> Path:
        name = digest(key)
        return self.root / "features" / name[:2] / f"{name}.npy"

    def read_features(self, key: Key, verify: bool = True) -> Array | None:
        """The stored array as a read-only memory map, or None where it is missing or damaged."""
        path, facts = self._features_path(key), self.features_facts(key)
        if facts is None:
            return None
        try:
            if verify and checksum(path) != facts["checksum"]:
                raise ValueError("its checksum does not fit")
            features: Array = np.load(path, mmap_mode="r", allow_pickle=False)
            return features
        except (ValueError, KeyError, OSError, EOFError) as error:
            self.report(path, error)
            return None

    def has_features(self, key: Key) -> bool:
        """Whether they are there, by their sidecar alone: ``read_features`` verifies."""
        return self.features_facts(key) is not None

    def features_facts(self, key: Key) -> dict[str, Any] | None:
        """The sidecar (key, checksum, seconds, bytes), or None where it is missing or damaged."""
        return self._read_keyed(self._features_path(key).with_suffix(".json"))

    def write_features(
        self, key: Key, blocks: Iterable[Array], shape: tuple[int, int], dtype: type[np.floating[Any]],
        seconds: float,
    ) -> None:  # fmt: skip
        """Store row blocks as one .npy; the sidecar, written last, is what makes it count."""
        path = self._features_path(key)
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with atomic(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())
        facts = {"key": key, "checksum": checksum(path), "seconds": seconds, "bytes": path.stat().st_size}
        facts["commit"] = commit()[0]
        write_json(path.with_suffix(".json"), facts)

    # Heads: W (C_s x D) and b (C_s) of the source classifier; logits are W f + b, so not stored.

    def write_head(self, key: Key, head: tuple[Array, Array] | None) -> None:
        """Store (W, b) under the key of any features of this checkpoint; None for a bare backbone."""
        matrix = np.empty((0, 0)) if head is None else np.column_stack(head)
        self.write_features(_head_key(key), [matrix], matrix.shape, np.float32, 0.0)

    def read_head(self, key: Key) -> tuple[Float, Float] | None:
        """(W, b) in float64; None for a checkpoint without a head, or where nothing whole is stored."""
        matrix = self.read_features(_head_key(key))
        if matrix is None or not matrix.size:
            return None
        weight = np.array(matrix, dtype=np.float64)
        return weight[:, :-1], weight[:, -1]

    def has_head(self, key: Key) -> bool:
        """Whether it is stored what head the checkpoint has, or that it has none."""
        return self.read_features(_head_key(key)) is not None

    # Cells: one JSON per number.

    def _cell_path(self, key: Key) -> Path:
        name = digest(key)
        return self.root / "cells" / name[:2] / f"{name}.json"

    def read_cell(self, key: Key) -> Cell | None:
        path = self._cell_path(key)
        if path.stem in self._read:
            return self._read[path.stem]
        facts = self._read_keyed(path)
        if facts is None:
            return None
        try:
            cell = Cell(**facts)
        except TypeError as error:
            self.report(path, error)
            return None
        if cell.status == "ok":
            self._read[path.stem] = cell
        return cell

    def is_ok(self, key: Key) -> bool:
        """Whether a cell is there and did not fail: what failed may have been the disk, or the code."""
        cell = self.read_cell(key)
        return cell is not None and cell.status == "ok"

    def has_all(self, keys: Iterable[Key]) -> bool:
        return all(self.is_ok(key) for key in keys)

    def write_cell(self, cell: Cell) -> None:
        write_json(self._cell_path(cell.key), cell.__dict__)

    @contextlib.contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """Hold the lock of a key; waits for whoever has it. Look again once you have it."""
        path = self.root / "locks" / digest(key)
        make_folder(path.parent)
        lock = FileLock(path)
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise InputError(
                f"the store {self.root} is on a file system without locks ({error}): "
                "a local disk or NFSv4 has them"
            ) from None
        try:
            yield
        finally:
            lock.release()


def _head_key(key: Key) -> Key:
    """Of the head that belongs to some features: of the same weights and layer, whatever the examples."""
    return {"what": "head/1"} | {
        name: key[name] for name in ("weights", "architecture", "layer", "extractor")
    }
