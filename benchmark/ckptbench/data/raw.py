"""What a data set holds before anything is sampled or decoded.

Readers of data sets, plugins in ``readers/``, answer with a ``RawSet`` of ``Files`` or ``Pixels``, or of
something of their own that has the methods of ``Raw``.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ckptbench.base.errors import InputError
from ckptbench.base.types import Array
from ckptbench.data.images import decode

LARGEST = 1 << 30  # bytes of a file that is opened as an image


def content_digest(content: bytes) -> str:
    """The first 32 hex digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def data_root() -> Path:
    """Where relative ``folder:`` paths begin and downloads go: CKPTBENCH_DATA, or ``data`` here."""
    return Path(os.environ.get("CKPTBENCH_DATA") or "data").expanduser()


class Raw(Protocol):
    """One split of a set as it is there: nothing sampled, nothing decoded."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Numbers of the set's classes."""
        ...

    def identifier(self, index: int) -> str:
        """Names the example inside the set, the same on every machine."""
        ...

    def content(self, index: int) -> str:
        """SHA-256 of the example's bytes: equal for two copies of one image."""
        ...

    def image(self, index: int) -> Image.Image: ...


@dataclass(frozen=True)
class RawSet:
    """``test`` is None where the set has no test split of its own."""

    classes: tuple[str, ...]
    train: Raw
    test: Raw | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below ``root``, hashed and decoded one by one."""

    root: Path
    paths: list[str]
    labels: NDArray[np.int64]
    hashes: dict[int, str] = field(default_factory=dict)

    def identifier(self, index: int) -> str:
        return self.paths[index]

    def content(self, index: int) -> str:
        if index not in self.hashes:
            self.hashes[index] = content_digest(self.read(index))
        return self.hashes[index]

    def image(self, index: int) -> Image.Image:
        return decode(self.read(index), f"{self.root}/{self.paths[index]}")

    def read(self, index: int) -> bytes:
        """The bytes of a file."""
        path = f"{self.root}/{self.paths[index]}"  # ten times as fast as pathlib, which shows in large sets
        try:
            # A pipe without a writer would wait for ever, and a device may have no end.
            with open(path, "rb", opener=_open_at_once) as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST:
                    raise InputError(f"{path} is not a file of an image's size")
                return file.read()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images held as one array: n x H x W grey or n x H x W x 3."""

    array: Array
    labels: NDArray[np.int64]

    def identifier(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> str:
        return content_digest(self.array[index].tobytes())

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index])
