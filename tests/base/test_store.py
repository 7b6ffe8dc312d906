"""The store: whole files or none, damage found and healed, one process at a time on one key."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic, read_json, write_json, write_text
from ckptbench.base.store import Store
from ckptbench.base.types import Cell

KEY = {
    "what": "features/1",
    "weights": "w",
    "architecture": "a",
    "layer": None,
    "extractor": "e",
    "examples": "x",
}
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def write(store: Store, key: dict[str, object] = KEY) -> None:
    store.write_features(key, iter([ROWS[:3], ROWS[3:]]), (4, 3), np.float16, 1.5)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


def flip(path: Path, position: int = -2) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_features_come_back_as_a_read_only_memory_map(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.read_features(KEY) is None
    assert not store.has_features(KEY)
    write(store)
    found = store.read_features(KEY)
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, ROWS.astype(np.float16))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
    facts = store.features_facts(KEY)
    assert facts is not None
    assert facts["key"] == KEY
    assert facts["seconds"] == 1.5
    assert facts["bytes"] == only(tmp_path, "*.npy").stat().st_size
    assert store.damaged == []


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("pattern", ["features/*/*.npy", "features/*/*.json"])
def test_damaged_features_count_as_missing_and_are_named_once(tmp_path: Path, harm, pattern: str) -> None:
    store = Store(tmp_path)
    write(store)
    path = only(tmp_path, pattern)
    harm(path)
    assert store.read_features(KEY) is None
    assert store.read_features(KEY) is None
    gone = harm is Path.unlink and path.suffix == ".json"  # with the sidecar gone there is nothing to miss
    assert len(store.damaged) == (0 if gone else 1)
    assert gone or path.stem in store.damaged[0]
    assert harm is Path.unlink or path.exists()  # another process may just be replacing it
    write(store)
    np.testing.assert_array_equal(store.read_features(KEY), ROWS.astype(np.float16))


def test_every_flipped_bit_of_a_cell_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell = Cell({"what": "test", "seed": 3}, "ok", 0.8125, "a note", 2.5, {"correct": "gA==", "loss": 0.1})
    store.write_cell(cell)
    assert store.read_cell(cell.key) == cell
    path = only(tmp_path, "cells/*/*.json")
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position)
        fresh = Store(tmp_path)
        assert fresh.read_cell(cell.key) is None, f"byte {position}"
        assert len(fresh.damaged) == 1
        path.write_bytes(whole)
    assert store.read_cell(cell.key) == cell


def test_cells_keep_numbers_exactly_and_failures_are_not_ok(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = [{"seed": seed} for seed in range(4)]
    store.write_cell(Cell(keys[0], "ok", 1 / 3))
    store.write_cell(Cell(keys[1], "ok", float("nan")))
    store.write_cell(Cell(keys[2], "failed", None, "diverged"))
    assert store.read_cell(keys[0]).value == 1 / 3
    assert np.isnan(store.read_cell(keys[1]).value)
    assert [store.is_ok(key) for key in keys] == [True, True, False, False]
    assert store.has_all(keys[:2])
    assert not store.has_all(keys[:3])


def test_a_head_belongs_to_weights_and_layer_whatever_the_examples(tmp_path: Path) -> None:
    store = Store(tmp_path)
    weight, bias = np.ones((5, 3), np.float32), np.zeros(5, np.float32)
    assert not store.has_head(KEY)
    store.write_head(KEY, (weight, bias))
    found = store.read_head({**KEY, "examples": "others", "precision": "bf16"})
    assert found is not None
    np.testing.assert_array_equal(found[0], weight)
    assert found[0].dtype == np.float64
    assert store.read_head({**KEY, "layer": "classifier.3"}) is None
    store.write_head({**KEY, "weights": "bare"}, None)
    assert store.has_head({**KEY, "weights": "bare"})
    assert store.read_head({**KEY, "weights": "bare"}) is None


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_damaged_head_counts_as_missing(tmp_path: Path, harm) -> None:
    store = Store(tmp_path)
    store.write_head(KEY, (np.ones((5, 3), np.float32), np.zeros(5, np.float32)))
    harm(only(tmp_path, "*.npy"))
    assert not store.has_head(KEY)
    assert store.read_head(KEY) is None
    assert len(store.damaged) == 1


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="the disk is full"):
            write_text(path, "after")
    else:
        with pytest.raises(InputError, match="the disk is full"), atomic(path):
            full()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")
    with pytest.raises(TypeError), atomic(path) as file:
        file.writelines([b"half of", None])
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_json_knows_whether_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    content = {"a": [1, 2.5], "b": {"c": "d"}}
    write_json(path, content)
    assert read_json(path) == content
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(ValueError, match="digest"):
        read_json(path)
    for text in ("[1]", '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="digest"):
            read_json(path)


def test_the_folder_comes_from_the_environment_and_does_not_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CKPTBENCH_STORE", raising=False)
    assert Store().root == tmp_path / ".ckptbench"
    monkeypatch.setenv("CKPTBENCH_STORE", "elsewhere")
    store = Store()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir("sub")
    assert store.root == tmp_path / "elsewhere"
    assert Store("given").root == tmp_path / "sub" / "given"


def test_a_file_where_the_store_should_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        Store(tmp_path / "file").write_cell(Cell({"a": 1}, "ok", 1.0))


def test_one_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(30):
            with Store(tmp_path).lock(KEY):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "120"


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ckptbench.base.store import Store\n"
        f"with Store({str(tmp_path)!r}).lock({KEY!r}): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (tmp_path / "locks").joinpath(only(tmp_path / "locks", "*").name).open("a") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    holder.stdout.close()
    with Store(tmp_path).lock(KEY):
        pass


def test_a_file_system_without_locks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)  # what filelock calls
    with pytest.raises(InputError, match="without locks"), Store(tmp_path).lock(KEY):
        pass
