"""Published archives end to end: small fakes of the same layout, from files to decoded, labelled images."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_archives import BUILDERS, accept_fakes
from scipy.io import savemat

from ckptbench.base.errors import InputError
from ckptbench.base.types import Target
from ckptbench.data.readers.archives import ARCHIVES
from ckptbench.data.targets import Split, load_target
from ckptbench.suites import Data

SIZE = 8


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CKPTBENCH_DATA", str(tmp_path))
    return tmp_path


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


# How many of each class there are for training and for test.
COUNTS = {
    "cub-200-2011": (4, 3),
    "stanford-dogs": (3, 2),
    "mit-indoor-67": (3, 1),
    "shenzhen-cxr": (3, 7),
    "imagenet": (4, 2),
    "stanford-cars": (3, 2),
}
CLASSES = {
    "cub-200-2011": ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
    "stanford-dogs": ("n02085620-Chihuahua", "n02085782-Japanese_spaniel"),
    "mit-indoor-67": ("airport_inside", "kitchen"),
    "shenzhen-cxr": ("normal", "tuberculosis"),
    "imagenet": ("n01440764", "n01443537"),
    "stanford-cars": ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
}


def build(name: str, root: Path) -> None:
    BUILDERS[f"archive:{name}"](root, *COUNTS[name])


def test_every_archive_is_tried_here() -> None:
    assert set(COUNTS) == set(CLASSES) == set(ARCHIVES)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_archive_end_to_end(name: str, data_folder: Path) -> None:
    build(name, data_folder)
    train, test = COUNTS[name]
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
    assert str(data_folder / ARCHIVES[name]["folder"]) in sentence
    assert all(file in sentence for file in ARCHIVES[name]["files"])


def test_digests_have_their_length() -> None:
    """A slip of copying shows: sha256, sha1 and md5 have 64, 40 and 32 hexadecimal digits."""
    for file in itertools.chain.from_iterable(archive["files"] for archive in ARCHIVES.values()):
        digest = file.partition("(")[2]
        if digest != "no digest is published)":
            kind, hexadecimal = digest.split(",")[0].split()
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
    build(name, data_folder)
    path = data_folder / name / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(f"archive:{name}")


def test_mat_file_without_its_list(data_folder: Path) -> None:
    build("stanford-dogs", data_folder)
    savemat(data_folder / "stanford-dogs" / "test_list.mat", {"other": [1]})
    with pytest.raises(InputError, match=r"test_list\.mat holds no 'file_list'"):
        load("archive:stanford-dogs")


def test_empty_shenzhen(data_folder: Path) -> None:
    (data_folder / "shenzhen-cxr" / "ChinaSet_AllFiles" / "CXR_png").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no image"):
        load("archive:shenzhen-cxr")


# ------------------------------------------------------ archives that torchvision reads, same layouts


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("CIFAR10", ("class 0", "class 1")),
        ("CIFAR100", ("class 0", "class 1")),
        ("FGVCAircraft", ("707-320", "Yak-42")),
        ("Flowers102", ("pink primrose", "hard-leaved pocket orchid")),
        ("Food101", ("apple_pie", "waffles")),
        ("OxfordIIITPet", ("Abyssinian", "American Bulldog")),
    ],
)
def test_torchvision_archive(
    name: str, classes: tuple[str, str], data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_fakes(monkeypatch)
    BUILDERS[f"torchvision:{name}"](data_folder, 4, 2)
    target = load(f"torchvision:{name}")
    check(target, dict.fromkeys(classes, 4), dict.fromkeys(classes, 2))


def test_stanford_cars_by_torchvision_is_the_same(data_folder: Path) -> None:
    build("stanford-cars", data_folder)
    ours, theirs = load("archive:stanford-cars"), load("torchvision:StanfordCars")
    assert ours.classes == theirs.classes
    assert np.array_equal(ours.train.labels, theirs.train.labels)
    assert np.array_equal(ours.test.images(slice(None)), theirs.test.images(slice(None)))


def test_flowers102_trains_on_train_and_val(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together 2,040 images in the real set."""
    accept_fakes(monkeypatch)
    BUILDERS["torchvision:Flowers102"](data_folder, 4, 2)
    split = load("torchvision:Flowers102").train
    assert isinstance(split, Split)
    assert {split.raw.identifier(int(row)) for row in split.rows} == {
        f"flowers-102/jpg/image_{number:05d}.jpg" for number in range(1, 9)
    }
