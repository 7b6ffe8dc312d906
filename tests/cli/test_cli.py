"""Bad input on the command line: one clear sentence, exit code 2 (130 for Ctrl-C), and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny import SUITE, write_suite
from PIL import Image

from ckptbench.base.store import Store
from ckptbench.cli.app import main
from ckptbench.cli.options import split_labels
from ckptbench.networks.architectures import find_architecture
from ckptbench.pipeline.plan import Options, resolve
from ckptbench.pipeline.provenance import collect
from ckptbench.plugins import load_plugins
from ckptbench.suites import load_suite

ARCH = "smallcnn:width=4"
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Invoke:
    """The command line in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ckptbench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capfd.readouterr()

    return run


def pictures(folder: Path, count: int = 6, classes: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")
    return folder


def checkpoints(folder: Path, epochs: int = 2, spec: str = ARCH) -> Path:
    folder.mkdir()
    architecture = find_architecture(spec, load_plugins("extractor"))
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        torch.save(architecture.build(3).state_dict(), folder / f"epoch{epoch}.pt")
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    checkpoints(tmp_path / "run")
    pictures(tmp_path / "images")
    return tmp_path


def rank(
    invoke: Invoke, run: str = "run", data: str = "", *more: object, arch: str = ARCH
) -> tuple[int, str, str]:
    data = data or f"folder:{Path.cwd()}/images?size=8"
    quick = ("--workers", 1, "--device", "cpu")
    return invoke("rank", run, "--arch", arch, "--data", data, *quick, *more)


def assert_sentence(done: tuple[int, str, str], sentence: str) -> None:
    code, out, err = done
    assert code == 2, err
    assert "Traceback" not in out + err
    said = [line for line in err.splitlines() if line.startswith("ckptbench: ")]
    assert len(said) == 1, err
    assert re.search(sentence, said[0]), said[0]


def test_what_is_right_works(invoke: Invoke, here: Path) -> None:
    code, out, err = rank(invoke)
    assert (code, "Traceback" in err) == (0, False)
    assert "epoch" in out


# Paths.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "nowhere.toml"), r"there is no suite file nowhere\.toml"),
        (
            ("rank", "nowhere", "--arch", ARCH, "--data", "digits"),
            "there is no folder of checkpoints nowhere",
        ),
        (("list", "selectors", "--plugins", "nowhere.py"), r"there is no plugin file or folder nowhere\.py"),
        (("judge", "nowhere.csv"), r"nowhere\.csv"),
        (("leaderboard", "nowhere"), "nowhere"),
        (("report", "nowhere"), "nowhere"),
        (("check", "nowhere.py"), r"nowhere\.py"),
    ],
)
def test_a_path_that_is_not_there(invoke: Invoke, arguments: tuple[str, ...], sentence: str) -> None:
    assert_sentence(invoke(*arguments), sentence)


def test_data_that_is_not_there(invoke: Invoke, here: Path) -> None:
    assert_sentence(rank(invoke, "run", "folder:nowhere"), "nowhere is not there")
    assert_sentence(rank(invoke, "run", f"folder:{here}/run/epoch0.pt"), "is not a folder")
    assert_sentence(rank(invoke, "run", f"{here}/run/epoch0.pt"), r"epoch0\.pt is no data set: a folder")


def test_an_empty_folder(invoke: Invoke, here: Path) -> None:
    (here / "empty").mkdir()
    assert_sentence(rank(invoke, "empty"), r"empty holds no checkpoint: files should end in \.safetensors")
    assert_sentence(rank(invoke, "run", f"folder:{here}/empty"), "empty is empty: it should hold a folder")


def test_a_folder_that_cannot_be_made(invoke: Invoke, here: Path) -> None:
    assert_sentence(rank(invoke, "run", "", "--store", here / "run" / "epoch0.pt"), "cannot make the folder")


# Checkpoints.


