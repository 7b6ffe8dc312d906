"""The store: features, heads and cells on disk, addressed by a digest of all that changes them.

A file is written to a temporary name in its own folder, flushed, and renamed, so a reader never
sees half of one and a killed run goes on where it stopped. A lock per key (``flock``, which the
kernel drops with its process) keeps two processes from computing one thing twice.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ckptbench.types import Array, Cell, Float, InputError, digest

ENVIRONMENT = "CKPTBENCH_STORE"


class Store:
    """A folder of features, heads, cells and source runs.

    ``root`` defaults to ``CKPTBENCH_STORE``, else ``.ckptbench`` in the current folder.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root or os.environ.get(ENVIRONMENT) or ".ckptbench")
        self.damaged: list[str] = []

    def run_folder(self, key: dict[str, Any], name: str) -> Path:
        """Where a source run keeps its checkpoints."""
        return self.root / "runs" / f"{name}-{digest(key)}"

    # Features: one .npy per (checkpoint, target, split) beside a JSON sidecar with key and checksum.

    def _features_path(self, key: dict[str, Any]) -> Path:
        name = digest(key)
        return self.root / "features" / name[:2] / f"{name}.npy"

    def read_features(self, key: dict[str, Any], verify: bool = True) -> Array | None:
        """The stored array as a read-only memory map, or None where it is missing or damaged.

        A file whose checksum does not fit is reported in ``damaged`` and removed.
        """
        path = self._features_path(key)
        sidecar = path.with_suffix(".json")
        try:
            facts = json.loads(sidecar.read_text())
            if verify and _checksum(path) != facts["checksum"]:
                raise ValueError("checksum does not fit")
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, OSError) as error:
            self.damaged.append(f"{path}: {error}")
            path.unlink(missing_ok=True)
            sidecar.unlink(missing_ok=True)
            return None

    def has_features(self, key: dict[str, Any]) -> bool:
        return self._features_path(key).with_suffix(".json").exists()

    def features_facts(self, key: dict[str, Any]) -> dict[str, Any]:
        """The sidecar: key, checksum, seconds, bytes."""
        facts: dict[str, Any] = json.loads(self._features_path(key).with_suffix(".json").read_text())
        return facts

    def write_features(
        self,
        key: dict[str, Any],
        blocks: Iterable[Array],
        shape: tuple[int, int],
        dtype: type[np.floating[Any]],
        seconds: float,
    ) -> None:
        """Store row blocks as one .npy; the sidecar, written last, is what makes it count."""
        path = self._features_path(key)
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with atomic(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())
        facts = {"key": key, "checksum": _checksum(path), "seconds": seconds, "bytes": path.stat().st_size}
        write_text(path.with_suffix(".json"), json.dumps(facts, indent=1, default=str))

    # Heads: W (C_s x D) and b (C_s) of the source classifier; logits are W f + b, so not stored.

    def _head_path(self, checkpoint: str) -> Path:
        return self.root / "heads" / f"{checkpoint}.npz"

    def write_head(self, checkpoint: str, weight: Float, bias: Float) -> None:
        with atomic(self._head_path(checkpoint)) as file:
            np.savez(file, weight=weight, bias=bias)

    def read_head(self, checkpoint: str) -> tuple[Float, Float] | None:
        """(W, b) in float64, or None for a checkpoint without a head."""
        try:
            with np.load(self._head_path(checkpoint), allow_pickle=False) as arrays:
                return arrays["weight"].astype(np.float64), arrays["bias"].astype(np.float64)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, OSError, EOFError) as error:
            self.damaged.append(f"{self._head_path(checkpoint)}: {error}")
            return None

    # Cells: one JSON per number.

    def _cell_path(self, key: dict[str, Any]) -> Path:
        name = digest(key)
        return self.root / "cells" / name[:2] / f"{name}.json"

    def read_cell(self, key: dict[str, Any]) -> Cell | None:
        path = self._cell_path(key)
        try:
            return Cell(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, OSError) as error:
            self.damaged.append(f"{path}: {error}")
            path.unlink(missing_ok=True)
            return None

    def is_ok(self, key: dict[str, Any]) -> bool:
        """Whether a cell is there and did not fail: what failed may have been the disk, or the code."""
        cell = self.read_cell(key)
        return cell is not None and cell.status == "ok"

    def write_cell(self, cell: Cell) -> None:
        text = json.dumps(cell.__dict__, default=str)
        write_text(self._cell_path(cell.key), text)

    @contextlib.contextmanager
    def lock(self, key: dict[str, Any]) -> Iterator[None]:
        """Hold the lock of a key; waits for whoever has it. Look again after you have it."""
        path = self.root / "locks" / digest(key)
        make_folder(path.parent)
        while True:
            with path.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _same_file(file, path):
                    continue  # the one before us removed the file while we waited on it
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all; a full disk is one clear sentence.

    Raises
    ------
    InputError
        If the disk is full or not writable. What was stored before is untouched.
    """
    make_folder(path.parent)
    name = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            name = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk is full: cannot write {path}; free some room and run the same command again, "
                "what was computed so far is kept"
            ) from None
        raise


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
