"""Runs tasks: in this process, in a pool on this machine, or on a Ray cluster.

A task is a frozen description with a ``run()`` that computes its cells and writes them to the store by
their digest; tasks are independent and idempotent, so any number of workers gives the same tables. On the
CPU a worker has one thread (two BLAS threads on two busy cores ran 12 times slower); with GPUs there is a
worker per GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from ckptbench.types import Cell, InputError

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_DEATHS = 3  # how often a pool may lose a worker without any task done in between


class Task(Protocol):
    @property
    def name(self) -> str: ...

    def run(self) -> list[Cell]: ...


Done = Callable[[Task, list[Cell]], None]


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

    Parameters
    ----------
    cluster : the address of a Ray cluster, or ``local`` for one of its own; None for this machine

    Raises
    ------
    InputError
        If workers keep dying (out of memory, most often), or Ray is asked for and not installed.
    """
    if cluster is not None:
        _run_on_ray(tasks, done, device, cluster)
    elif workers == 1 or len(tasks) <= 1:
        with _one_thread():
            for task in tasks:
                done(task, task.run())
    else:
        _run_in_pool(list(tasks), done, min(workers, len(tasks)), device)


def _run_in_pool(tasks: list[Task], done: Done, workers: int, device: str) -> None:
    # Not forked: a child of a process that has used CUDA or BLAS threads may hang.
    context = multiprocessing.get_context("spawn")
    deaths = 0
    while tasks:
        gpus = context.Queue() if device.startswith("cuda") else None
        for number in range(workers if gpus is not None else 0):
            gpus.put(number)  # type: ignore[union-attr]
        with (
            _environment(dict.fromkeys(_THREADS, "1")),
            ProcessPoolExecutor(workers, context, _start_worker, (gpus,)) as pool,
        ):
            futures = {pool.submit(_run, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    cells = future.result()
                    tasks.remove(futures[future])
                    deaths = 0
                    done(futures[future], cells)
            except BrokenProcessPool:
                deaths += 1
                if deaths >= _DEATHS:
                    raise InputError(
                        f"workers died {deaths} times in a row (out of memory?); what was computed is kept: "
                        "try fewer --workers"
                    ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(getattr(pool, "_processes", None) or {}):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, 15)
                raise


def _run(task: Task) -> list[Cell]:
    return task.run()


def _start_worker(gpus: Any) -> None:
    """One thread a worker, one GPU a worker; Ctrl-C is the parent's to handle."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpus.get())
        return
    threadpool_limits(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
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
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run_on_ray(tasks: Sequence[Task], done: Done, device: str, cluster: str) -> None:
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise InputError("--cluster needs Ray: pip install 'ckptbench[cluster]'") from None
    gpu = device.startswith("cuda")
    try:
        ray.init(address=None if cluster == "local" else cluster, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at {cluster!r}: {error}") from None
    try:
        # A worker that dies has its task run again elsewhere; the store makes that harmless.
        remote = ray.remote(max_retries=_DEATHS, num_cpus=1, num_gpus=1 if gpu else 0)(_run_on_worker)
        waiting = {remote.remote(task): task for task in tasks}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                done(waiting.pop(reference), ray.get(reference))
    finally:
        ray.shutdown()


def _run_on_worker(task: Task) -> list[Cell]:
    with _one_thread():
        return task.run()
