"""What a data set holds before anything is sampled or decoded, and the readers of folders and digits.

Every reader (here, ``glyphs``, ``torchsets``, ``archives``) answers with a ``RawSet``.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ckptbench.types import Array, InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
TEST_FOLDERS = ("test", "val", "valid")


def sha256(content: bytes) -> str:
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


class Sizes(NamedTuple):
    """How large a set is, as published; ``test`` is None where it has no test split of its own."""

    classes: int
    train: int
    test: int | None


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
            self.hashes[index] = sha256(self._bytes(index))
        return self.hashes[index]

    def image(self, index: int) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self._bytes(index)))
            image.load()
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            raise InputError(f"{self.root / self.paths[index]} cannot be read as an image: {error}") from None
        return image

    def _bytes(self, index: int) -> bytes:
        path = f"{self.root}/{self.paths[index]}"  # ten times as fast as pathlib, which shows in large sets
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_folder(text: str) -> RawSet:
    """train/ and test/ (or val/, valid/) with a folder per class in each; or one folder of class folders.

    With a wildcard (``omniglot/*/*``) every folder that it matches is a class.
    """
    base = data_root() / Path(text).expanduser()
    if "*" in text:
        fixed = Path(*base.parts[: next(i for i, part in enumerate(base.parts) if "*" in part)])
        pattern = str(base.relative_to(fixed))
        kinds = sorted(str(path.relative_to(fixed)) for path in fixed.glob(pattern) if path.is_dir())
        if not kinds:
            raise InputError(f"no folder matches {base}")
        return RawSet(tuple(kinds), list_files(fixed, kinds), None)
    if not base.is_dir():
        why = "is not a folder" if base.exists() else "is not there"
        raise InputError(
            f"{base} {why}: relative paths begin at CKPTBENCH_DATA, or data in the current folder"
        )
    if not (base / "train").is_dir():
        kinds = class_folders(base)
        return RawSet(tuple(kinds), list_files(base, kinds), None)
    test = next((base / name for name in TEST_FOLDERS if (base / name).is_dir()), None)
    if test is None:
        raise InputError(
            f"{base} has train/ but no test/, val/ or valid/ (folder:{text}/train is split by the seed)"
        )
    kinds, tested = class_folders(base / "train"), class_folders(test)
    for kind in sorted(set(kinds) ^ set(tested)):
        there, missing = (base / "train", test) if kind in kinds else (test, base / "train")
        raise InputError(f"class {kind!r} is in {there} but not in {missing}")
    return RawSet(tuple(kinds), list_files(base / "train", kinds), list_files(test, kinds))


def class_folders(folder: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    if not entries:
        raise InputError(f"{folder} is empty: it should hold a folder of images per class")
    kinds = sorted(entry.name for entry in entries if entry.is_dir())
    if not kinds:
        raise InputError(f"{folder} has no class folders: images should lie in a folder per class")
    return kinds


def list_files(root: Path, kinds: Sequence[str]) -> Files:
    paths: list[str] = []
    labels: list[int] = []
    start = len(os.fspath(root)) + 1
    for label, kind in enumerate(kinds):
        found = [
            f"{folder[start:]}/{name}".replace(os.sep, "/")
            for folder, _, names in os.walk(os.path.join(root, kind))
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        if not found:
            raise InputError(f"class folder {root / kind} holds no image ({', '.join(SUFFIXES)})")
        paths += sorted(found)
        labels += [label] * len(found)
    return Files(root, paths, np.array(labels, np.int64))


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images held as one array: n x H x W grey or n x H x W x 3."""

    array: Array
    labels: NDArray[np.int64]

    def identifier(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> str:
        return sha256(self.array[index].tobytes())

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index])


def read_digits() -> RawSet:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return RawSet(tuple("0123456789"), Pixels(pixels, digits.target.astype(np.int64)), None)
