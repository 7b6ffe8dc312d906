"""Published archives end to end: small fakes of the same layout, from files to decoded, labelled images."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ckptbench.archives import ARCHIVES
from ckptbench.datasets import Split, load_target
from ckptbench.suites import Data
from ckptbench.types import InputError, Target

SIZE = 8
counter = itertools.count(1)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CKPTBENCH_DATA", str(tmp_path))
    return tmp_path


def write_image(path: Path, mark: int) -> None:
    """A plain grey image whose level is ten times ``mark``; no two files are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), (10 * mark,) * 3).save(path)
    path.write_bytes(path.read_bytes() + str(next(counter)).encode())  # decoders ignore what follows the end


def load(name: str, **options: Any) -> Target:
    return load_target(Data.model_validate({"name": name, "size": SIZE, **options}))


def check(target: Target, train: dict[str, int], test: dict[str, int]) -> None:
    """How many of each class there are, and that class k has the images drawn at level 10 (k + 1)."""
    for split, expected in ((target.train, train), (target.test, test)):
        assert {target.classes[k]: n for k, n in sorted(Counter(split.labels.tolist()).items())} == expected
        images = split.images(slice(None))
        assert images.shape == (len(split), 3, SIZE, SIZE)
        levels = np.rint(images[:, :, 4:].mean(axis=(1, 2, 3)) / 10).astype(int)
        assert np.array_equal(levels, split.labels + 1)


# --------------------------------------------------------------------------------- builders of fakes


