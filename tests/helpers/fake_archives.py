"""Fake archives: two classes in the layouts of the published sets, a few images each, for tests of readers.

Every builder takes the data root and how many images of each class are for training and for test.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

Builder = Callable[[Path, int, int], None]


def write_image(path: Path, mark: int) -> None:
    """Plain grey of ten times ``mark`` below noise that hangs on the name, so that no two files are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(f"{path.parent.name}/{path.name}".encode()))
    pixels = np.full((16, 24), 10 * mark, np.uint8)
    pixels[:6] = rng.integers(0, 256, (6, 24))
    Image.fromarray(pixels).convert("RGB").save(path)


def write_lines(path: Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + end)


def accept_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows these sets by MD5s and a list of class names that no fake can have."""
    from torchvision import datasets

    def there(cifar: datasets.CIFAR10) -> bool:
        return (Path(cifar.root) / cifar.base_folder).is_dir()

    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", there)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5: Path(path).is_file())
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: self._images_folder.is_dir())
    monkeypatch.setattr(datasets.Flowers102, "classes", datasets.Flowers102.classes[:2])


# ------------------------------------------------------------------------------ archives of ckptbench


def build_cub(root: Path, train: int, test: int) -> None:
    """Train and test images of a species stand in turn, as in the archive's lists."""
    base = root / "cub-200-2011" / "CUB_200_2011"
    images, split, labels = [], [], []
    for mark, kind in enumerate(("001.Black_footed_Albatross", "002.Laysan_Albatross"), 1):
        left = {1: train, 0: test}
        for number in range(train + test):
            flag = 1 - number % 2 if left[1 - number % 2] else number % 2
            left[flag] -= 1
            name = f"{kind}/{kind[4:]}_{number:04d}.jpg"
            write_image(base / "images" / name, mark)
            images.append(f"{len(images) + 1} {name}")
            split.append(f"{len(images)} {flag}")
            labels.append(f"{len(images)} {mark}")
    for file, lines in (("images", images), ("train_test_split", split), ("image_class_labels", labels)):
        write_lines(base / f"{file}.txt", lines)
    write_lines(base / "classes.txt", ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"])


def build_dogs(root: Path, train: int, test: int) -> None:
    base = root / "stanford-dogs"
    lists: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for mark, kind in enumerate(("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), 1):
        for number in range(train + test):
            name = f"{kind}/{kind[:9]}_{number}.jpg"
            write_image(base / "Images" / name, mark)
            files, labels = lists["train" if number < train else "test"]
            files.append(name)
            labels.append(mark)
    for split, (files, labels) in lists.items():
        cells = np.array([[np.array([name])] for name in files], dtype=object)  # cells, as in the archive
        savemat(base / f"{split}_list.mat", {"file_list": cells, "labels": np.array(labels)[:, None]})


def build_indoor(root: Path, train: int, test: int) -> None:
    base = root / "mit-indoor-67"
    lists: dict[str, list[str]] = {"Train": [], "Test": []}
    for mark, kind in enumerate(("airport_inside", "kitchen"), 1):
        for number in range(train + test + 1):
            name = f"{kind}/{kind}_{number}_flickr.jpg"
            write_image(base / "Images" / name, mark)
            if number < train + test:  # some images are in neither list, as in the archive
                lists["Train" if number < train else "Test"].append(name)
    for split, names in lists.items():
        write_lines(base / f"{split}Images.txt", names, end="")  # as in the archive


def build_shenzhen(root: Path, train: int, test: int) -> None:
    """All in one folder: the archive has no split."""
    base = root / "shenzhen-cxr" / "ChinaSet_AllFiles" / "CXR_png"
    for number in range(2 * (train + test)):
        mark = number // (train + test) + 1
        write_image(base / f"CHNCXR_{number + 1:04d}_{mark - 1}.png", mark)
    (base / "Thumbs.db").write_bytes(b"x")


def build_imagenet(root: Path, train: int, test: int) -> None:
    for mark, kind in enumerate(("n01440764", "n01443537"), 1):
        for number in range(train):
            write_image(root / "imagenet" / "train" / kind / f"{kind}_{number}.jpg", mark)
        for number in range(test):
            write_image(root / "imagenet" / "val" / kind / f"ILSVRC2012_val_{number:08d}.jpg", mark)


def build_cars(root: Path, train: int, test: int) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    savemat(
        base / "devkit" / "cars_meta.mat", {"class_names": np.array([[name] for name in names], object).T}
    )
    for folder, file, count in (
        ("cars_train", base / "devkit" / "cars_train_annos.mat", train),
        ("cars_test", base / "cars_test_annos_withlabels.mat", test),
    ):
        rows = []
        for number in range(2 * count):
            write_image(base / folder / f"{number + 1:05d}.jpg", number % 2 + 1)
            rows.append((1, 2, 20, 15, number % 2 + 1, f"{number + 1:05d}.jpg"))
        fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
        annotations = np.array([rows], dtype=[(name, object) for name in fields])
        savemat(file, {"annotations": annotations})


# ------------------------------------------------------------------ archives that torchvision reads


def build_cifar(root: Path, train: int, test: int, name: str, fine: str) -> None:
    from torchvision import datasets

    made = getattr(datasets, name)
    base = root / made.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for listed, count in ((made.train_list, train), (made.test_list, test)):
        for (file, _), labels in zip(
            listed, np.array_split(np.arange(2 * count) % 2, len(listed)), strict=True
        ):
            data = np.empty((len(labels), 3, 32, 32), np.uint8)
            data[:] = 10 * (labels + 1)[:, None, None, None]
            data[:, :, :12] = rng.integers(0, 256, (len(labels), 3, 12, 32))
            content = {"data": data.reshape(len(labels), 3072), fine: labels.tolist()}
            (base / file).write_bytes(pickle.dumps(content))
    names = {made.meta["key"]: ["class 0", "class 1"]}
    (base / made.meta["filename"]).write_bytes(pickle.dumps(names))


def build_cifar10(root: Path, train: int, test: int) -> None:
    build_cifar(root, train, test, "CIFAR10", "labels")


def build_cifar100(root: Path, train: int, test: int) -> None:
    build_cifar(root, train, test, "CIFAR100", "fine_labels")


def build_food(root: Path, train: int, test: int) -> None:
    base = root / "food-101"
    meta: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for mark, kind in enumerate(("apple_pie", "waffles"), 1):
        for split, numbers in (("train", range(train)), ("test", range(train, train + test))):
            meta[split][kind] = [f"{kind}/{number}" for number in numbers]
            for number in numbers:
                write_image(base / "images" / kind / f"{number}.jpg", mark)
    for split, listed in meta.items():
        write_lines(base / "meta" / f"{split}.json", [json.dumps(listed)])


def build_aircraft(root: Path, train: int, test: int) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for number in range(2 * (train + test)):
        split = "trainval" if number < 2 * train else "test"
        write_image(base / "images" / f"{number:07d}.jpg", number % 2 + 1)
        lines[split].append(f"{number:07d} {('707-320', 'Yak-42')[number % 2]}")
    write_lines(base / "variants.txt", ["707-320", "Yak-42"])
    for split, listed in lines.items():
        write_lines(base / f"images_variant_{split}.txt", listed)


def build_pets(root: Path, train: int, test: int) -> None:
    base = root / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for mark, kind in enumerate(("Abyssinian", "american_bulldog"), 1):
        for number in range(train + test):
            write_image(base / "images" / f"{kind}_{number}.jpg", mark)
            lines["trainval" if number < train else "test"].append(f"{kind}_{number} {mark} {mark} 1")
    for split, listed in lines.items():
        write_lines(base / "annotations" / f"{split}.txt", listed)


def build_flowers(root: Path, train: int, test: int) -> None:
    """The training images are in two lists, train and val, as long as each other."""
    base = root / "flowers-102"
    count = 2 * (train + test)
    labels = [number % 2 + 1 for number in range(1, count + 1)]
    for number, label in enumerate(labels, 1):
        write_image(base / "jpg" / f"image_{number:05d}.jpg", label)
    savemat(base / "imagelabels.mat", {"labels": np.array([labels])})
    first, second, last = np.split(np.arange(1, count + 1), [train, 2 * train])
    savemat(base / "setid.mat", {"trnid": first[None], "valid": second[None], "tstid": last[None]})


BUILDERS: dict[str, Builder] = {
    "archive:cub-200-2011": build_cub,
    "archive:imagenet": build_imagenet,
    "archive:mit-indoor-67": build_indoor,
    "archive:shenzhen-cxr": build_shenzhen,
    "archive:stanford-cars": build_cars,
    "archive:stanford-dogs": build_dogs,
    "torchvision:CIFAR10": build_cifar10,
    "torchvision:CIFAR100": build_cifar100,
    "torchvision:FGVCAircraft": build_aircraft,
    "torchvision:Flowers102": build_flowers,
    "torchvision:Food101": build_food,
    "torchvision:OxfordIIITPet": build_pets,
}
