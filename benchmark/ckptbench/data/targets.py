"""Data sets by name: which examples of which set, exactly, decoded only when asked for.

A set is read in two steps. A *reader*, a plugin, lists what there is (``RawSet``: identifiers, labels, a
content hash and an image for each example, nothing decoded). ``load_target`` then samples per class with the
seed, checks that train, pool and test share no example, and writes the manifest digest: the ordered
(identifier, content hash, label) of each split with the transform, so that one digest names exactly which
pixels were used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ckptbench.base.digests import derive_seed, digest
from ckptbench.base.errors import InputError
from ckptbench.base.sampling import sample_size
from ckptbench.base.text import nearest
from ckptbench.base.types import Array, Examples, Float, Target
from ckptbench.data.images import to_pixels
from ckptbench.data.labels import read_labels
from ckptbench.data.names import read_set
from ckptbench.data.raw import Raw, RawSet, content_digest
from ckptbench.suites import WHOLE, Data, TargetSpec

EVERY = "*"  # the one class that several labels and numbers are sampled as
DECODER = "pil-1"  # named in every manifest: a change of the pixels made here needs another name
LABEL_MAPS = {
    "parity": ("even", "odd"),
    "digit-ge-5": ("below 5", "5 or more"),
    "mean-colour": ("red", "green", "blue"),
}


def load_target(
    spec: TargetSpec | Data, name: str | None = None, *, download: bool = True, plugins: Sequence[str] = ()
) -> Target:
    """Read a data set, a target's or a source run's, and sample it as its options say.

    Sampling is per class of the set (before ``label_map``) in a seeded order: the first ``per_class`` (or
    ``rate`` of them, at least one) are train, the next ``pool_per_class`` the pool, so that a larger number
    contains the smaller. An example whose content is also in the test split, or train's in the pool, is left
    out for the next one, and ``notes`` counts how many. The rows of each split come in a seeded order, not
    sorted by class.

    Raises
    ------
    InputError
        If the set is not there or is not what the options ask for.
    """
    if isinstance(spec, TargetSpec):
        spec, name = spec.data, spec.name
    return sample(read_set(spec.name, download, plugins), spec, name or spec.name)


def sample(found: RawSet, data: Data, name: str, tested: bool = True) -> Target:
    """The target called ``name`` that ``data`` asks for in the set that was found; see ``load_target``.

    With ``tested`` False nothing is kept for a test split, which is empty.
    """
    if not tested:
        found = replace(found, test=None)
    names, columns = _choose_classes(found.classes, data), None
    classes = names
    if data.task != "classification":
        columns, names = read_labels(found.classes, data.task)[1:]
        classes = (EVERY,)
    raw_test = found.train if found.test is None else found.test
    test: list[int] = []
    left: dict[str, deque[int]] = {}
    for kind in classes:
        rest, chosen = _split_class(found, data, kind)
        if not tested:
            rest, chosen = np.concatenate([chosen, rest]), chosen[:0]
        elif data.test_per_class is not None:
            _enough(name, kind, "test", data.test_per_class, len(chosen))
            chosen = chosen[: data.test_per_class]
        test += chosen.tolist()
        left[kind] = deque(rest.tolist())

    barred = {raw_test.content(row) for row in test}
    twins: list[int] = []

    def take(split: str, least: int | None) -> list[int]:
        """The next of each class, whose content is in no other split."""
        taken: list[int] = []
        for kind in classes:
            rate = data.rate if split == "train" else None
            wanted = least if rate is None else sample_size(len(left[kind]), rate)
            rows = _take(found.train, left[kind], wanted, barred, twins)
            if least is not None:
                _enough(name, kind, split, least, len(rows), _about(found.train, twins))
            taken += rows
        return taken

    train = take("train", data.per_class)
    barred |= {found.train.content(row) for row in train}
    pool = take("pool", data.pool_per_class) if data.pool_per_class is not None else []
    names = LABEL_MAPS.get(data.label_map, names)
    chosen_rows = (("train", found.train, train), ("test", raw_test, test), ("pool", found.train, pool))
    splits = [_split(*which, found.classes, classes, data, columns) for which in chosen_rows]
    about = _about(found.train, twins)
    _check(name, names, splits[0], splits[1] if tested else None, about)
    digests = [part.digest if len(part) else None for part in splits]
    notes = (*found.notes, about) if about else found.notes
    return Target(
        name, content_digest(json.dumps([names, *digests]).encode()), names,
        train=splits[0], test=splits[1], pool=splits[2] if pool else None, notes=notes,
    )  # fmt: skip


def _split_class(found: RawSet, data: Data, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a class that train (and pool) and test may be drawn from, in the order of drawing."""
    train_range, test_range = data.train_range, data.test_range
    if data.task == "classification":
        label = found.classes.index(kind)
        rows = np.flatnonzero(found.train.labels == label)
        tested = np.flatnonzero(found.test.labels == label) if found.test is not None else rows[:0]
    else:  # the stretch of each class, so that it meets no other one where these are classes
        rows = _of_all(found.train, found.classes, "train", train_range)
        tested = rows[:0] if found.test is None else _of_all(found.test, found.classes, "test", test_range)
        train_range = test_range = WHOLE
    if found.test is None and data.test_files:
        names = [found.train.identifier(int(row)).rpartition("/")[2] for row in rows]
        matched = [any(fnmatchcase(name, pattern) for pattern in data.test_files) for name in names]
        rows, tested = rows[~np.array(matched, bool)], rows[matched]
    order = _shuffled(_stretch(rows, "train", kind, train_range), "train", kind, data.seed)
    if found.test is None and not data.test_files:
        cut = math.ceil(data.test_fraction * len(order))
        return order[cut:], order[:cut]
    return order, _shuffled(_stretch(tested, "test", kind, test_range), "test", kind, data.seed)


