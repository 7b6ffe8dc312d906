"""Truth at any scale: kills, crashes, failures, other processes, workers and a cluster change no number."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.tiny import (
    FRAGILE,
    SUITE,
    assert_same_tables,
    command,
    forked,
    run_suite,
    wait_exit,
    write_suite,
)
from typer.testing import CliRunner

import ckptbench
from ckptbench.base.digests import digest
from ckptbench.base.store import Store
from ckptbench.base.types import Cell
from ckptbench.cli.app import app
from ckptbench.networks import pretrain
from ckptbench.pipeline.forecast import forecast
from ckptbench.pipeline.plan import Options, Plan, resolve
from ckptbench.pipeline.provenance import collect
from ckptbench.pipeline.stages import fe_tasks, ft_tasks
from ckptbench.pipeline.stages import run as run_stages
from ckptbench.suites import load_suite
from ckptbench.truth import tasks as truth


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugins") / "fragile_score.py"
    path.write_text(FRAGILE)
    return path


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = SUITE.replace('"logme"', '"logme", "fragile"')
    return write_suite(tmp_path_factory.mktemp("suite"), text)


@pytest.fixture(scope="module")
def calm(suite: Path, plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """An undisturbed run in one process: its folder and its plan."""
    folder = tmp_path_factory.mktemp("calm")
    return folder, run_suite(suite, folder, plugins=(str(plugin),))


def test_the_undisturbed_run_is_whole(calm: tuple[Path, Plan]) -> None:
    table = pd.read_csv(calm[0] / "results" / "tiny" / "truth.csv")
    assert Counter(table["goal"]) == {"fe": 8, "ft": 8}
    assert set(table["status"]) == {"ok"}
    assert table["accuracy"].nunique() > 4
    scores = pd.read_csv(calm[0] / "results" / "tiny" / "scores.csv")
    assert set(scores["status"]) == {"ok"}
    assert (~scores["selector"].drop_duplicates().str.endswith("@permuted")).sum() == 7


def test_from_python_a_suite_is_one_call(tmp_path: Path, calm: tuple[Path, Plan]) -> None:
    shutil.copytree(calm[0] / "store", tmp_path / "store")
    path = write_suite(tmp_path)
    folder = ckptbench.run(path, store=tmp_path / "store", device="cpu", workers=1)
    assert folder == tmp_path / "store" / "results" / "tiny"
    assert "ridge-loo" in (folder / "LEADERBOARD.md").read_text()


def test_hours_come_from_measured_cells(tmp_path: Path, calm: tuple[Path, Plan]) -> None:
    """Of the protocol itself; of another one, of its stage."""
    shutil.copytree(calm[0] / "store", tmp_path / "store")
    ft = SUITE[SUITE.index("[[ft]]") :]
    longer = ft.replace('"ft"', '"longer"').replace("epochs = 2", "epochs = 14")
    more = ft.replace('"ft"', '"more"').replace("seeds = 2", "seeds = 6")
    suite = load_suite(write_suite(tmp_path, SUITE + longer + more))
    plan = resolve(suite, Options(device="cpu"), Store(tmp_path / "store"), missing="skip")
    table = forecast(plan).set_index("what")
    assert table.loc[["fe", "ft"], "hours"].tolist() == [0, 0]
    cells = [calm[1].store.read_cell(task.cell_keys()[0]) for task in ft_tasks(calm[1])]
    seconds = np.array([cell.seconds for cell in cells if cell is not None])
    assert table.loc["more", ["cached", "to do"]].tolist() == [8, 16]  # the same cells under another name
    assert table.loc["more", "hours"] * 3600 == pytest.approx(16 * np.median(seconds))
    assert table.loc["more", "low"] * 3600 == pytest.approx(16 * np.quantile(seconds, 0.25))
    assert table.loc["longer", "hours"] * 3600 == pytest.approx(8 * np.median(seconds))
    assert table.loc["longer", "note"] == "measured on the stage's other cells"


def test_killed_again_and_again_it_ends_with_the_same_tables(tmp_path: Path, calm: tuple[Path, Plan]) -> None:
    """Without a selector from outside the tree, whose worker a forked test process cannot start."""
    suite = write_suite(tmp_path)
    before = time.monotonic()
    run_suite(suite, tmp_path / "whole")
    seconds = time.monotonic() - before
    rng = random.Random(0)
    seen = set()
    for _ in range(6):
        with forked(lambda: run_suite(suite, tmp_path)) as child:
            time.sleep(rng.uniform(0.1, 0.4) * seconds)
            os.kill(child, signal.SIGKILL)
            wait_exit(child)
        seen.add(len(list(tmp_path.glob("store/**/*.*"))))
    assert len(seen) >= 3  # it was caught at different stages
    plan = run_suite(suite, tmp_path)
    assert plan.store.damaged == []
    assert_same_tables(tmp_path / "results" / "tiny", tmp_path / "whole" / "results" / "tiny")


def test_two_processes_on_one_store_compute_nothing_twice_and_agree(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suite: Path,
    plugin: Path,
    calm: tuple[Path, Plan],
) -> None:
    log = tmp_path / "log"
    write_cell, write_features, write_json = Store.write_cell, Store.write_features, pretrain.write_json

    def note(what: str) -> None:
        with log.open("a") as file:
            file.write(what + "\n")

    def noted_cell(self: Store, cell: Cell) -> None:
        note(f"cell {digest(cell.key)}")
        write_cell(self, cell)

    def noted_features(self: Store, key: dict, *rest: object) -> None:
        note(f"features {json.dumps(key, sort_keys=True)}")
        write_features(self, key, *rest)

    def noted_json(path: Path, content: dict) -> None:
        note(f"epoch {len(content['checkpoints'])}")
        write_json(path, content)

    monkeypatch.setattr(Store, "write_cell", noted_cell)
    monkeypatch.setattr(Store, "write_features", noted_features)
    monkeypatch.setattr(pretrain, "write_json", noted_json)

    def work(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "store").symlink_to(tmp_path / "store")
        run_suite(suite, tmp_path / name, plugins=(str(plugin),))

    (tmp_path / "store").mkdir()
    with forked(lambda: work("one")) as one, forked(lambda: work("two")) as two:
        assert wait_exit(one) == 0
        assert wait_exit(two) == 0
    counts = Counter(log.read_text().splitlines())
    # All the splits of 4 checkpoints share their heads: a head is written with each split.
    twice = [line for line, count in counts.items() if count > 1 and "head/1" not in line]
    assert twice == []
    cells = len(list((calm[0] / "store").glob("cells/*/*.json")))
    # Those of a plugin from outside the tree are written by a process of its own.
    assert len(list(tmp_path.glob("store/cells/*/*.json"))) == cells
    assert sum(line.startswith("epoch") for line in counts) == 4
    for name in ("one", "two"):
        assert_same_tables(tmp_path / name / "results" / "tiny", calm[0] / "results" / "tiny")


def same_cell(one: Cell, other: Cell) -> None:
    assert digest(one.key) == digest(other.key)
    assert replace(one, key={}, seconds=0.0) == replace(other, key={}, seconds=0.0)


def alone(folder: Path, calm: tuple[Path, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with the undisturbed run's source run and features and none of its cells; no warm network."""
    shutil.copytree(calm[0] / "store" / "runs", folder / "runs")
    shutil.copytree(calm[0] / "store" / "features", folder / "features")
    monkeypatch.setattr(truth, "_networks", {})
    truth._target_on.cache_clear()


