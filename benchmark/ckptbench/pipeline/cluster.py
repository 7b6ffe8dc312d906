"""Runs tasks on a Ray cluster, whose machines share the store's folder and the current one."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ckptbench.base import guard
from ckptbench.base.errors import InputError
from ckptbench.base.types import Cell
from ckptbench.pipeline.executor import DEATHS, Done, Job, Part, Task, one_thread, record_death


def run_on_ray(tasks: Sequence[Task], done: Done, device: str, cluster: str) -> None:
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise InputError("--cluster needs Ray: pip install 'ckptbench[cluster]'") from None
    if not ray.is_initialized():  # it stays for the stages to come, and ends with this process
        host, colon, port = cluster.rpartition(":")
        try:
            if colon and "://" not in cluster:  # Ray itself tries for two minutes, then ends the process
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=cluster, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (OSError, ValueError) as error:
            raise InputError(f"no Ray cluster answers at {cluster!r}: {error}") from None
    # A worker that dies has its task run again elsewhere; the store makes that harmless.
    gpus = 1 if device.startswith("cuda") else 0
    remote = ray.remote(max_retries=DEATHS, num_cpus=1, num_gpus=gpus)(_run_elsewhere)
    settings = {name: value for name, value in os.environ.items() if name.startswith("CKPTBENCH_")}
    waiting: dict[Any, Part] = {}

    def submit(parts: Iterable[Part]) -> None:
        waiting.update({remote.remote(part.task, os.getcwd(), settings): part for part in parts})

    submit(Part(task, Job(task, done)) for task in tasks)
    while waiting:
        (reference,), _ = ray.wait(list(waiting), num_returns=1)
        part = waiting.pop(reference)
        try:
            part.end(ray.get(reference))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            smaller = part.split()
            submit(smaller)
            if not smaller:
                part.end(record_death(part.task, type(error).__name__))


def _run_elsewhere(task: Task, folder: str, settings: dict[str, str]) -> list[Cell]:
    """Run a task on another machine as if it were in this one's folder, which it shares."""
    for path in (Path(folder), task.store):
        if not path.is_dir():
            raise InputError(
                f"{path} is not there on a worker: it must lie on storage that all machines share"
            )
    os.chdir(folder)
    os.environ.update(settings)
    guard.expendable = True
    with one_thread():
        return task.run()
