"""Data sets by name: which examples of which set, exactly, decoded only when asked for.

A set is read in two steps. A *reader* lists what there is (``Raw``: identifiers, labels, a content hash and an
image for each example, nothing decoded). ``load_target`` then samples per class with the seed, checks that train,
pool and test share no example, and writes the manifest digest: the ordered (identifier, content hash, label) of
each split with the transform, so that one digest names exactly which pixels were used.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from ckptbench.suites import Data, TargetSpec, nearest
from ckptbench.types import Array, InputError, Target, derive_seed

DECODER = "pil-1"  # named in every manifest: a change of the pixels made here needs another name
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
TEST_FOLDERS = ("test", "val", "valid")


def data_root() -> Path:
    """Where relative ``folder:`` paths begin and downloads go: CKPTBENCH_DATA, or ``data`` here."""
    return Path(os.environ.get("CKPTBENCH_DATA") or "data").expanduser()


class Raw(Protocol):
    """One split of a set as it is there: nothing sampled, nothing decoded."""

    labels: NDArray[np.int64]

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


# ------------------------------------------------------------------------------------------- pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: transparent parts become white, 16-bit grey keeps its high byte."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def to_pixels(image: Image.Image, size: int, flip: str) -> NDArray[np.uint8]:
    """3 x size x size: the shorter side scaled to ``size`` (bilinear), the centre square, flipped."""
    pixels = np.asarray(ImageOps.fit(to_rgb(image), (size, size), Image.Resampling.BILINEAR))
    if flip in ("horizontal", "both"):
        pixels = pixels[:, ::-1]
    if flip in ("vertical", "both"):
        pixels = pixels[::-1]
    return pixels.transpose(2, 0, 1)


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split (the protocol ``Examples``): rows of a ``Raw`` with their final labels."""

    raw: Raw = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    size: int
    flip: str
    digest: str

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """Decode some examples: uint8, n x 3 x size x size.

        Raises
        ------
        InputError
            If a file cannot be read as an image.
        """
        rows = self.rows[indices]
        pixels = np.empty((len(rows), 3, self.size, self.size), np.uint8)
        for place, row in enumerate(rows):
            pixels[place] = to_pixels(self.raw.image(int(row)), self.size, self.flip)
        return pixels


# ------------------------------------------------------------------------------------------ sampling


def load_target(spec: TargetSpec | Data, name: str | None = None) -> Target:
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
    return _sample(read_set(spec), spec, name or spec.name)


def _sample(found: RawSet, data: Data, name: str) -> Target:
    classes = _choose_classes(found.classes, data)
    number = {kind: found.classes.index(kind) for kind in classes}
    rows: dict[str, list[int]] = {"train": [], "pool": [], "test": []}
    left_out = 0
    candidates: dict[str, NDArray[np.int64]] = {}
    taken: set[str] = set()
    for kind in classes:
        order = _shuffled(np.flatnonzero(found.train.labels == number[kind]), "train", kind, data.seed)
        if found.test is None:
            cut = math.ceil(data.test_fraction * len(order))
            candidates[kind], test = order[cut:], order[:cut]
        else:
            candidates[kind] = order
            test = _shuffled(np.flatnonzero(found.test.labels == number[kind]), "test", kind, data.seed)
        if data.test_per_class is not None:
            _enough(name, kind, "test", data.test_per_class, len(test))
            test = test[: data.test_per_class]
        rows["test"] += test.tolist()
    raw_test = found.train if found.test is None else found.test
    taken = {raw_test.content(row) for row in rows["test"]}
    for split in ("train", "pool"):
        seen: set[str] = set()
        for kind in classes:
            order = candidates[kind]
            if split == "train":
                wanted = data.per_class
                if data.rate is not None:
                    wanted = max(1, round(data.rate * len(order)))
            else:
                wanted = data.pool_per_class
                if wanted is None:
                    continue
            chosen: list[int] = []
            position = 0
            while position < len(order) and (wanted is None or len(chosen) < wanted):
                row = int(order[position])
                position += 1
                content = found.train.content(row)
                if content in taken:
                    left_out += 1
                    continue
                seen.add(content)
                chosen.append(row)
            if wanted is not None:
                _enough(name, kind, split, wanted, len(chosen))
            candidates[kind] = order[position:]
            rows[split] += chosen
        taken |= seen
    notes = found.notes
    if left_out:
        notes += (f"{left_out} train examples left out: the same image is in another split",)

    def split_of(kind: str, raw: Raw) -> Split:
        return _split(
            raw, _shuffled(np.array(rows[kind], np.int64), kind, "rows", data.seed), found, data, classes
        )

    train, test_split = split_of("train", found.train), split_of("test", raw_test)
    pool = split_of("pool", found.train) if data.pool_per_class is not None else None
    names = _label_names(classes, data.label_map)
    _check(name, names, train, test_split)
    parts = [list(names), train.digest, test_split.digest, pool.digest if pool else None]
    return Target(name, _hash(json.dumps(parts).encode()), names, train, test_split, pool, notes)