@pytest.mark.parametrize("number", [0, 5, 7])
def test_a_fine_tuned_cell_alone_equals_the_cell_in_a_full_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: tuple[Path, Plan], number: int
) -> None:
    """Bit for bit: accuracy, correctness of each example, loss and deviation from the first weights."""
    alone(tmp_path, calm, monkeypatch)
    task = ft_tasks(calm[1])[number]
    (found,) = replace(task, store=tmp_path).run()
    (key,) = task.cell_keys()
    same_cell(found, calm[1].store.read_cell(key))


def test_a_frozen_feature_cell_alone_equals_the_cell_in_a_full_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: tuple[Path, Plan]
) -> None:
    """In the correctness of each example: one seed of two, and of features extracted alone."""
    alone(tmp_path, calm, monkeypatch)
    task = fe_tasks(calm[1])[2]
    protocol = task.protocol.model_copy(update={"seeds": 1})
    (found,) = replace(task, store=tmp_path, protocol=protocol).run()
    expected = calm[1].store.read_cell(task.cell_keys()[0])
    assert digest(found.key) == digest(expected.key)
    assert found.extra["correct"] == expected.extra["correct"]
    assert found.value == expected.value


def truth_rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / "tiny" / "truth.csv", keep_default_na=False)


def test_a_cell_that_diverges_is_recorded_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = write_suite(tmp_path, SUITE.replace("lr = 0.02", "lr = 1e30")), tmp_path / "store"
    arguments = ["--device", "cpu", "--workers", "1", "--selectors", "logme", "--store", str(store)]
    done = CliRunner().invoke(app, ["truth", str(path), *arguments])
    assert done.exit_code == 1
    assert "8 cells failed; run the same command to try them again" in done.output
    plan = resolve(load_suite(path), Options(device="cpu", workers=1, selectors=("logme",)), Store(store))
    collect(plan).write(tmp_path / "results" / "tiny")
    table = truth_rows(tmp_path)
    assert Counter(table["goal"] + " " + table["status"]) == {"fe ok": 8, "ft failed": 8}
    failed = table[table["status"] == "failed"]
    assert failed["message"].str.contains("fine-tuning by ft diverged").all()
    assert (failed["accuracy"] == "").all()
    tried: list[str] = []
    run = truth.FTTask.run
    monkeypatch.setattr(truth.FTTask, "run", lambda task: tried.append(task.name) or run(task))
    monkeypatch.setattr(truth.FETask, "run", lambda task: tried.append(task.name))
    run_stages(plan, upto="truth")
    assert len(tried) == 8  # the failed ones, and none that is there


