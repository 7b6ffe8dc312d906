"""Runs tasks: in this process, in a pool on this machine, or on a Ray cluster.

A task is a frozen description with a ``run()`` that computes its cells and writes them to the store by
their digest; tasks are independent and idempotent, so any number of workers gives the same tables. On the
CPU a worker has one thread (two BLAS threads on two busy cores ran 12 times slower); with GPUs there is a
worker per GPU.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Protocol

from threadpoolctl import threadpool_limits

from ckptbench.base import guard
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask, sentence
from ckptbench.base.types import Cell, Key

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_FEW = 8  # tasks; where they are light, starting workers would take longer
DEATHS = 3  # how many workers may die alone, with no task ever done, before the machine is held to blame


class Task(Protocol):
    """``run`` computes and stores what is missing of the cells that ``cell_keys`` names."""

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> Path: ...

    def cell_keys(self) -> list[Key]: ...

    def run(self) -> list[Cell]: ...


Done = Callable[[Task, list[Cell]], None]


@dataclass
class Job:
    """A task, the cells computed of it, how many of its parts are left, and whom to tell of its end."""

    task: Task
    done: Done
    cells: list[Cell] = field(default_factory=list)
    left: int = 1


@dataclass
class Part:
    """What a worker is given: a whole task, or a part of one whose worker died."""

    task: Task
    job: Job

    def split(self) -> list[Part]:
        """Smaller parts, none where this is the smallest."""
        parts = self.task.parts() if isinstance(self.task, CellTask) else [self.task]
        if len(parts) < 2:
            return []
        self.job.left += len(parts) - 1
        return [Part(part, self.job) for part in parts]

    def end(self, cells: list[Cell]) -> None:
        self.job.cells += cells
        self.job.left -= 1
        if not self.job.left:
            self.job.done(self.job.task, self.job.cells)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    gpu: str | None
    part: Part | None = None


def default_workers(device: str) -> int:
    """A worker per GPU where tasks run on GPUs, else one per core."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0))


def run_tasks(
    tasks: Sequence[Task], done: Done, workers: int = 1, device: str = "cpu", cluster: str | None = None
) -> None:
    """Run every task once and call ``done`` with the cells of each as it ends.

    One worker is this process, and so it is for a few light tasks; code from outside the tree always has
    a worker. Where a worker dies its task is run again in parts, a selector at a time; the part that a worker
    dies of once more is recorded as failed, with how it died, and the others stand.

    Parameters
    ----------
    cluster : the address of a Ray cluster, or ``local`` for one of its own; None for this machine

    Raises
    ------
    InputError
        If workers die at once whatever they are given, or Ray is asked for and not there.
    """
    if cluster is not None:
        from ckptbench.pipeline.cluster import run_on_ray

        run_on_ray(tasks, done, device, cluster)
        return
    here: list[Task] = []
    apart: list[Task] = []
    for task in tasks:
        place = task.place if isinstance(task, CellTask) else "any"
        is_here = place != "apart" if workers == 1 else place == "here" and len(tasks) <= _FEW
        (here if is_here else apart).append(task)
    with one_thread():
        for task in here:
            done(task, task.run())
    _run_apart(apart, done, workers, device)


def _run_apart(tasks: Sequence[Task], done: Done, workers: int, device: str) -> None:
    """Run tasks in processes of their own."""
    finished = deaths = 0

    def ended(part: Part, cells: list[Cell]) -> None:
        nonlocal finished
        finished += 1
        part.end(cells)

    def blame(part: Part, how: str) -> None:
        nonlocal deaths
        deaths += not (isinstance(part.task, CellTask) and part.task.place == "apart")
        if deaths == DEATHS and not finished:
            raise InputError(
                f"{deaths} workers died ({how}), each of a task alone, and none ended one; "
                "completed work is kept: free memory or try another machine"
            )
        part.end(record_death(part.task, how))

    starved = []  # perhaps: the system kills what takes too much memory, which alone may be enough
    waiting = deque(Part(task, Job(task, done)) for task in tasks)
    for part, how in _run_in_pool(waiting, ended, workers, device):
        smaller = part.split()
        waiting.extend(smaller)
        if not smaller and how == "SIGKILL":
            starved.append(part)
        elif not smaller:
            blame(part, how)
    for part in starved:
        for _, how in _run_in_pool(deque([part]), ended, 1, device):
            blame(part, how)


def _run_in_pool(
    waiting: deque[Part], ended: Callable[[Part, list[Cell]], None], workers: int, device: str
) -> Iterator[tuple[Part, str]]:
    """Run all that waits, also what is added meanwhile; yields each part that a worker died of, and how."""
    visible: Sequence[str | None] = _visible_gpus() if device.startswith("cuda") else [None]
    free = deque(visible[number % len(visible)] for number in range(min(workers, len(waiting))))
    idle: list[_Worker] = []
    busy: dict[Connection, _Worker] = {}
    try:
        while waiting or busy:
            while waiting and (idle or free):
                fresh = not idle
                worker = _start_worker(free.popleft()) if fresh else idle.pop()
                try:
                    worker.pipe.send(waiting[0].task)
                except OSError:  # it is dead: of its start, which shows below, or while idle
                    if not fresh:
                        free.append(worker.gpu)
                        continue
                worker.part = waiting.popleft()
                busy[worker.pipe] = worker
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker = busy.pop(pipe)
                assert worker.part is not None
                try:
                    outcome = pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    free.append(worker.gpu)
                    code = worker.process.exitcode or 0
                    yield worker.part, signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    continue
                if isinstance(outcome, BaseException):
                    raise outcome
                idle.append(worker)
                ended(worker.part, outcome)
    finally:
        for worker in [*idle, *busy.values()]:
            worker.process.kill()
            worker.process.join()


def record_death(task: Task, how: str) -> list[Cell]:
    store = Store(task.store)
    why = {"SIGALRM": "it took longer than its time limit", "SIGKILL": "the system ended it: out of memory?"}
    message = f"its worker process died: {why.get(how, how)}"
    keys = task.cell_keys()
    if not keys:
        raise InputError(f"{task.name}: {message}; completed work is kept")
    cells = [Cell(key, "failed", None, message) for key in keys if not store.is_ok(key)]
    for cell in cells:
        store.write_cell(cell)
    return cells


def _start_worker(gpu: str | None) -> _Worker:
    # Not forked: a child of a process that has used CUDA or BLAS threads may hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, gpu), daemon=False)
    with _environment(dict.fromkeys(_THREADS, "1")), _unseen():
        process.start()
    theirs.close()
    return _Worker(process, ours, gpu)


def _serve(pipe: Connection, gpu: str | None) -> None:
    """In a worker: one thread, one GPU, a task after the other, and no life without the parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    guard.expendable = True
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with threadpool_limits(1), contextlib.suppress(EOFError):  # where the parent is gone
        while True:
            task = pipe.recv()
            try:
                outcome = task.run()
            except BaseException as error:  # the parent raises it
                outcome = _portable(error)
            pipe.send(outcome)


def _portable(error: BaseException) -> BaseException:
    """An exception that survives the way to another process."""
    with contextlib.suppress(Exception):
        if isinstance(pickle.loads(pickle.dumps(error)), Exception):
            return error
    return RuntimeError(sentence(error))


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(default_workers("cuda"))]


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which is their parent's, and do not run the user's script
    again, which need not guard its main part."""
    main = sys.modules["__main__"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS and one torch thread, as in a worker, so that a cell's bits do not depend on where it ran."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1), _environment(dict.fromkeys(_THREADS, "1")):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update({name: value for name, value in before.items() if value is not None})