def build_cub(root: Path) -> None:
    """4 train and 3 test images of each of two species, in alternating order, as in the archive's lists."""
    base = root / "cub-200-2011" / "CUB_200_2011"
    images, split, labels = [], [], []
    for mark, kind in enumerate(("001.Black_footed_Albatross", "002.Laysan_Albatross"), 1):
        for number in range(7):
            name = f"{kind}/{kind[4:]}_{number:04d}.jpg"
            write_image(base / "images" / name, mark)
            images.append(f"{len(images) + 1} {name}")
            split.append(f"{len(images)} {(number + 1) % 2}")
            labels.append(f"{len(images)} {mark}")
    for file, lines in (("images", images), ("train_test_split", split), ("image_class_labels", labels)):
        (base / f"{file}.txt").write_text("\n".join(lines) + "\n")
    (base / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")


def build_dogs(root: Path) -> None:
    base = root / "stanford-dogs"
    lists: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for mark, kind in enumerate(("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), 1):
        for number in range(5):
            name = f"{kind}/{kind[:9]}_{number}.jpg"
            write_image(base / "Images" / name, mark)
            files, labels = lists["train" if number < 3 else "test"]
            files.append(name)
            labels.append(mark)
    for split, (files, labels) in lists.items():
        cells = np.array([[np.array([name])] for name in files], dtype=object)  # cells, as in the archive
        savemat(base / f"{split}_list.mat", {"file_list": cells, "labels": np.array(labels)[:, None]})


def build_indoor(root: Path) -> None:
    base = root / "mit-indoor-67"
    lists: dict[str, list[str]] = {"Train": [], "Test": []}
    for mark, kind in enumerate(("airport_inside", "kitchen"), 1):
        for number in range(5):
            name = f"{kind}/{kind}_{number}_flickr.jpg"
            write_image(base / "Images" / name, mark)
            if number < 4:  # some images are in neither list, as in the archive
                lists["Train" if number < 3 else "Test"].append(name)
    for split, names in lists.items():
        (base / f"{split}Images.txt").write_text("\n".join(names))  # no newline at the end, as in the archive


def build_shenzhen(root: Path) -> None:
    base = root / "shenzhen-cxr" / "ChinaSet_AllFiles" / "CXR_png"
    for number in range(20):
        write_image(base / f"CHNCXR_{number + 1:04d}_{number // 10}.png", number // 10 + 1)
    (base / "Thumbs.db").write_bytes(b"x")


def build_imagenet(root: Path) -> None:
    for mark, kind in enumerate(("n01440764", "n01443537"), 1):
        for number in range(4):
            write_image(root / "imagenet" / "train" / kind / f"{kind}_{number}.jpg", mark)
        for number in range(2):
            write_image(root / "imagenet" / "val" / kind / f"ILSVRC2012_val_{number:08d}.jpg", mark)


def build_cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    savemat(
        base / "devkit" / "cars_meta.mat", {"class_names": np.array([[name] for name in names], object).T}
    )
    for folder, file, count in (
        ("cars_train", base / "devkit" / "cars_train_annos.mat", 3),
        ("cars_test", base / "cars_test_annos_withlabels.mat", 2),
    ):
        rows = []
        for number in range(2 * count):
            write_image(base / folder / f"{number + 1:05d}.jpg", number % 2 + 1)
            rows.append((1, 2, 20, 15, number % 2 + 1, f"{number + 1:05d}.jpg"))
        fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
        annotations = np.array([rows], dtype=[(name, object) for name in fields])
        savemat(file, {"annotations": annotations})


BUILDERS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "cub-200-2011": (build_cub, 4, 3),
    "stanford-dogs": (build_dogs, 3, 2),
    "mit-indoor-67": (build_indoor, 3, 1),
    "shenzhen-cxr": (build_shenzhen, 3, 7),
    "imagenet": (build_imagenet, 4, 2),
    "stanford-cars": (build_cars, 3, 2),
}
CLASSES = {
    "cub-200-2011": ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
    "stanford-dogs": ("n02085620-Chihuahua", "n02085782-Japanese_spaniel"),
    "mit-indoor-67": ("airport_inside", "kitchen"),
    "shenzhen-cxr": ("normal", "tuberculosis"),
    "imagenet": ("n01440764", "n01443537"),
    "stanford-cars": ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
}


def test_every_archive_is_tried_here() -> None:
    assert set(BUILDERS) == set(CLASSES) == set(ARCHIVES)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_archive_end_to_end(name: str, data_folder: Path) -> None:
    build, train, test = BUILDERS[name]
    build(data_folder)
    options = {"test_fraction": 0.7} if name == "shenzhen-cxr" else {}  # 30 % for training, as in the paper
    target = load(f"archive:{name}", **options)
    assert target.classes == CLASSES[name]
    check(target, dict.fromkeys(target.classes, train), dict.fromkeys(target.classes, test))
    assert load(f"archive:{name}", **options).digest == target.digest
    assert len(load(f"archive:{name}", rate=0.5, **options).train) == 2 * round(0.5 * train)


@pytest.mark.parametrize("name", sorted(ARCHIVES))
def test_absent_archive_says_what_to_fetch(name: str, data_folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(f"archive:{name}")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(data_folder / ARCHIVES[name].folder) in sentence
    for file in ARCHIVES[name].files:
        assert file.address in sentence
        assert file.digest in sentence


def test_digests_have_their_length() -> None:
    """A slip of copying shows: sha256, sha1 and md5 have 64, 40 and 32 hexadecimal digits."""
    for file in itertools.chain.from_iterable(archive.files for archive in ARCHIVES.values()):
        if file.digest != "no digest is published":
            kind, hexadecimal = file.digest.split(",")[0].split()
            assert len(hexadecimal) == {"sha256": 64, "sha1": 40, "md5": 32}[kind]
            int(hexadecimal, 16)


def test_unknown_archive() -> None:
    with pytest.raises(InputError, match="did you mean 'stanford-dogs'"):
        load("archive:standford-dogs")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("cub-200-2011", "CUB_200_2011/train_test_split.txt", b"1 1\n", "do not list the same images"),
        (
            "cub-200-2011",
            "CUB_200_2011/images.txt",
            b"1 a/b.jpg\n2\n",
            "line 2 should hold a number and a value",
        ),
        ("stanford-dogs", "train_list.mat", b"nothing", "cannot be read as a MATLAB file"),
        ("stanford-dogs", "train_list.mat", None, "cannot be read as a MATLAB file"),
        (
            "mit-indoor-67",
            "TestImages.txt",
            b"pantry/x.jpg\n",
            "pantry/x.jpg is listed for test, but nothing",
        ),
        ("mit-indoor-67", "TestImages.txt", None, "cannot be read"),
        ("mit-indoor-67", "TestImages.txt", b"kitchen/gone.jpg\n", "kitchen/gone.jpg cannot be read"),
    ],
)
def test_damaged_archives(
    name: str, file: str, content: bytes | None, message: str, data_folder: Path
) -> None:
    BUILDERS[name][0](data_folder)
    path = data_folder / name / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(f"archive:{name}")


def test_mat_file_without_its_list(data_folder: Path) -> None:
    build_dogs(data_folder)
    savemat(data_folder / "stanford-dogs" / "test_list.mat", {"other": [1]})
    with pytest.raises(InputError, match=r"test_list\.mat holds no 'file_list'"):
        load("archive:stanford-dogs")


def test_empty_shenzhen(data_folder: Path) -> None:
    (data_folder / "shenzhen-cxr" / "ChinaSet_AllFiles" / "CXR_png").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no image"):
        load("archive:shenzhen-cxr")


# ------------------------------------------------------ archives that torchvision reads, same layouts


def test_food101(data_folder: Path) -> None:
    base = data_folder / "food-101"
    meta: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for mark, kind in enumerate(("apple_pie", "waffles"), 1):
        for split, numbers in (("train", range(3)), ("test", range(3, 5))):
            meta[split][kind] = [f"{kind}/{number}" for number in numbers]
            for number in numbers:
                write_image(base / "images" / kind / f"{number}.jpg", mark)
    (base / "meta").mkdir()
    for split, listed in meta.items():
        (base / "meta" / f"{split}.json").write_text(json.dumps(listed))
    check(load("torchvision:Food101"), {"apple_pie": 3, "waffles": 3}, {"apple_pie": 2, "waffles": 2})


def test_fgvc_aircraft(data_folder: Path) -> None:
    base = data_folder / "fgvc-aircraft-2013b" / "data"
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for number in range(10):
        split = "trainval" if number < 6 else "test"
        write_image(base / "images" / f"{number:07d}.jpg", number % 2 + 1)
        lines[split].append(f"{number:07d} {('707-320', 'Yak-42')[number % 2]}")
    (base / "variants.txt").write_text("707-320\nYak-42\n")
    for split, listed in lines.items():
        (base / f"images_variant_{split}.txt").write_text("\n".join(listed) + "\n")
    check(load("torchvision:FGVCAircraft"), {"707-320": 3, "Yak-42": 3}, {"707-320": 2, "Yak-42": 2})


def test_oxford_pets(data_folder: Path) -> None:
    base = data_folder / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for mark, kind in enumerate(("Abyssinian", "american_bulldog"), 1):
        for number in range(5):
            write_image(base / "images" / f"{kind}_{number}.jpg", mark)
            lines["trainval" if number < 3 else "test"].append(f"{kind}_{number} {mark} {mark} 1")
    for split, listed in lines.items():
        (base / "annotations" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    target = load("torchvision:OxfordIIITPet")
    check(target, {"Abyssinian": 3, "American Bulldog": 3}, {"Abyssinian": 2, "American Bulldog": 2})


def test_stanford_cars_by_torchvision_is_the_same(data_folder: Path) -> None:
    build_cars(data_folder)
    ours, theirs = load("archive:stanford-cars"), load("torchvision:StanfordCars")
    assert ours.classes == theirs.classes
    assert np.array_equal(ours.train.labels, theirs.train.labels)
    assert np.array_equal(ours.test.images(slice(None)), theirs.test.images(slice(None)))


def test_flowers102(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training part is train and val together, 2,040 images in the real set."""
    import torchvision

    # The real lists are known to torchvision by their MD5, which no fake can have.
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    base = data_folder / "flowers-102"
    for number in range(1, 13):
        write_image(base / "jpg" / f"image_{number:05d}.jpg", number % 2 + 1)
    savemat(base / "imagelabels.mat", {"labels": np.array([[number % 2 + 1 for number in range(1, 13)]])})
    savemat(
        base / "setid.mat", {"trnid": [[1, 2, 3, 4]], "valid": [[5, 6, 7, 8]], "tstid": [[9, 10, 11, 12]]}
    )
    target = load("torchvision:Flowers102", classes=2)
    check(target, dict.fromkeys(target.classes, 4), dict.fromkeys(target.classes, 2))
    split = target.train
    assert isinstance(split, Split)
    assert {split.raw.identifier(int(row)) for row in split.rows} == {
        f"flowers-102/jpg/image_{number:05d}.jpg" for number in range(1, 9)
    }


@pytest.mark.parametrize(("name", "fine"), [("CIFAR10", "labels"), ("CIFAR100", "fine_labels")])
def test_cifar(name: str, fine: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    import torchvision

    made = getattr(torchvision.datasets, name)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    base = data_folder / made.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)
    for file, _ in made.train_list + made.test_list:
        labels = [number % 2 for number in range(4)]
        data = np.repeat(10 * (np.array(labels) + 1), 3072).reshape(4, 3072).astype(np.uint8)
        data[:, :30] = rng.integers(0, 200, (4, 30))  # the first row of red: no two alike
        (base / file).write_bytes(pickle.dumps({"data": data, fine: labels}))
    names = [f"class {number}" for number in range(2)]
    (base / made.meta["filename"]).write_bytes(pickle.dumps({made.meta["key"]: names}))
    per_class = 2 * len(made.train_list)
    check(load(f"torchvision:{name}"), dict.fromkeys(names, per_class), dict.fromkeys(names, 2))
