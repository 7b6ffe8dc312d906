"""Workers: any number gives the same cells; those that die, fail or are interrupted lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.chores import Chore, Troupe
from helpers.tiny import alive, forked, wait_exit
from threadpoolctl import threadpool_limits

from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Cell
from ckptbench.pipeline import executor
from ckptbench.pipeline.executor import default_workers, run_tasks


def chores(folder: Path, *deeds: str) -> list[Chore]:
    return [Chore(folder, number, deed) for number, deed in enumerate(deeds)]


def runs(folder: Path) -> list[int]:
    return [int(line.split()[0]) for line in (folder / "log").read_text().splitlines()]


def pids(folder: Path) -> set[int]:
    return {int(line.split()[1]) for line in (folder / "log").read_text().splitlines()}


def collect(tasks: list[Chore], **options: Any) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    run_tasks(tasks, lambda task, cells: found.update({task.name: cells[0]}), **options)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once(tmp_path: Path, workers: int) -> None:
    found = collect(chores(tmp_path, *["work"] * 5), workers=workers)
    assert {name: cell.value for name, cell in found.items()} == {f"chore {n}": n / 7 for n in range(5)}
    assert sorted(runs(tmp_path)) == list(range(5))
    assert (pids(tmp_path) == {os.getpid()}) == (workers == 1)


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    assert collect([], workers=2) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_has_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    with threadpool_limits(2):
        found = collect(chores(tmp_path, "threads", "threads"), workers=workers)
    assert {cell.value for cell in found.values()} == {1}


def test_the_task_of_a_worker_that_dies_is_run_again(tmp_path: Path) -> None:
    found = collect(chores(tmp_path, "work", "die once", "work", "die once", "work"), workers=2)
    assert {cell.status for cell in found.values()} == {"ok"}
    assert len(found) == 5
    assert runs(tmp_path).count(1) >= 2


def test_a_task_that_kills_every_worker_is_recorded_and_the_others_are_done(tmp_path: Path) -> None:
    found = collect(chores(tmp_path, "die", "work", "work"), workers=2)
    assert {name: cell.status for name, cell in found.items()} == {
        "chore 0": "failed",
        "chore 1": "ok",
        "chore 2": "ok",
    }
    kept = Store(tmp_path).read_cell({"chore": 0})
    assert kept == found["chore 0"]
    assert kept.message == "its worker process died: the system ended it: out of memory?"
    # Which is what the next run tries again, in a worker of its own: this process lives.
    assert collect(chores(tmp_path, "die"), workers=2)["chore 0"].status == "failed"


def test_workers_that_die_whatever_they_are_given_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^3 workers died \(SIGKILL\), .* completed work is kept"):
        collect(chores(tmp_path, *["die"] * 4), workers=2)


def perform(folder: Path, *deeds: str, **options: Any) -> dict[str, str]:
    """How each deed ended: ok, or the message."""
    tasks = [Troupe(store=folder, deeds=deeds, where=options.pop("where", "any"))]
    ends: list[Any] = []
    run_tasks(tasks, lambda task, cells: ends.append(task), **{"workers": 2, **options})
    assert ends == tasks  # once, and with the task as it was given
    cells = [Store(folder).read_cell({"deed": deed}) for deed in deeds]
    assert all(cells)
    return {deed: cell.message or cell.status for deed, cell in zip(deeds, cells, strict=True)}


def test_of_a_task_that_a_worker_dies_of_the_part_at_fault_alone_fails(tmp_path: Path) -> None:
    assert perform(tmp_path, "before", "crash", "leave", "hang", "after") == {
        "before": "ok",
        "crash": "its worker process died: SIGSEGV",
        "leave": "its worker process died: exit code 3",
        "hang": "its worker process died: it took longer than its time limit",
        "after": "ok",
    }
    done = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert (done.count("before"), done.count("crash"), done.count("after")) == (1, 2, 1)


def test_code_from_outside_never_runs_in_this_process_and_few_light_tasks_do(tmp_path: Path) -> None:
    assert perform(tmp_path, "leave", where="apart", workers=1)["leave"].endswith("exit code 3")
    tasks = [Troupe(store=tmp_path, deeds=(str(n),), where="here") for n in range(3)]
    run_tasks(tasks, lambda task, cells: None, workers=2)
    assert {Store(tmp_path).read_cell({"deed": str(n)}).value for n in range(3)} == {os.getpid()}


def test_a_death_of_a_task_without_cells_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chore, "cell_keys", lambda self: [])
    with pytest.raises(InputError, match="chore 0: its worker process died: the system ended it: out of mem"):
        collect(chores(tmp_path, "die"), workers=2)


def test_a_script_need_not_guard_its_main_part(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from helpers.chores import Chore\n"
        "from ckptbench.pipeline.executor import run_tasks\n"
        "print('started')\n"
        "run_tasks([Chore(Path('.'), n) for n in range(3)], lambda task, cells: print(task.name), 2)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == ["chore 0", "chore 1", "chore 2", "started"]


def test_an_exception_that_cannot_be_sent_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^SystemExit: 7$"):
        collect(chores(tmp_path, "leave"), workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sentence_from_a_worker_stays_a_sentence(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match=r"^chore 1 was given nonsense$"):
        collect(chores(tmp_path, "work", "wrong", "work"), workers=workers)
    with pytest.raises(OSError, match="No space left") as caught:
        collect(chores(tmp_path, "full"), workers=workers)
    assert caught.value.errno == 28


def started(folder: Path, count: int) -> None:
    """Wait until so many chores have begun."""
    end = time.monotonic() + 60
    while not (folder / "log").exists() or len(runs(folder)) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_gone(workers: set[int]) -> None:
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_ctrl_c_ends_the_workers_at_once_and_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            collect(chores(tmp_path, *["sleep"] * 4), workers=2)
        except KeyboardInterrupt:
            os._exit(130)

    with forked(work) as child:
        started(tmp_path, 2)
        os.killpg(child, signal.SIGINT)  # a terminal sends it to the whole group
        before = time.monotonic()
        assert wait_exit(child, 20) == 130
        assert time.monotonic() - before < 15  # and not the chores' 30
    assert_gone(pids(tmp_path))
    assert "Traceback" not in capfd.readouterr().err


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    with forked(lambda: collect(chores(tmp_path, *["sleep"] * 4), workers=2)) as child:
        started(tmp_path, 2)
        workers = pids(tmp_path)
        assert len(workers) == 2
        os.kill(child, signal.SIGKILL)
        assert wait_exit(child) == -signal.SIGKILL
    assert_gone(workers)


def test_workers_share_the_gpus_that_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert executor._visible_gpus() == ["3", "5"]
    collect(chores(tmp_path, "die once", *["work"] * 5), workers=3, device="cuda")
    lines = (tmp_path / "log").read_text().splitlines()
    seen = {line.split()[1]: line.split()[2] for line in lines}
    assert set(seen.values()) <= {"3", "5"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_the_number_of_workers_is_that_of_cores_this_process_may_use() -> None:
    assert default_workers("cpu") == len(os.sched_getaffinity(0))


def test_the_environment_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS")
    collect(chores(tmp_path, "work", "work"), workers=2)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_cluster_without_ray_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--cluster needs Ray: pip install 'ckptbench\[cluster\]'"):
        collect(chores(tmp_path, "work"), cluster="local")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray, whose workers can import what tests can; what a test starts of it ends with the test."""
    ray = pytest.importorskip("ray", reason="needs Ray, the optional extra: cluster")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield
    ray.shutdown()


@pytest.mark.usefixtures("ray")
def test_a_cluster_keeps_the_promises_of_a_pool(tmp_path: Path) -> None:
    for name in ("deaths", "sentences"):
        (tmp_path / name).mkdir()
    found = collect(chores(tmp_path / "deaths", "die", "work", "die once"), cluster="local")
    assert {name: cell.status for name, cell in found.items()} == {
        "chore 0": "failed",
        "chore 1": "ok",
        "chore 2": "ok",
    }
    assert Store(tmp_path / "deaths").read_cell({"chore": 0}) == found["chore 0"]
    with pytest.raises(InputError, match=r"^chore 0 was given nonsense$"):
        collect(chores(tmp_path / "sentences", "wrong"), cluster="local")
    with pytest.raises(InputError, match="it must lie on storage that all machines share"):
        collect(chores(tmp_path / "elsewhere", "work"), cluster="local")


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:port", "nonsense"])
def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=f"no Ray cluster answers at '{address}'"):
        collect(chores(tmp_path, "work"), cluster=address)
