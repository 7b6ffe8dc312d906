"""Arrays of the frozen benchmark on disk: archives of numbers alone, features in 16 or 8 bits."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic
from ckptbench.base.types import Array, locked

Encoding = Literal["float16", "uint8"]


@dataclass(frozen=True)
class Archive:
    """A .npz file of numbers, whose arrays are read one by one."""

    path: Path

    def read(self, name: str, *shape: int) -> Array:
        """An array of a known shape.

        Raises
        ------
        InputError
            If it is missing, of another shape or of anything but numbers: objects are never unpickled.
        """
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                array = arrays[name]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.path} has no array of numbers {name!r}: {error}") from None
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.shape != shape:
            raise InputError(f"{self.path}: {name!r} is no array of numbers of shape {shape}")
        return array

    def write(self, arrays: dict[str, Array]) -> None:
        """Equal content gives equal bytes; bzip2 halves float16 features that have gone through a ReLU."""
        with atomic(self.path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def encode(features: Array, encoding: Encoding, name: str) -> dict[str, Array]:
    """Features N x D as the arrays of an archive: one feature's values side by side compress better.

    In 8 bits a feature's range is cut into 255 steps, so that a value is at most half a step off and zeros,
    where they are the least value as after a ReLU, stay zeros.
    """
    columns = np.ascontiguousarray(features.T)
    if encoding == "float16":
        return {name: columns.astype(np.float16)}
    columns = columns.astype(np.float32)
    low, high = columns.min(axis=1), columns.max(axis=1)
    step = np.where(high > low, (high - low) / 255, np.float32(1))
    number = np.round((columns - low[:, None]) / step[:, None]).astype(np.uint8)
    return {name: number, f"{name}-range": np.stack([low, step])}


def decode(archive: Archive, name: str, dimension: int, rows: int, encoding: Encoding) -> Array:
    """Features N x D, float16 or float32.

    Raises
    ------
    InputError
        If an array is missing or of another shape.
    """
    columns = archive.read(name, dimension, rows)
    if encoding == "uint8":
        low, step = archive.read(f"{name}-range", 2, dimension)
        columns = low[:, None] + step[:, None] * columns.astype(np.float32)
    return locked(np.ascontiguousarray(columns.T))
