"""The results folder of a suite: one schema a table, one writer, one reader, a manifest of digests.

A folder holds the tables of the stages, ``correct.npz``, ``suite.json`` and ``provenance.json``, and what was
derived from them (leaderboards, figures). ``manifest.json`` gives the SHA-256 of each file: whatever was
changed, emptied or lost since it was written is found on reading.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic, read_json, write_json
from ckptbench.base.folders import results_roots
from ckptbench.base.store import Store
from ckptbench.base.text import nearest
from ckptbench.base.types import Provenance
from ckptbench.suites import Suite, explain

# A column has one meaning, and so one type, in whichever table it stands.
COLUMNS = {
    "scores": "source target epoch selector repeat score status message seconds origin",
    "truth": "source target protocol goal epoch seed accuracy balanced_accuracy status message "
    "seconds device deviation penalty test_examples row",
    "validation": "source target protocol goal epoch fold accuracy status message seconds device",
    "checkpoints": "source epoch digest architecture source_accuracy train_loss train_accuracy sound "
    "instructions precision",
    "extraction": "source target split epoch examples seconds bytes",
    "spectra": "source target epoch index sigma",
    "embedding": "source target epoch after x y label",
}
KEYS = {
    "scores": ["source", "target", "epoch", "selector", "repeat"],
    "truth": ["source", "target", "protocol", "goal", "epoch", "seed"],
    "validation": ["source", "target", "protocol", "epoch", "fold"],
    "checkpoints": ["source", "epoch"],
    "extraction": ["source", "target", "split", "epoch"],
    "spectra": ["source", "target", "epoch", "index"],
}
TEXT = {
    "suite_digest", "source", "target", "protocol", "goal", "selector", "status", "message", "device",
    "origin", "digest", "architecture", "sound", "instructions", "precision", "split", "after", "label",
    "problem", "left_out",
}  # fmt: skip
WHOLE = {"epoch", "repeat", "seed", "fold", "row", "index"}
OPTIONAL = ("validation", "spectra", "embedding")
MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Results:
    """All that is known of a suite: its tables, a row an observation, with the columns of ``COLUMNS``.

    ``truth.accuracy`` is a fraction, ``sound`` in ``checkpoints`` says what is wrong with the source run
    (empty: nothing), ``correct`` maps "source|target" to packed correctness of the test examples, rows x
    ceil(T/8), indexed by ``truth.row`` (-1 where none was kept). ``validation`` is what procedures may read:
    accuracies on folds of the train split. ``spectra`` and ``embedding`` draw the features. All three may be
    missing.
    """

    suite: Suite
    scores: pd.DataFrame
    truth: pd.DataFrame
    checkpoints: pd.DataFrame
    extraction: pd.DataFrame
    correct: Mapping[str, NDArray[np.uint8]]
    provenance: Provenance
    validation: pd.DataFrame | None = None
    spectra: pd.DataFrame | None = None
    embedding: pd.DataFrame | None = None

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that are there, by name."""
        return {name: table for name in COLUMNS if (table := getattr(self, name)) is not None}

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """Read a folder that ``write`` wrote.

        Raises
        ------
        InputError
            If a file is missing or is not the one that was written, or the tables contradict each other.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        names = [
            name for name in COLUMNS
            if name not in OPTIONAL or f"{name}.csv" in manifest or (folder / f"{name}.csv").exists()
        ]  # fmt: skip
        content: dict[str, Any] = {
            name: table_from_csv(name, read_file(folder, f"{name}.csv", manifest), folder / f"{name}.csv")
            for name in names
        }
        correct = _read_correct(read_file(folder, "correct.npz", manifest), folder / "correct.npz")
        about = {
            name: _read_json(kind, read_file(folder, f"{name}.json", manifest), folder / f"{name}.json")
            for name, kind in (("suite", Suite), ("provenance", Provenance))
        }
        results = cls(**content, **about, correct=correct)
        results._check(folder)
        return results

    def write(self, folder: str | Path) -> None:
        """Write the tables whole or not at all; what was derived from former ones goes.

        Every file is written under another name first. The manifest is renamed last, so that a reader of a
        half-renamed folder is told so. A frozen bundle, which has a manifest of its own, stays.

        Raises
        ------
        InputError
            If the tables contradict each other, or the folder cannot be written.
        """
        folder = Path(folder)
        self._check(folder)
        files = {
            f"{name}.csv": table.to_csv(index=False, lineterminator="\n").encode()
            for name, table in self.tables.items()
        }
        packed = io.BytesIO()
        arrays: dict[str, Any] = dict(self.correct)
        np.savez_compressed(packed, **arrays)
        files["correct.npz"] = packed.getvalue()
        files["suite.json"] = self.suite.model_dump_json(indent=1).encode() + b"\n"
        files["provenance.json"] = TypeAdapter(Provenance).dump_json(self.provenance, indent=1) + b"\n"
        try:
            former = _read_manifest(folder)
        except InputError:  # there is none, or it is damaged: then nothing is known of what it listed
            former = {}
        parts = {}
        try:
            for name, content in files.items():
                parts[name] = folder / f".{name}.new"
                with atomic(parts[name]) as file:
                    file.write(content)
            parts[MANIFEST] = folder / f".{MANIFEST}.new"
            write_json(
                parts[MANIFEST], {"files": {name: _sha256(content) for name, content in files.items()}}
            )
            for name in former.keys() - files.keys():
                _inside(folder, name).unlink(missing_ok=True)
            for name, part in parts.items():
                part.replace(folder / name)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)

    @staticmethod
    def attach(folder: str | Path, name: str, content: str | bytes) -> None:
        """Write a derived file (``LEADERBOARD.md``, ``figures/tau-fe.svg``) and enter it in the manifest.

        Entries of derived files that are there no more go.
        """
        folder = Path(folder)
        raw = content.encode() if isinstance(content, str) else content
        with atomic(_inside(folder, name)) as file:
            file.write(raw)
        files = _read_manifest(folder) | {name: _sha256(raw)}
        kept = {one: sha for one, sha in files.items() if one in _CORE or _inside(folder, one).exists()}
        write_json(folder / MANIFEST, {"files": kept})

    def _check(self, folder: Path) -> None:
        """That no cell stands twice, and every cell has its checkpoint and its row of correctness."""
        for name, key in KEYS.items():
            if (table := getattr(self, name)) is None:
                continue
            if len(again := table[table.duplicated(key)]):
                cell = ", ".join(f"{column} {again.iloc[0][column]}" for column in key)
                raise InputError(f"{folder / name}.csv holds a cell twice: {cell}")
        known = set(zip(self.checkpoints["source"], self.checkpoints["epoch"], strict=True))
        for name in ("scores", "truth"):
            table = getattr(self, name)
            if strange := set(zip(table["source"], table["epoch"], strict=True)) - known:
                source, epoch = min(strange)
                raise InputError(f"{folder / name}.csv: {source} epoch {epoch} is not in checkpoints.csv")
        last_rows = self.truth.groupby(self.truth["source"] + "|" + self.truth["target"])["row"].max()
        for place, last in last_rows.items():
            have = len(self.correct.get(str(place), ()))
            if last >= have:
                raise InputError(
                    f"{folder / 'correct.npz'} has {have} rows for {place}, truth.csv asks for row {last}"
                )


_CORE = {f"{name}.csv" for name in COLUMNS} | {"correct.npz", "suite.json", "provenance.json"}


# --------------------------------------------------------------------------------------------- tables


def make_table(name: str, rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of ``COLUMNS`` from rows; what a row leaves out is missing: no text, no number.

    Raises
    ------
    InputError
        If a row has another column, or none of a whole number's.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return _typed(name, frame, f"table {name}")


def table_from_csv(name: str, content: bytes, path: Path) -> pd.DataFrame:
    """A table, exactly as it was written: words as text and numbers as numbers.

    Parameters
    ----------
    name : of ``COLUMNS``, or of a derived table, whose columns are those that it has

    Raises
    ------
    InputError
        If it cannot be read or lacks a column. ``path`` is what the message calls it.
    """
    try:
        found = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} cannot be read: {error}") from None
    if lost := [column for column in COLUMNS.get(name, "").split() if column not in found.columns]:
        raise InputError(f"{path} lacks the column {lost[0]!r}")
    return _typed(name, found, str(path))


def _typed(name: str, frame: pd.DataFrame, where: str) -> pd.DataFrame:
    columns = COLUMNS[name].split() if name in COLUMNS else list(frame.columns)
    if strange := [str(column) for column in frame.columns if column not in columns]:
        raise InputError(f"{where} has a column {strange[0]!r}: {nearest(strange[0], columns)}")
    frame = frame.reindex(columns=columns)
    for column in columns:
        values = frame[column]
        try:
            if column in TEXT:
                frame[column] = values.astype(object).where(values.notna(), "").astype(str)
            elif column in WHOLE:
                frame[column] = values.astype(np.int64)
            else:
                # Python's parser of numbers, unlike that of older pandas, is exact to the last bit.
                numbers = np.array([np.nan if v == "" else v for v in values], dtype=np.float64)
                frame[column] = numbers.round(6) if column == "seconds" and name in COLUMNS else numbers
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}, column {column!r}: {error}") from None
    return frame


def _read_correct(content: bytes, path: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _read_json(kind: type[Any], content: bytes, path: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from None


# ------------------------------------------------------------------------------------------- manifest


def read_file(folder: str | Path, name: str, manifest: Mapping[str, str] | None = None) -> bytes:
    """A file of a results folder, checked against its manifest.

    Raises
    ------
    InputError
        If it is missing, or was changed since it was written.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder) if manifest is None else manifest
    path = _inside(folder, name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"the results folder {folder} lacks {name}") from None
    if name not in manifest:
        raise InputError(f"{folder / MANIFEST} does not list {name}: the suite's run did not write it")
    if _sha256(content) != manifest[name]:
        raise InputError(
            f"{path} was changed: its digest is not the one in {MANIFEST}; restore it, or run the suite again"
        )
    return content