def _shuffled(rows: NDArray[np.int64], split: str, kind: str, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive_seed("sample", split, kind, seed)).permutation(rows)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _enough(name: str, kind: str, split: str, wanted: int, there: int) -> None:
    if there < wanted:
        raise InputError(
            f"{name}: class {kind!r} has {there} examples left for {split}, {wanted} were asked for"
        )


def _choose_classes(known: tuple[str, ...], data: Data) -> tuple[str, ...]:
    if data.classes is None:
        return known
    if isinstance(data.classes, int):
        if not 1 <= data.classes <= len(known):
            raise InputError(f"{data.name} has {len(known)} classes: classes = {data.classes} cannot be had")
        return known[: data.classes]
    for kind in data.classes:
        if kind not in known:
            raise InputError(f"{data.name} has no class {kind!r}: {nearest(kind, known)}")
    return tuple(dict.fromkeys(data.classes))


def _label_names(classes: tuple[str, ...], label_map: str) -> tuple[str, ...]:
    if label_map == "parity":
        return ("even", "odd")
    if label_map == "digit-ge-5":
        return ("0-4", "5-9")
    if label_map == "mean-colour":
        return ("red", "green", "blue")
    return classes


def _split(raw: Raw, rows: NDArray[np.int64], found: RawSet, data: Data, classes: tuple[str, ...]) -> Split:
    if data.label_map == "mean-colour":
        labels = np.array([_mean_colour(raw.image(int(row)), data) for row in rows], np.int64)
    else:
        table = np.full(len(found.classes), -1, np.int64)
        for label, kind in enumerate(classes):
            table[found.classes.index(kind)] = _map_label(label, kind, data)
        labels = table[raw.labels[rows]]
    labels.flags.writeable = False
    manifest = hashlib.sha256(json.dumps([DECODER, data.size, data.flip]).encode())
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        manifest.update(f"\n{raw.identifier(row)}\t{raw.content(row)}\t{label}".encode())
    return Split(raw, rows, labels, data.size, data.flip, manifest.hexdigest()[:32])


def _map_label(label: int, kind: str, data: Data) -> int:
    if data.label_map == "none":
        return label
    if not kind.isdecimal():
        raise InputError(
            f"label_map {data.label_map!r} needs classes that are numbers: {data.name} has {kind!r}"
        )
    return int(kind) % 2 if data.label_map == "parity" else int(int(kind) >= 5)


def _mean_colour(image: Image.Image, data: Data) -> int:
    """Which of red, green and blue has the largest mean; the transferability paper takes the upper part only."""
    return int(to_pixels(image, data.size, data.flip).mean(axis=(1, 2)).argmax())


def _check(name: str, classes: tuple[str, ...], train: Split, test: Split) -> None:
    if len(classes) < 2:
        raise InputError(f"{name} has one class, {classes[0]!r}: a target needs at least two")
    for split, examples, least in (("train", train, 2), ("test", test, 1)):
        counts = np.bincount(examples.labels, minlength=len(classes))
        short = int(counts.argmin())
        if counts[short] < least:
            plural = "example" if least == 1 else "examples"
            raise InputError(
                f"{name}: class {classes[short]!r} has {counts[short]} for {split}, at least {least} {plural} needed"
            )


