"""``folder:PATH``: images in a folder per class, split or not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ckptbench import Files, InputError, RawSet, data_root

TEST_FOLDERS = ("test", "val", "valid")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


class Folder:
    name = "folder"

    def sets(self) -> list[tuple[str, str]]:
        return [("folder:PATH", "train/ and test/ with a folder per class, or one folder of class folders")]

    def read(self, rest: str, download: bool) -> RawSet:
        """train/ and test/ (or val/, valid/) with a folder per class in each; or one folder of class folders.

        With a wildcard (``omniglot/*/*``) every folder that it matches is a class.
        """
        if not rest:
            raise InputError("folder: needs a path, as in folder:PATH")
        base = data_root() / Path(rest).expanduser()
        if "*" in rest:
            fixed = Path(*base.parts[: next(i for i, part in enumerate(base.parts) if "*" in part)])
            pattern = str(base.relative_to(fixed))
            kinds = sorted(str(path.relative_to(fixed)) for path in fixed.glob(pattern) if path.is_dir())
            if not kinds:
                raise InputError(f"no folder matches {base}")
            return _raw_set(kinds, fixed)
        if not base.is_dir():
            why = "is not a folder" if base.exists() else "is not there"
            raise InputError(
                f"{base} {why}: relative paths begin at CKPTBENCH_DATA, or data in the current folder"
            )
        if not (base / "train").is_dir():
            return _raw_set(_class_folders(base), base)
        test = next((base / name for name in TEST_FOLDERS if (base / name).is_dir()), None)
        if test is None:
            raise InputError(
                f"{base} has train/ but no test/, val/ or valid/ (folder:{rest}/train is split by the seed)"
            )
        kinds, tested = _class_folders(base / "train"), _class_folders(test)
        for kind in sorted(set(kinds) ^ set(tested)):
            there, missing = (base / "train", test) if kind in kinds else (test, base / "train")
            raise InputError(f"class {kind!r} is in {there} but not in {missing}")
        return _raw_set(kinds, base / "train", test)


def _raw_set(kinds: Sequence[str], *roots: Path) -> RawSet:
    others: list[str] = []
    splits = [_list_files(root, kinds, others) for root in roots]
    notes: tuple[str, ...] = ()
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        notes = (f"{count} left out, no image by name ({shown})",)
    return RawSet(tuple(kinds), splits[0], splits[1] if len(splits) > 1 else None, notes)


def _class_folders(folder: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    if not entries:
        raise InputError(f"{folder} is empty: it should hold a folder of images per class")
    kinds = sorted(entry.name for entry in entries if entry.is_dir())
    if not kinds:
        raise InputError(f"{folder} has no class folders: images should lie in a folder per class")
    return kinds


def _list_files(root: Path, kinds: Sequence[str], others: list[str]) -> Files:
    """The images of some class folders, in order; what is no image by its name goes to ``others``."""
    paths: list[str] = []
    labels: list[int] = []
    start = len(os.fspath(root)) + 1
    for label, kind in enumerate(kinds):
        found = [
            f"{folder[start:]}/{name}".replace(os.sep, "/")
            for folder, _, names in os.walk(os.path.join(root, kind))
            for name in names
            if not name.startswith(".")
        ]
        images = [path for path in found if path.lower().endswith(SUFFIXES)]
        if not images:
            raise InputError(f"class folder {root / kind} holds no image ({', '.join(SUFFIXES)})")
        others += sorted(set(found) - set(images))
        paths += sorted(images)
        labels += [label] * len(images)
    return Files(root, paths, np.array(labels, np.int64))