def test_a_truncated_or_foreign_checkpoint(invoke: Invoke, here: Path) -> None:
    path = here / "run" / "epoch1.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    said = r"checkpoint .*epoch1\.pt is damaged or no checkpoint"
    assert_sentence(rank(invoke, "run", "", "--strict"), said)
    path.write_text("this is a shopping list")
    assert_sentence(rank(invoke, "run", "", "--strict"), said)
    code, out, _ = rank(invoke)
    assert code == 0
    assert re.search(rf"skipped: {said}.*: skipped", out)


def test_a_state_dict_of_another_architecture(invoke: Invoke, here: Path) -> None:
    assert_sentence(rank(invoke, arch="resnet18"), r"epoch0\.pt is not a resnet18: missing .* more")
    assert_sentence(
        rank(invoke, arch="smallcnn:width=5"), r"shapes differ: 0\.weight is \(4, 3, 3, 3\), should be"
    )


def test_features_that_are_not_finite(invoke: Invoke, here: Path) -> None:
    path = here / "run" / "epoch0.pt"
    state = torch.load(path)
    state["0.weight"][:] = float("nan")
    torch.save(state, path)
    assert_sentence(
        rank(invoke, "run", "", "--strict"),
        r"features of checkpoint .*epoch0\.pt .* are not finite \(NaN or infinite\)",
    )
    code, out, _ = rank(invoke)
    assert code == 0
    assert "skipped: the features of epoch 0 are not finite" in out


def test_a_checkpoint_without_a_head_is_ranked(invoke: Invoke, here: Path) -> None:
    for path in (here / "run").glob("*.pt"):
        state = {key: value for key, value in torch.load(path).items() if not key.startswith("11.")}
        torch.save(state, path)
    assert rank(invoke)[0] == 0