# ------------------------------------------------------------------------------------------- readers


def read_set(data: Data) -> RawSet:
    """List what there is under a set's name: ``digits``, ``glyphs``, ``torchvision:NAME``, ``folder:PATH``."""
    kind, _, rest = data.name.partition(":")
    if kind == "folder" and rest:
        return read_folder(rest)
    if kind == "torchvision" and rest:
        return read_torchvision(rest)
    if data.name in BUILT_IN:
        return BUILT_IN[data.name]()
    known = [*BUILT_IN, "torchvision:NAME", "folder:PATH"]
    raise InputError(f"no data set is called {data.name!r}: {nearest(data.name, known)}")


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
            self.hashes[index] = _hash(self._bytes(index))
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
        path = self.root / self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_folder(text: str) -> RawSet:
    """``PATH`` with train/ and test/ (or val/, valid/), a folder per class in each; or one folder of class folders.

    With a wildcard (``omniglot/*/*``) every folder that it matches is a class.
    """
    base = data_root() / Path(text).expanduser()
    if "*" in text:
        fixed = Path(*base.parts[: next(i for i, part in enumerate(base.parts) if "*" in part)])
        pattern = str(base.relative_to(fixed))
        kinds = sorted(str(path.relative_to(fixed)) for path in fixed.glob(pattern) if path.is_dir())
        if not kinds:
            raise InputError(f"no folder matches {base}")
        return RawSet(tuple(kinds), _list_files(fixed, kinds), None)
    if not base.is_dir():
        why = "is not a folder" if base.exists() else "is not there"
        raise InputError(
            f"{base} {why}: relative paths begin at CKPTBENCH_DATA, or data in the current folder"
        )
    if not (base / "train").is_dir():
        kinds = _class_folders(base)
        return RawSet(tuple(kinds), _list_files(base, kinds), None)
    test = next((base / name for name in TEST_FOLDERS if (base / name).is_dir()), None)
    if test is None:
        raise InputError(
            f"{base} has train/ but no test/, val/ or valid/: folder:{text}/train would be split by the seed"
        )
    kinds, tested = _class_folders(base / "train"), _class_folders(test)
    for kind in sorted(set(kinds) ^ set(tested)):
        there, missing = (base / "train", test) if kind in kinds else (test, base / "train")
        raise InputError(f"class {kind!r} is in {there} but not in {missing}")
    return RawSet(tuple(kinds), _list_files(base / "train", kinds), _list_files(test, kinds))


def _class_folders(folder: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    if not entries:
        raise InputError(f"{folder} is empty: it should hold a folder of images per class")
    kinds = sorted(entry.name for entry in entries if entry.is_dir())
    if not kinds:
        raise InputError(f"{folder} has no class folders: images should lie in a folder per class")
    return kinds


def _list_files(root: Path, kinds: Sequence[str]) -> Files:
    paths: list[str] = []
    labels: list[int] = []
    for label, kind in enumerate(kinds):
        found = [
            f"{Path(folder).relative_to(root).as_posix()}/{name}"
            for folder, _, names in os.walk(root / kind)
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
        return _hash(self.array[index].tobytes())

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index])


def read_digits() -> RawSet:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return RawSet(tuple("0123456789"), Pixels(pixels, digits.target.astype(np.int64)), None)


GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GLYPH_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10", "cmb10", "cmti10",
)  # fmt: skip
GLYPH_SIZE = 32
MASK_SIZE = 64