def _of_all(raw: Raw, classes: tuple[str, ...], split: str, bounds: tuple[float, float]) -> NDArray[np.int64]:
    own = (np.flatnonzero(raw.labels == label) for label in range(len(classes)))
    parts = [_stretch(rows, split, kind, bounds) for rows, kind in zip(own, classes, strict=True)]
    return np.sort(np.concatenate(parts))


def _stretch(
    rows: NDArray[np.int64], split: str, kind: str, bounds: tuple[float, float]
) -> NDArray[np.int64]:
    """The rows between two shares of them, in an order that no seed of the suite changes."""
    if bounds == WHOLE:
        return rows
    low, high = (round(bound * len(rows)) for bound in bounds)
    order = np.random.default_rng(derive_seed("range", split, kind)).permutation(rows)
    return np.sort(order[low:high])


def _take(raw: Raw, left: deque[int], wanted: int | None, barred: set[str], twins: list[int]) -> list[int]:
    """Take the first ``wanted`` rows (None: all) out of ``left``; those of barred content go to ``twins``."""
    chosen: list[int] = []
    while left and (wanted is None or len(chosen) < wanted):
        row = left.popleft()
        (twins if raw.content(row) in barred else chosen).append(row)
    return chosen


def _about(raw: Raw, twins: list[int]) -> str:
    if not twins:
        return ""
    count = "1 training image was" if len(twins) == 1 else f"{len(twins)} training images were"
    return f"{count} left out, {raw.identifier(twins[0])} among them: the same image is in another split"


def _shuffled(rows: NDArray[np.int64], split: str, kind: str, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive_seed("sample", split, kind, seed)).permutation(rows)


def _enough(name: str, kind: str, split: str, wanted: int, there: int, about: str = "") -> None:
    if there < wanted:
        examples = "1 example" if there == 1 else f"{there} examples"
        about = about and f" ({about})"
        raise InputError(
            f"{name}: class {kind!r} has {examples} for {split} where {wanted} are needed{about}"
        )


def check_disjoint(run: str, source: Target, target: Target) -> None:
    """A target may hold no image that a source run is trained on.

    Raises
    ------
    InputError
        If it does: names the target, the run, the split, and how many images they share.
    """
    trained = _contents(source.train)
    for split, examples in (("train", target.train), ("test", target.test), ("pool", target.pool)):
        shared = trained & _contents(examples)
        if shared:
            raise InputError(
                f"{split} of target {target.name} holds {len(shared)} of the images that source run "
                f"{run} is trained on: give their data train_range or classes that do not meet"
            )


def _contents(examples: Examples | None) -> frozenset[str]:
    return examples.contents if isinstance(examples, Split) else frozenset()


def _choose_classes(known: tuple[str, ...], data: Data) -> tuple[str, ...]:
    if data.classes is None:
        return known
    if isinstance(data.classes, int):
        if not 1 <= data.classes <= len(known):
            raise InputError(f"{data.name} has {len(known)} classes: classes = {data.classes} cannot be had")
        return known[: data.classes]
    chosen: dict[str, None] = {}
    for kind in data.classes:
        matched = (
            [kind] if kind in known else [one for one in known if "*" in kind and fnmatchcase(one, kind)]
        )
        if not matched:
            raise InputError(f"{data.name} has no class {kind!r}: {nearest(kind, known)}")
        chosen |= dict.fromkeys(matched)
    return tuple(chosen)