MOODY = """
import os
from torch import nn
from ckptbench import last_linear

class Moody(nn.Sequential):
    def forward(self, x):
        if len(x) == 7 and "MOODY" in os.environ:
            raise KeyError("not today")
        return super().forward(x)

class MoodyExtractor:
    name = "moody"

    def architectures(self):
        return ["moody"]

    def build(self, architecture, classes):
        return Moody(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, classes))

    def head(self, model):
        return last_linear(model)
"""


def test_a_network_that_raises_is_recorded_and_computed_once_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moody_nets.py").write_text(MOODY)
    text = SUITE.replace("smallcnn:width=4", "moody").replace("lr = 0.02\nbatch = 20", "lr = 0.02\nbatch = 7")
    path, plugins = write_suite(tmp_path, text), (str(tmp_path / "moody_nets.py"),)
    monkeypatch.setenv("MOODY", "")
    run_suite(path, tmp_path, plugins=plugins)
    failed = truth_rows(tmp_path).query("status == 'failed'")
    assert list(failed["message"].unique()) == ["KeyError: 'not today'"]
    assert list(failed["goal"]) == ["ft"] * 8
    monkeypatch.delenv("MOODY")
    run_suite(path, tmp_path, plugins=plugins)
    assert set(truth_rows(tmp_path)["status"]) == {"ok"}


def test_two_workers_of_which_one_dies_give_the_same_tables(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suite: Path,
    plugin: Path,
    calm: tuple[Path, Plan],
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("CKPTBENCH_TEST_FRAGILE", str(mark))
    run_suite(suite, tmp_path, workers=2, plugins=(str(plugin),))
    assert mark.exists()  # a worker did die
    options = Options(device="cpu", plugins=(str(plugin),))
    plan = resolve(load_suite(suite), options, Store(tmp_path / "store"))
    collect(plan).write(tmp_path / "results" / "tiny")
    assert_same_tables(tmp_path / "results" / "tiny", calm[0] / "results" / "tiny")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray, the optional extra: cluster")
def test_a_ray_cluster_of_which_a_worker_dies_gives_the_same_tables(
    tmp_path: Path, suite: Path, plugin: Path, calm: tuple[Path, Plan]
) -> None:
    mark = tmp_path / "mark"
    done = command(
        "truth", suite, "--cluster", "local", "--device", "cpu", "--plugins", plugin,
        "--store", "store",
        cwd=tmp_path, CKPTBENCH_TEST_FRAGILE=str(mark), RAY_USAGE_STATS_ENABLED="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert mark.exists()  # a worker did die
    options = Options(device="cpu", plugins=(str(plugin),))
    plan = resolve(load_suite(suite), options, Store(tmp_path / "store"))
    collect(plan).write(tmp_path / "results" / "tiny")
    assert_same_tables(tmp_path / "results" / "tiny", calm[0] / "results" / "tiny")
