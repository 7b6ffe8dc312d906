"""``torchvision:NAME``: torchvision's classification sets, whose constructors and attributes all differ."""

from __future__ import annotations

import http.client
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ckptbench import Files, InputError, Raw, RawSet, content_digest, data_root, nearest


@dataclass(frozen=True, eq=False)
class Indexed:
    """A torchvision set without image files of its own: ``dataset[i]`` is an image and a label."""

    dataset: Any
    labels: NDArray[np.int64]
    hashes: dict[int, str] = field(default_factory=dict)

    def identifier(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> str:
        if index not in self.hashes:
            image = self.image(index)
            self.hashes[index] = content_digest(f"{image.mode} {image.size} ".encode() + image.tobytes())
        return self.hashes[index]

    def image(self, index: int) -> Image.Image:
        image = self.dataset[index][0]
        assert isinstance(image, Image.Image)
        return image


# Arguments that give each set's training part (several make one) and its test part, None where it has none.
_PARTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None]] = {
    "CIFAR10 CIFAR100 FashionMNIST KMNIST MNIST QMNIST USPS": ([{"train": True}], {"train": False}),
    "EMNIST": ([{"split": "balanced", "train": True}], {"split": "balanced", "train": False}),
    "Food101 GTSRB PCAM STL10 SVHN StanfordCars": ([{"split": "train"}], {"split": "test"}),
    "DTD Flowers102 RenderedSST2": ([{"split": "train"}, {"split": "val"}], {"split": "test"}),
    "Country211": ([{"split": "train"}, {"split": "valid"}], {"split": "test"}),
    "FGVCAircraft OxfordIIITPet": ([{"split": "trainval"}], {"split": "test"}),
    "ImageNet Imagenette": ([{"split": "train"}], {"split": "val"}),
    "Places365": ([{"split": "train-standard"}], {"split": "val"}),
    "Caltech101 Caltech256 EuroSAT SEMEION SUN397": ([{}], None),
}
_LISTED = {name: parts for names, parts in _PARTS.items() for name in names.split()}
TORCHVISION = {name: _LISTED[name] for name in sorted(_LISTED)}
# What torchvision's readers and downloaders raise for a set that is absent, damaged or out of reach.
_ABSENT = (
    OSError, RuntimeError, ValueError, TypeError, ImportError, EOFError, http.client.HTTPException,
    pickle.UnpicklingError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


class TorchvisionSets:
    name = "torchvision"

    def sets(self) -> list[tuple[str, str]]:
        what = "from torchvision, downloaded where there is a network"
        return [(f"torchvision:{name}", what) for name in TORCHVISION]

    def read(self, rest: str, download: bool) -> RawSet:
        """One of torchvision's classification sets, below the data root.

        The training part is everything that is labelled and not test: Flowers-102's train and validation
        parts together, for instance.
        """
        import torchvision

        name = {known.lower(): known for known in TORCHVISION}.get(rest.lower())
        if name is None:
            raise InputError(f"no torchvision set is called {rest!r}: {nearest(rest, TORCHVISION)}")
        make = getattr(torchvision.datasets, name, None)
        if make is None:
            raise InputError(f"torchvision {torchvision.__version__} has no data set {name}")
        arguments, test = TORCHVISION[name]
        parts = [_open(name, make, part, download) for part in arguments]
        train = _raw(parts)
        tested = None if test is None else _raw([_open(name, make, test, download)])
        return RawSet(_class_names(parts[0], train), train, tested)


def _open(name: str, make: Callable[..., Any], arguments: dict[str, Any], download: bool) -> Any:
    root = data_root() / "imagenet" if name == "ImageNet" else data_root()
    try:
        return make(root, **arguments)
    except _ABSENT:
        if not download:
            raise InputError(f"torchvision:{name} is not below {root}: a run downloads it there") from None
    try:
        return make(root, **arguments, download=True)
    except _ABSENT as error:
        why = " ".join(str(error).split())
        raise InputError(
            f"torchvision:{name} is not below {root} and cannot be downloaded{_address(make)}: {why}"
        ) from None


def _address(make: Callable[..., Any]) -> str:
    """Where torchvision fetches a set from, for those who must carry it over: " from ...", or nothing."""
    found = _first(make, "url", "_URL", "_download_url_prefix", "_RESOURCES")
    while isinstance(found, tuple):
        found = found[0]  # ((address, MD5), ...)
    return f" from {found}" if isinstance(found, str) else ""


def _raw(parts: list[Any]) -> Raw:
    """The labels, without decoding where the sets keep them, and the image files where they have some."""
    files = [_first(part, "samples", "_samples", "_image_files", "_images") for part in parts]
    labels = [_first(part, "targets", "labels", "_labels", "y") for part in parts]
    numbers = np.concatenate([
        np.asarray(kept if kept is not None else [label for _, label in listed or part], np.int64)
        for part, listed, kept in zip(parts, files, labels, strict=True)
    ])  # fmt: skip
    if files[0] is None:
        return Indexed(parts[0], numbers)
    root = data_root()
    paths = [file[0] if isinstance(file, tuple) else file for listed in files for file in listed]
    return Files(root, [Path(path).relative_to(root).as_posix() for path in paths], numbers)


def _first(dataset: Any, *attributes: str) -> Any:
    """The first of these attributes that the set has: torchvision's sets name the same things differently."""
    return next((getattr(dataset, name) for name in attributes if hasattr(dataset, name)), None)


def _class_names(dataset: Any, train: Raw) -> tuple[str, ...]:
    """The set's own names in the order of its labels, or the labels themselves where it has none."""
    # wnids first: two of ImageNet's classes are called crane.
    names = _first(dataset, "wnids", "classes", "categories") or ()
    if len(names) <= train.labels.max():
        names = range(int(train.labels.max()) + 1)
    # MNIST calls its classes "0 - zero": the number alone is what label maps need.
    return tuple(re.sub(r"^(\d+) - .*", r"\1", str(name)) for name in names)