def _split(
    which: str,
    raw: Raw,
    chosen: list[int],
    known: tuple[str, ...],
    classes: tuple[str, ...],
    data: Data,
    columns: Float | None = None,
) -> Split:
    rows = _shuffled(np.array(chosen, np.int64), which, "rows", data.seed)
    labels: Array
    if columns is not None:
        labels = columns[raw.labels[rows]]
    elif data.label_map == "mean-colour":
        labels = np.array([_mean_colour(raw.image(int(row)), data) for row in rows], np.int64)
    else:
        table = np.full(len(known), -1, np.int64)
        for label, kind in enumerate(classes):
            table[known.index(kind)] = _map_label(label, kind, data)
        labels = table[raw.labels[rows]]
    return make_split(raw, rows, labels, data)


def make_split(raw: Raw, rows: NDArray[np.int64], labels: Array, data: Data) -> Split:
    """Some rows of what was read, with their labels, under a digest of which pixels these are."""
    labels.flags.writeable = False
    scaling = [] if (data.crop, data.interpolation) == (1.0, "bilinear") else [data.crop, data.interpolation]
    manifest = hashlib.sha256(json.dumps([DECODER, data.size, data.flip, *scaling]).encode())
    contents = [raw.content(row) for row in rows.tolist()]
    for row, content, label in zip(rows.tolist(), contents, labels.tolist(), strict=True):
        manifest.update(f"\n{raw.identifier(row)}\t{content}\t{label}".encode())
    return Split(raw, rows, labels, data, manifest.hexdigest()[:32], frozenset(contents))


def _map_label(label: int, kind: str, data: Data) -> int:
    if data.label_map == "none":
        return label
    if not kind.isdecimal():
        raise InputError(
            f"label_map {data.label_map!r} needs classes that are numbers: {data.name} has {kind!r}"
        )
    return int(kind) % 2 if data.label_map == "parity" else int(int(kind) >= 5)


def _mean_colour(image: Image.Image, data: Data) -> int:
    """Which of red, green and blue has the largest mean over the image as it is used.

    Liu et al. 2019, Towards Understanding the Transferability of Deep Representations, section 5, label by
    the colour of the image's upper part.
    """
    return int(_pixels(image, data).mean(axis=(1, 2)).argmax())


def _pixels(image: Image.Image, data: Data) -> NDArray[np.uint8]:
    return to_pixels(image, data.size, data.flip, data.crop, data.interpolation)


def _check(name: str, classes: tuple[str, ...], train: Split, test: Split | None, about: str) -> None:
    if train.labels.ndim == 2:
        for split, labels in (("train", train.labels), *([("test", test.labels)] if test else [])):
            same = [] if len(labels) < 2 else np.flatnonzero(np.ptp(labels, axis=0) == 0).tolist()
            if len(labels) < 2 or same:
                what = f"label {classes[same[0]]!r} is the same" if same else "there are too few labels"
                raise InputError(f"{name}: {what} on the {split} split: nothing can be measured of it")
        return
    if len(classes) < 2:
        raise InputError(f"{name} has one class, {classes[0]!r}: a target needs at least two")
    for split, examples, least in (("train", train, 2), *([("test", test, 1)] if test is not None else [])):
        counts = np.bincount(examples.labels, minlength=len(classes))
        short = int(counts.argmin())
        if counts[short] < least:
            _enough(name, classes[short], split, least, int(counts[short]), about)


@dataclass(eq=False)
class Split:
    """Examples of one split (the protocol ``Examples``): rows of a ``Raw`` with their final labels."""

    raw: Raw = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    labels: Array = field(repr=False)
    data: Data = field(repr=False)
    digest: str
    contents: frozenset[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> Split:
        """The first examples, as a split of their own."""
        rows, labels = self.rows[:count], self.labels[:count]
        return replace(self, rows=rows, labels=labels, digest=digest([self.digest, len(rows)]))

    def images(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """Decode some examples: uint8, n x 3 x size x size.

        Raises
        ------
        InputError
            If a file cannot be read as an image.
        """
        rows = self.rows[indices]
        pixels = np.empty((len(rows), 3, self.data.size, self.data.size), np.uint8)
        try:
            for place, row in enumerate(rows):
                pixels[place] = _pixels(self.raw.image(int(row)), self.data)
        except InputError as error:
            raise InputError(self._unreadable() or str(error)) from None
        return pixels

    def _unreadable(self) -> str:
        """One sentence on all the files of the split that cannot be read, where they are several."""
        wrong = []
        for row in self.rows.tolist():
            try:
                self.raw.image(row)
            except InputError as error:
                wrong.append(str(error))
        if len(wrong) < 2:
            return ""
        rest = "; ..." if len(wrong) > 3 else ""
        return f"{len(wrong)} of {len(self)} images cannot be read: {'; '.join(wrong[:3])}{rest}"