@lru_cache(maxsize=4096)
def _glyph_mask(font: str, character: str, stroke: int) -> Image.Image:
    """The character in the middle of a MASK_SIZE square, twice the size it will be drawn at."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    # Basic layout: the other one is used only where libraqm is, and shapes differently.
    type_ = ImageFont.truetype(path, 50, layout_engine=ImageFont.Layout.BASIC)
    mask = Image.new("L", (MASK_SIZE, MASK_SIZE))
    middle = (MASK_SIZE / 2, MASK_SIZE / 2)
    left, top, right, bottom = type_.getbbox(character, stroke_width=stroke)
    corner = (round(middle[0] - (left + right) / 2), round(middle[1] - (top + bottom) / 2))
    ImageDraw.Draw(mask).text(corner, character, fill=255, font=type_, stroke_width=stroke)
    return mask


@dataclass(frozen=True, eq=False)
class Glyphs:
    """Rendered characters; example i is made from the seed (split, i) alone, when it is asked for."""

    split: str
    labels: NDArray[np.int64]

    def identifier(self, index: int) -> str:
        return f"{self.split}/{index}"

    def content(self, index: int) -> str:
        # The recipe stands for the pixels: rendering everything to hash it would cost more than using it.
        return _hash(f"{_glyph_recipe()}/{self.split}/{index}".encode())

    def image(self, index: int) -> Image.Image:
        draw = np.random.default_rng(derive_seed("glyphs", self.split, index)).random
        font, stroke, angle, scale, stretch, shear, right, down = draw(8).tolist()
        mask = _glyph_mask(
            GLYPH_FONTS[int(font * len(GLYPH_FONTS))], GLYPHS[self.labels[index]], int(stroke * 4)
        )
        # Output pixel -> mask pixel, about both centres: rotation x shear x scale.
        turn = math.radians(50 * (angle - 0.5))
        wide = MASK_SIZE / GLYPH_SIZE / (0.75 + 0.5 * scale)
        high = wide * (0.8 + 0.4 * stretch)
        slant = 0.8 * (shear - 0.5)
        a, b = wide * math.cos(turn), wide * (math.sin(turn) + slant)
        d, e = -high * math.sin(turn), high * math.cos(turn)
        x, y = GLYPH_SIZE / 2 + 8 * (right - 0.5), GLYPH_SIZE / 2 + 8 * (down - 0.5)
        matrix = (a, b, MASK_SIZE / 2 - a * x - b * y, d, e, MASK_SIZE / 2 - d * x - e * y)
        warped = mask.transform(
            (GLYPH_SIZE, GLYPH_SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        cover = np.asarray(warped, np.float32)[..., None] / np.float32(255)
        paper, ink, level = draw(3), draw(3), draw()
        # Ink at least a quarter of the range away from the paper in every channel, to either side.
        ink = np.where(draw() < 0.5, paper * (0.7 * ink), 1 - (1 - paper) * (0.7 * ink)).astype(np.float32)
        pixels = paper.astype(np.float32) * (1 - cover) + ink * cover
        pixels += np.float32(0.3 * level) * (
            draw((GLYPH_SIZE, GLYPH_SIZE, 3), dtype=np.float32) - np.float32(0.5)
        )
        return Image.fromarray(np.rint(pixels * 255).clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _glyph_recipe() -> str:
    """Names what the pixels are made from, so that another font file or rasteriser gives another digest."""
    seen = hashlib.sha256(b"glyphs-1")
    for font in GLYPH_FONTS:
        for character in GLYPHS:
            seen.update(_glyph_mask(font, character, 1).tobytes())
    return seen.hexdigest()


def read_glyphs() -> RawSet:
    """Letters A to Z from matplotlib's fonts, warped, coloured and noisy: 5,000 a class and 1,000 for test."""
    train, test = (np.tile(np.arange(len(GLYPHS)), count) for count in (5000, 1000))
    note = "glyphs is synthetic: characters rendered from fonts, not photographs of anything"
    return RawSet(tuple(GLYPHS), Glyphs("train", train), Glyphs("test", test), (note,))


def read_torchvision(name: str) -> RawSet:
    raise InputError(f"torchvision:{name} is not available yet")


BUILT_IN: dict[str, Callable[[], RawSet]] = {"digits": read_digits, "glyphs": read_glyphs}
