"""A suite of a second or two, processes to kill, and tables to compare: for the tests of running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from ckptbench.pipeline.plan import Plan
    from ckptbench.pipeline.stages import Stage

SUITE = """
title = "tiny: for tests of running, not of results"
selectors = ["logme", "ridge-loo:scale=std", "leep", "ncti", "chance", "last-epoch"]

[[sources]]
name = "run"
architecture = "smallcnn:width=4"
epochs = 3
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[sources.data]
name = "digits"
per_class = 10
test_per_class = 5
train_range = [0.0, 0.5]
size = 8
[sources.training]
lr = 0.05
batch = 20
augment = "crop-flip"

[[targets]]
name = "digits"
[targets.data]
name = "digits"
per_class = 6
test_per_class = 10
train_range = [0.5, 1.0]
size = 8
seed = 1

[[fe]]
name = "fe"
seeds = 2
grid = [1e-3, 1e-1]

[[ft]]
name = "ft"
epochs = 2
seeds = 2
[ft.training]
lr = 0.02
batch = 20
augment = "crop"
"""

# What may differ between two runs of one suite.
CLOCKS = ["seconds"]


# A selector that kills the process it is scored in, the first time, where the environment names a file.
FRAGILE = """
import os
import signal

class Fragile:
    name = "fragile"
    needs = ()

    def score(self, candidate):
        mark = os.environ.get("CKPTBENCH_TEST_FRAGILE")
        if mark and candidate.checkpoint.epoch == 1 and not os.path.exists(mark):
            os.mkdir(mark)  # a selector opens no file
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0
"""


def write_suite(folder: Path, text: str = SUITE, name: str = "tiny") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def run_suite(
    suite: Path, folder: Path, workers: int = 1, plugins: tuple[str, ...] = (), upto: Stage = "truth"
) -> Plan:
    """All stages and the tables, in ``folder``/store and ``folder``/results."""
    # Here, so that a worker that imports this file for its other helpers loads no torch.
    from ckptbench.base.store import Store
    from ckptbench.pipeline.plan import Options, resolve
    from ckptbench.pipeline.provenance import collect
    from ckptbench.pipeline.stages import run
    from ckptbench.suites import load_suite

    options = Options(device="cpu", workers=workers, plugins=plugins)
    plan = resolve(load_suite(suite), options, Store(folder / "store"))
    run(plan, upto)
    collect(plan).write(folder / "results" / plan.suite.name)
    return plan


def read_tables(folder: Path) -> dict[str, pd.DataFrame | dict[str, np.ndarray]]:
    """Every number in a results folder but the clocks."""
    tables: dict[str, pd.DataFrame | dict[str, np.ndarray]] = {
        path.name: pd.read_csv(path).drop(columns=CLOCKS, errors="ignore")
        for path in sorted(folder.glob("*.csv"))
    }
    with np.load(folder / "correct.npz") as arrays:
        tables["correct.npz"] = {name: arrays[name] for name in arrays.files}
    return tables


def assert_same_tables(one: Path, other: Path) -> None:
    first, second = read_tables(one), read_tables(other)
    assert first.keys() == second.keys()
    assert {"truth.csv", "scores.csv", "checkpoints.csv", "extraction.csv"} <= first.keys()
    for name, table in first.items():
        twin = second[name]
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(table, twin, check_exact=True)
        else:
            assert table.keys() == twin.keys()
            for key, array in table.items():
                np.testing.assert_array_equal(array, twin[key])


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A child process that does ``work`` and exits with 0, or 1 after an exception; killed at the end.

    A fork starts at once, where a new interpreter would import torch for seconds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons mind forks beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield child
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def wait_exit(child: int, seconds: float = 60.0) -> int:
    """The exit code of a child; -9 when it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    raise TimeoutError(f"process {child} is still running after {seconds} s")


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command(
    *arguments: object, cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with one thread."""
    return subprocess.run(
        [sys.executable, "-m", "ckptbench", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