def lists(folder: str | Path, name: str) -> bool:
    """Whether a file was written with a results folder, or derived from it since."""
    return name in _read_manifest(Path(folder))


def verify(folder: str | Path) -> list[str]:
    """The names of all files of a results folder, each found to be the one that was written.

    Raises
    ------
    InputError
        If one is missing or was changed.
    """
    manifest = _read_manifest(Path(folder))
    for name in manifest:
        read_file(folder, name, manifest)
    return sorted(manifest)


def _read_manifest(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise InputError(f"there is no results folder {folder}")
    path = folder / MANIFEST
    try:
        return dict(read_json(path)["files"])
    except FileNotFoundError:
        raise InputError(f"the results folder {folder} lacks {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; restore it, or run the suite again") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _inside(folder: Path, name: str) -> Path:
    """A file below the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / MANIFEST} names {name!r}, which is not inside the folder")
    return path


# ------------------------------------------------------------------------------------ where they lie


def local_root(store: str | Path | None = None) -> Path:
    """Where runs write their results folders: ``results`` in the store's folder."""
    return Store(store).root / "results"


def find_results(
    suite: str, store: str | Path | None = None, where: str | Path | None = None
) -> tuple[Path, Literal["local", "published"]]:
    """A suite's results folder: that of a local run where there is one, else the published one.

    Parameters
    ----------
    suite : its name, or the TOML file that it was run from
    where : ``local`` or ``published`` to look there alone, or a folder that holds the suite's

    Raises
    ------
    InputError
        If there is none.
    """
    name = Path(suite).stem if suite.endswith(".toml") else suite
    places: list[tuple[Path, Literal["local", "published"]]] = [(local_root(store), "local")]
    places += [(root, "published") for root in results_roots()]
    if where in ("local", "published"):
        places = [place for place in places if place[1] == where]
    elif where is not None:
        places = [(Path(where), "local")]
    for root, kind in places:
        if (root / name / MANIFEST).is_file():
            return root / name, kind
    known = {path.parent.name for root, _ in places for path in root.glob(f"*/{MANIFEST}")}
    among = "local or published " if where is None else f"{where} " if where in ("local", "published") else ""
    place = "" if among else f" in {where}"
    raise InputError(f"no {among}results of a suite called {name!r}{place}: {nearest(name, known)}")
