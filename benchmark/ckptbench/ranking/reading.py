"""Labelled data from whatever a user has: a path, a set by name, a table, arrays, a Dataset.

Nothing is decoded but what is in memory.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.text import counted, nearest
from ckptbench.base.types import Array, Task
from ckptbench.data.images import decode
from ckptbench.data.labels import as_numpy, read_labels
from ckptbench.data.names import parse_data, read_set
from ckptbench.data.raw import LARGEST, Files, Pixels, Raw, RawSet, content_digest
from ckptbench.ranking.examples import Source, Texts
from ckptbench.suites import Data

TABLES = {".csv": ",", ".tsv": "\t"}
TRAIN_FOLDERS = ("train", "training", "trn")


def read_source(
    data: Any,
    groups: str | Path | Sequence[Any] | None,
    plugins: Sequence[str] = (),
    task: Task = "classification",
) -> Source:
    """Find what there is.

    Parameters
    ----------
    data : a path (a folder per class, with splits of any names or none; .csv or .tsv with columns path or
        text and label; .npz with images and labels; a data set that Hugging Face's datasets saved), a set's
        name as in ``public:cifar10?per_class=100``, (images, labels), a torch Dataset or DataLoader, or a
        DataFrame with columns path or text and label
    groups : a column of the table, a CSV file with columns path and group, or a group for each example

    Raises
    ------
    InputError
        If it is not there, or not what it should be.
    """
    column = groups if isinstance(groups, str) and not Path(groups).is_file() else None
    if isinstance(data, pd.DataFrame):
        source = _table(data, Path(), column, "the table", task)
    elif isinstance(data, str | Path):
        source = _named(str(data), column, plugins, task)
    elif isinstance(data, tuple) and len(data) == 2:
        source = _arrays(*data, "the images given", task)
    else:
        source = _dataset(data, task)
    if groups is None or source.groups is not None:
        return source
    if column is not None:
        raise InputError(f"--groups {column!r} is neither a file nor, with data from a table, a column of it")
    return replace(source, groups=_groups(groups, source))


def _made(raw_of: Any, labels: Any, task: Task, name: str) -> Source:
    """``raw_of`` makes the examples from their class numbers."""
    numbers, columns, classes = read_labels(labels, task)
    found = RawSet(classes, raw_of(numbers), None)
    return Source(name, found, Data.model_validate({"name": name}), task, columns)


# ---------------------------------------------------------------------------------------- by name or path


def _named(text: str, column: str | None, plugins: Sequence[str], task: Task) -> Source:
    name, _, options = text.partition("?")
    path = Path(name).expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        _only_classes(task, name)
        return _set(text, plugins)
    parsed = parse_data(f"{name}?{options}")
    if stat.S_ISDIR(mode):
        if any((path / one).is_file() for one in ("state.json", "dataset_dict.json")):
            return replace(_on_disk(path, column, task), options=parsed)
        _only_classes(task, name)
        root = _examples_folder(path)
        found = read_set(f"folder:{root.absolute()}", False, plugins)
        split = (
            () if root == path else (f"the examples are those of {root.name}/; other splits are not used",)
        )
        return Source(name, replace(found, test=None, notes=(*found.notes, *split)), parsed)
    if not stat.S_ISREG(mode) or path.stat().st_size > LARGEST:
        raise InputError(f"{name} is no file of a data set's size")
    if path.suffix in TABLES:
        source = _table(_read_table(path), path.parent, column, name, task)
    elif path.suffix == ".npz":
        source = _npz(path, task)
    else:
        raise InputError(f"{name} is no data set: a folder with a folder per class, .csv, .tsv or .npz is")
    return replace(source, options=parsed)


def _only_classes(task: Task, name: str) -> None:
    if task != "classification":
        raise InputError(
            f"{name} has one class for each example: for the task {task} give a .csv with columns path and "
            "label, an .npz, or arrays"
        )


def _set(text: str, plugins: Sequence[str]) -> Source:
    data = parse_data(text)
    try:
        found = read_set(data.name, True, plugins)
    except InputError as error:
        if ":" in data.name:
            raise
        raise InputError(f"there is no path {data.name}, and {error}") from None
    return Source(data.name, replace(found, test=None), data)


def _examples_folder(path: Path) -> Path:
    """The folder of class folders: the one called train, else the largest of splits with the same classes."""
    inside = {
        entry.name: sorted(one.name for one in os.scandir(entry) if one.is_dir())
        for entry in os.scandir(path)
        if entry.is_dir() and not entry.name.startswith(".")
    }
    for name in inside:
        if name.lower() in TRAIN_FOLDERS and inside[name]:
            return path / name
    kinds = list(inside.values())
    if len(kinds) > 1 and kinds[0] and all(kind == kinds[0] for kind in kinds):
        return path / max(inside, key=lambda name: sum(len(files) for _, _, files in os.walk(path / name)))
    return path


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep=TABLES[path.suffix], dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from None


def _table(table: pd.DataFrame, root: Path, column: str | None, name: str, task: Task) -> Source:
    what = "text" if "text" in table and "path" not in table else "path"
    for one in [what, "label", *([column] if column else [])]:
        if one not in table:
            raise InputError(f"{name} has no column {one!r}: {nearest(one, map(str, table.columns))}")
    if not len(table):
        raise InputError(f"{name} has no row")
    blank = np.flatnonzero(table["label"].astype(str).str.strip() == "")
    if len(blank) and task != "multilabel":
        raise InputError(f"{name} has {counted(len(blank), 'row')} without a label, row {blank[0] + 1} first")
    if what == "text":
        texts = list(map(str, table["text"]))
        source = _made(lambda numbers: Texts(texts, numbers), table["label"], task, name)
        names = list(map(str, range(len(table))))
    else:
        names = [os.fspath(path) for path in table["path"]]
        if any(os.path.isabs(path) for path in names):
            names = [os.path.abspath(root / path).lstrip("/") for path in names]
            root = Path("/")
        source = _made(lambda numbers: Files(root, names, numbers), table["label"], task, name)
    if column is None:
        return source
    return replace(source, groups=dict(zip(names, map(str, table[column]), strict=True)))


def _npz(path: Path, task: Task) -> Source:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # damaged bytes may raise anything in the readers
        raise InputError(f"{path} cannot be read: {error}") from None
    images = next((arrays[key] for key in ("images", "x", "X", "data") if key in arrays), None)
    labels = next((arrays[key] for key in ("labels", "y", "label") if key in arrays), None)
    if images is None or labels is None:
        raise InputError(f"{path} holds {', '.join(arrays) or 'nothing'}: it should hold images and labels")
    source = _arrays(images, labels, str(path), task)
    if "groups" in arrays:
        return replace(source, groups={str(i): str(one) for i, one in enumerate(arrays["groups"])})
    return source


@dataclass(frozen=True, eq=False)
class _Rows:
    """Images as a data set of Hugging Face's holds them: the bytes of a file, or its path."""

    rows: Any
    column: str
    labels: NDArray[np.int64]

    def identifier(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> str:
        return content_digest(self._bytes(index))

    def image(self, index: int) -> Image.Image:
        return decode(self._bytes(index), f"image {index} of the data set")

    def _bytes(self, index: int) -> bytes:
        found = self.rows[index][self.column]
        if found["bytes"] is not None:
            return bytes(found["bytes"])
        path = Path(found["path"])
        return Files(path.parent, [path.name], self.labels).read(0)


def _on_disk(path: Path, column: str | None, task: Task) -> Source:
    """What ``save_to_disk`` of Hugging Face's datasets wrote: arrow files, and no code."""
    if importlib.util.find_spec("datasets") is None:
        raise InputError(f"{path} was saved by Hugging Face's datasets: pip install datasets reads it")
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged files may raise anything in the readers
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if isinstance(found, datasets.DatasetDict):
        found = found[next((name for name in TRAIN_FOLDERS if name in found), next(iter(found)))]
    facts = found.features
    images = [name for name, kind in facts.items() if isinstance(kind, datasets.Image)]
    name = next((one for one in ("label", "labels") if one in facts), None)
    if name is None or not (images or "text" in facts):
        raise InputError(f"{path} has columns {', '.join(facts)}: it should have images or text, and label")
    labels: Any = list(found[name])
    known = facts[name]
    if isinstance(known, datasets.ClassLabel):
        labels = [known.int2str(one) for one in labels]
    if images:
        rows = found.cast_column(images[0], datasets.Image(decode=False)).select_columns(images[:1])
        source = _made(lambda numbers: _Rows(rows, images[0], numbers), labels, task, str(path))
    else:
        texts = list(map(str, found["text"]))
        source = _made(lambda numbers: Texts(texts, numbers), labels, task, str(path))
    if column is None:
        return source
    if column not in facts:
        raise InputError(f"{path} has no column {column!r}: {nearest(column, facts)}")
    return replace(source, groups={str(i): str(one) for i, one in enumerate(found[column])})


# ----------------------------------------------------------------------------------------- from memory


def _arrays(images: Any, labels: Any, name: str, task: Task) -> Source:
    array = _pixels(as_numpy(images), name)
    source = _made(lambda numbers: Pixels(array, numbers), labels, task, name)
    if len(array) != len(source.found.train.labels):
        raise InputError(f"{name}: there are {len(array)} images and {len(source.found.train.labels)} labels")
    return source


def _pixels(array: Array, name: str) -> NDArray[np.uint8]:
    """n x H x W or n x H x W x 3 of 8 bits; float images are in [0, 1], and channels may come first."""
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or not len(array):
        raise InputError(
            f"{name}: images should be n x H x W, n x H x W x 3 or n x 3 x H x W, not {array.shape}"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name}: images should be uint8, or floats in [0, 1], not {array.dtype}")
    if not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InputError(f"{name}: image {bad} holds NaN or infinity")
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(
            f"{name}: float images should be in [0, 1], before any normalisation; found "
            f"{array.min():.3g} to {array.max():.3g}"
        )
    return np.ascontiguousarray((array * 255).round().astype(np.uint8))


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Images of any sizes, in memory."""

    pictures: list[Image.Image]
    labels: NDArray[np.int64]

    def identifier(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> str:
        picture = self.pictures[index]
        return digest([picture.mode, picture.size, picture.tobytes().hex()])

    def image(self, index: int) -> Image.Image:
        return self.pictures[index]


def _dataset(data: Any, task: Task) -> Source:
    """A torch Dataset, or the one behind a DataLoader: items are (image, label), or such mappings."""
    data = getattr(data, "dataset", data)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise InputError(
            f"data is a {type(data).__name__}: a path, (images, labels), a Dataset, a DataLoader or a "
            "DataFrame with path or text and label can be read"
        )
    pictures, labels = [], []
    for index in range(len(data)):
        item = data[index]
        try:
            image, label = (item["image"], item["label"]) if isinstance(item, Mapping) else item
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"item {index} of the data set is neither (image, label) nor a mapping with image and label"
            ) from None
        if not isinstance(image, Image.Image):
            image = Image.fromarray(_pixels(as_numpy(image)[None], f"item {index}")[0])
        pictures.append(image)
        labels.append(label)
    source = _made(lambda numbers: _Pictures(pictures, numbers), labels, task, "the data set given")
    names, classes = getattr(data, "classes", None), source.found.classes
    if names is None or classes != tuple(str(i) for i in range(len(names))):
        return source
    return replace(source, found=replace(source.found, classes=tuple(map(str, names))))


def _groups(groups: Any, source: Source) -> dict[str, str]:
    raw: Raw = source.found.train
    names = [raw.identifier(row) for row in range(len(raw.labels))]
    if isinstance(groups, str | Path):
        table = _read_table(Path(groups)) if Path(groups).suffix in TABLES else None
        if table is None or not {"path", "group"} <= set(table.columns):
            raise InputError(f"{groups} should be a .csv or .tsv with columns path and group")
        return dict(zip(table["path"], table["group"], strict=True))
    values = list(groups)
    if len(values) != len(names):
        raise InputError(f"there are {len(values)} groups for {len(names)} examples")
    return dict(zip(names, map(str, values), strict=True))
