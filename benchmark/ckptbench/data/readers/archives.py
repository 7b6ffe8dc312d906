"""``archive:NAME``: sets that torchvision lacks or no longer downloads, from what their archives unpack to.

``archives.toml`` says in which folder below the data root a set is read and, where it is not there, which
files to fetch from where. The digests are those that other libraries record.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ckptbench import Array, Files, InputError, RawSet, data_root, nearest, read_set

ARCHIVES: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


class Archives:
    name = "archive"

    def sets(self) -> list[tuple[str, str]]:
        what = "from its published archive, unpacked below the data root"
        return [(f"archive:{name}", what) for name in ARCHIVES]

    def read(self, rest: str, download: bool) -> RawSet:
        """Read one of ``ARCHIVES``, or say which files to fetch."""
        if rest not in ARCHIVES:
            raise InputError(f"no published archive is called {rest!r}: {nearest(rest, ARCHIVES)}")
        archive = ARCHIVES[rest]
        root = data_root() / archive["folder"]
        if not (root / archive["marker"]).exists():
            what = "; ".join(archive["files"]) + archive.get("advice", "")
            raise InputError(f"there is no {root / archive['marker']}: into {root} unpack {what}")
        return READ[rest](root)


def _by_folder(root: Path, train: Sequence[str], test: Sequence[str]) -> RawSet:
    """Lists of ``class/image`` paths below ``root``."""
    kinds = sorted({path.split("/")[0] for path in train})
    number = {kind: label for label, kind in enumerate(kinds)}

    def files(paths: Sequence[str]) -> Files:
        labels = [number.get(path.split("/")[0], -1) for path in paths]
        if -1 in labels:
            strange = paths[labels.index(-1)]
            raise InputError(f"{root}: {strange} is listed for test, but nothing of its class for training")
        return Files(root, list(paths), np.array(labels, np.int64))

    return RawSet(tuple(kinds), files(train), files(test))


def _lines(path: Path) -> list[str]:
    """Those that are not blank."""
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _mat(path: Path, key: str) -> Array:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True)[key])
    except KeyError:
        raise InputError(f"{path} holds no {key!r}") from None
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"{path} cannot be read as a MATLAB file: {error}") from None


def _cub(root: Path) -> RawSet:
    base = root / "CUB_200_2011"
    images, training = _numbered(base / "images.txt"), _numbered(base / "train_test_split.txt")
    if images.keys() != training.keys():
        raise InputError(f"{base}: images.txt and train_test_split.txt do not list the same images")
    train, test = ([path for key, path in images.items() if training[key] == flag] for flag in ("1", "0"))
    return _by_folder(base / "images", train, test)


def _numbered(path: Path) -> dict[str, str]:
    """Lines of ``number value``."""
    pairs = [line.split(maxsplit=1) for line in _lines(path)]
    short = next((number for number, pair in enumerate(pairs, 1) if len(pair) != 2), None)
    if short is not None:
        raise InputError(f"{path}: line {short} should hold a number and a value")
    return dict(pairs)


def _dogs(root: Path) -> RawSet:
    train, test = (_mat(root / f"{split}_list.mat", "file_list") for split in ("train", "test"))
    return _by_folder(root / "Images", [str(path) for path in train], [str(path) for path in test])


def _indoor(root: Path) -> RawSet:
    train, test = (_lines(root / f"{split}Images.txt") for split in ("Train", "Test"))
    return _by_folder(root / "Images", train, test)


def _cars(root: Path) -> RawSet:
    def files(folder: str, listed: Path) -> Files:
        rows: Any = _mat(listed, "annotations")
        labels = [int(row["class"]) - 1 for row in rows]
        return Files(root / folder, [str(row["fname"]) for row in rows], np.array(labels, np.int64))

    return RawSet(
        tuple(str(name) for name in _mat(root / "devkit" / "cars_meta.mat", "class_names")),
        files("cars_train", root / "devkit" / "cars_train_annos.mat"),
        files("cars_test", root / "cars_test_annos_withlabels.mat"),
    )


def _shenzhen(root: Path) -> RawSet:
    """CHNCXR_NNNN_0.png is normal, CHNCXR_NNNN_1.png shows tuberculosis; there is no published split."""
    base = root / "ChinaSet_AllFiles" / "CXR_png"
    paths = sorted(path.name for path in base.glob("*_[01].png"))
    if not paths:
        raise InputError(f"{base} holds no image called *_0.png or *_1.png")
    labels = np.array([int(path.removesuffix(".png")[-1]) for path in paths], np.int64)
    return RawSet(("normal", "tuberculosis"), Files(base, paths, labels), None)


READ = {
    "cub-200-2011": _cub,
    "imagenet": lambda root: read_set(f"folder:{root.resolve()}"),
    "mit-indoor-67": _indoor,
    "shenzhen-cxr": _shenzhen,
    "stanford-cars": _cars,
    "stanford-dogs": _dogs,
}