# Names.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "dmeo"), r"no suite is called 'dmeo': did you mean 'demo'\?"),
        (("run", "demo", "--selectors", "logmee"), r"no selector is called 'logmee': did you mean 'logme'\?"),
        (("run", "demo", "--selectors", "knn:kk=3"), "knn has no parameter 'kk'"),
        (
            ("rank", "run", "--arch", "resnet81", "--data", "digits"),
            "no architecture is called 'resnet81': did you",
        ),
        (
            ("rank", "run", "--arch", ARCH, "--data", "digitz"),
            r"no data set is called 'digitz': did you mean 'digits'",
        ),
        (
            ("rank", "run", "--arch", ARCH, "--data", "digits?sise=3"),
            r"unknown option 'sise', did you mean 'size'\?",
        ),
        (("rank", "run", "--arch", ARCH, "--data", "torchvision:MNST"), "MNIST"),
        (("rank", "run", "--arch", ARCH, "--data", "digits", "--layer", "12"), "has no layer '12'"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest_known(
    invoke: Invoke, here: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert_sentence(invoke(*arguments), sentence)


def test_a_value_that_is_no_choice_is_a_usage_error(invoke: Invoke) -> None:
    for arguments in (
        ("run", "demo", "--device", "gpu"),
        ("run", "demo", "--workers", "0"),
        ("rnu", "demo"),
        ("run",),
    ):
        code, _, err = invoke(*arguments)
        assert code == 2
        assert "Traceback" not in err


# Data.


def test_a_target_with_one_class_or_a_class_of_one_example(invoke: Invoke, here: Path) -> None:
    pictures(here / "one-class", classes=1)
    assert_sentence(rank(invoke, "run", f"folder:{here}/one-class"), "has one class, 'class0'")
    pictures(here / "lonely")
    for path in list((here / "lonely" / "class1").iterdir())[1:]:
        path.unlink()
    assert_sentence(rank(invoke, "run", f"folder:{here}/lonely"), "class 'class1' has .* example")


def test_an_image_that_is_none(invoke: Invoke, here: Path) -> None:
    for path in (here / "images" / "class1").iterdir():
        path.write_text(f"{path.name} is no image")
    assert_sentence(rank(invoke), r"class1/\d\.png cannot be read as an image")


# Suites.


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs = 3", "epoch = 3", r"tiny\.toml: unknown key 'sources\.0\.epoch', did you mean 'epochs'\?"),
        ("lr = 0.05", "lr = -1", r"sources\.0\.training\.lr: .*greater than 0"),
        ('name = "ft"', 'name = "fe"', "two protocols are called 'fe'"),
        ("[[ft]]", "[[ft]", r"tiny\.toml cannot be read"),
        ("smallcnn:width=4", "smalcnn", r"no architecture is called 'smalcnn': did you mean 'smallcnn'\?"),
        ("test_per_class = 5", "test_per_class = 500", "for test where 500 are needed"),
    ],
)
def test_a_suite_file_with_a_fault(invoke: Invoke, tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in SUITE
    path = write_suite(tmp_path, SUITE.replace(old, new, 1))
    assert_sentence(invoke("run", path, "--device", "cpu"), sentence)


def test_a_source_run_that_diverges(invoke: Invoke, tmp_path: Path) -> None:
    path = write_suite(tmp_path, SUITE.replace("lr = 0.05", "lr = 1e30"))
    assert_sentence(invoke("pretrain", path, "--device", "cpu"), "source run run diverged in epoch")


# The machine.


def test_a_damaged_cache_is_reported_and_made_again(invoke: Invoke, here: Path) -> None:
    code, before, _ = rank(invoke, "run", "", "--json")
    assert code == 0
    store = here / ".ckptbench"
    features = [
        path
        for path in store.glob("features/*/*.npy")
        if "head/1" not in path.with_suffix(".json").read_text()
    ]
    files = [*features, *store.glob("cells/*/*")]
    assert len(files) == 10  # the answer as a whole among them
    for path in files:
        content = bytearray(path.read_bytes())
        content[-3] ^= 8
        path.write_bytes(content)
    code, after, err = rank(invoke, "run", "", "--json")
    assert code == 0
    assert "Traceback" not in err
    assert json.loads(after) == json.loads(before)
    for path in files:
        assert f"damaged, and computed again: {path}" in err.replace("\n", "")


def test_a_full_disk_keeps_what_was_there(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Full after so many files, wherever that is: in a source run, in extraction, in scores, in truth."""
    path = write_suite(tmp_path)
    arguments = ("truth", path, "--device", "cpu", "--workers", 1)
    calm = invoke(*arguments, "--store", "calm")
    assert calm[0] == 0
    fsync, room = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= 1
        fsync(descriptor)

    for allowed in (0, 5, 9, 20, 20, 20):  # each run goes on where the one before stopped
        room = allowed
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            before = {file for file in tmp_path.glob("store/**/*") if file.is_file()}
            assert_sentence(invoke(*arguments, "--store", "store"), "the disk is full: .* kept")
        after = {file for file in tmp_path.glob("store/**/*") if file.is_file()}
        assert {file for file in before - after if "resume" not in file.name} == set()
        assert not [file for file in after if file.suffix == ".part"]
        assert len(after) >= len(before)
    assert invoke(*arguments, "--store", "store")[0] == 0
    one, other = (
        collect(resolve(load_suite(path), Options(device="cpu"), Store(tmp_path / name)))
        for name in ("calm", "store")
    )
    for name in ("truth", "scores", "checkpoints"):
        tables = (getattr(results, name).drop(columns="seconds", errors="ignore") for results in (one, other))
        pd.testing.assert_frame_equal(*tables)


def test_ctrl_c_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    path = write_suite(tmp_path, SUITE.replace("epochs = 3", "epochs = 500"))
    command = [sys.executable, "-m", "ckptbench", "pretrain", str(path), "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".ckptbench/runs/*/epoch-003.safetensors")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "ckptbench: stopped; completed work is kept, rerun the same command to go on" in err
    (record,) = tmp_path.glob(".ckptbench/runs/*/run.json")
    assert len(json.loads(record.read_text())["checkpoints"]) >= 3


def test_a_reader_that_has_gone_is_no_news(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m ckptbench list selectors | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


# Options.


def test_commas_part_selectors_but_not_their_parameters() -> None:
    assert split_labels("a,b:k=3,scale=std,c") == ("a", "b:k=3,scale=std", "c")
    assert split_labels("logme") == ("logme",)
    assert split_labels("") == ()
    assert split_labels(None) is None
