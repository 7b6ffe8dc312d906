"""What stopped half-way goes on: a source run, and a command killed while an outside selector computes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers.tiny import SUITE, write_suite
from typer.testing import CliRunner

from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.cli.app import app
from ckptbench.networks.pretrain import pretrain
from ckptbench.networks.runs import find_run
from ckptbench.pipeline.plan import Options, Plan, resolve
from ckptbench.pipeline.stages import run as run_stages
from ckptbench.pipeline.stages import score_tasks
from ckptbench.suites import load_suite

SELECTORS = SUITE[SUITE.index("selectors = [") : SUITE.index("\n", SUITE.index("selectors = ["))]
SMALL = (
    SUITE[: SUITE.index("[[ft]]")]
    .replace(SELECTORS, 'selectors = ["logme"]')
    .replace("seeds = 2", "seeds = 1")
)

# A selector that takes its time over the later checkpoints, so that it is there when a kill comes.
SLOW = """
import time

class Slow:
    name = "slow"
    needs = ()

    def score(self, candidate):
        time.sleep(0.0 if candidate.checkpoint.epoch == 0 else 0.7)
        return float(candidate.checkpoint.epoch)
"""


def the_plan(suite: Path, store: Path, *plugins: str) -> Plan:
    return resolve(load_suite(suite), Options(device="cpu", workers=1, plugins=plugins), Store(store))


def test_a_half_trained_run_is_named_and_goes_on(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, SMALL)
    whole, half = (the_plan(suite, tmp_path / name) for name in ("whole", "half"))
    run_stages(whole, upto="pretrain")

    def stop(epoch: int, _accuracy: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    (source,) = half.sources
    with pytest.raises(KeyboardInterrupt):
        pretrain(find_run(source.spec, source.data, half.device), half.store, stop)
    assert source.epochs_left == 2
    with pytest.raises(InputError, match=r"run is trained up to epoch 1 of 3: run ckptbench pretrain first"):
        _ = source.checkpoints
    before = (source.folder / "epoch-001.safetensors").stat().st_mtime_ns
    run_stages(half, upto="pretrain")
    assert (source.folder / "epoch-001.safetensors").stat().st_mtime_ns == before
    assert [c.digest for c in source.checkpoints] == [c.digest for c in whole.sources[0].checkpoints]


def test_a_command_killed_at_an_outside_selector_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    plugin, store = tmp_path / "slow_score.py", tmp_path / "store"
    plugin.write_text(SLOW)
    suite = write_suite(tmp_path, SMALL.replace('["logme"]', '["logme", "slow"]'))
    run_stages(the_plan(suite, store, str(plugin)), upto="extract")
    arguments = ["score", suite, "--device", "cpu", "--workers", "1", "--plugins", plugin, "--store", store]
    keys = [
        key
        for task in score_tasks(the_plan(suite, store, str(plugin)))
        if task.specs[0].name == "slow"
        for key in task.cell_keys()
    ]

    def there() -> int:
        return sum(Store(store).is_ok(key) for key in keys)

    running = subprocess.Popen(
        [sys.executable, "-m", "ckptbench", *map(str, arguments)],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while running.poll() is None and not there():
            time.sleep(0.02)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    first = there()
    assert 1 <= first < len(keys) == 4
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert there() == 4


def test_some_source_runs_of_a_suite_alone(tmp_path: Path) -> None:
    source = SMALL[SMALL.index("[[sources]]") : SMALL.index("[[targets]]")]
    other = source.replace('name = "run"', 'name = "other"').replace("lr = 0.05", "lr = 0.01")
    suite = write_suite(tmp_path, SMALL.replace(source, source + other))
    arguments = ["--device", "cpu", "--workers", "1", "--quiet", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, ["run", str(suite), "--sources", "run", *arguments])
    assert done.exit_code == 0, done.output
    for table in ("checkpoints", "truth", "scores"):
        found = pd.read_csv(tmp_path / "store" / "results" / "tiny" / f"{table}.csv")
        assert set(found["source"]) == {"run"}
    left = {source.name: source.epochs_left for source in the_plan(suite, tmp_path / "store").sources}
    assert left == {"run": 0, "other": 4}
    done = CliRunner().invoke(app, ["run", str(suite), "--sources", "run,ran", *arguments])
    assert (done.exit_code, "has no source 'ran': did you mean 'run'?" in done.output) == (2, True)
