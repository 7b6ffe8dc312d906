"""``--dry-run``: what a suite would compute, what is cached, and how long the rest would take.

Hours come from measured cells: of the same protocol, else of the suite's other fine-tuning protocols by
images trained on, else from one batch timed here, on this device. Where a data set is not at hand its
sizes are not known: cells are counted all the same, and hours stay blank where they hang on the sizes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from ckptbench.pipeline import Bench
from ckptbench.pretrain import epochs_done
from ckptbench.store import Store
from ckptbench.suites import FT, Source, TargetSpec
from ckptbench.truth import FETask, FTTask
from ckptbench.types import Cell, InputError, Target

TIMED = 8  # images in the batch that is timed where nothing was measured


def forecast(bench: Bench) -> pd.DataFrame:
    """One row per stage and protocol: wanted, cached, to do, hours of one worker, features on disk in MiB."""
    targets: dict[str, Target | None] = {spec.name: _load(bench, spec) for spec in bench.suite.targets}
    rows = []
    for source in bench.suite.sources:
        if source.checkpoints is None and source.epochs is not None:
            data = bench.source_data if _has_source_data(bench) else {}
            there = epochs_done(bench.folder(source)) + 1 if source.name in data else 0
            rows.append(_row("pretrain", source.name, source.epochs + 1, there))
    known = all(target is not None for target in targets.values()) and _trained(bench)
    rows += _exact(bench) if known else _planned(bench, targets)
    return pd.DataFrame(rows)


def _load(bench: Bench, spec: TargetSpec) -> Target | None:
    from ckptbench.datasets import load_target

    try:
        return load_target(spec)
    except InputError as error:
        bench.reporter.say(f"target {spec.name}: {error}")
        return None


def _has_source_data(bench: Bench) -> bool:
    try:
        return bool(bench.source_data)
    except InputError as error:
        bench.reporter.say(str(error))
        return False


def _trained(bench: Bench) -> bool:
    try:
        return bool(bench.trajectories)
    except InputError:
        return False


def _exact(bench: Bench) -> list[dict[str, Any]]:
    """From the tasks themselves: every checkpoint and every example is known."""
    rows = []
    tasks: list[FETask | FTTask] = [*bench.fe_tasks(), *bench.ft_tasks()]
    rate = cache(lambda name: _seconds_per_image(bench, name, tasks))
    for source in bench.suite.sources:
        recipe, checkpoints = bench.recipe(source), bench.trajectories[source.name]
        for target, split, examples in bench.splits(source):
            facts = [bench.store.features_facts(recipe.key(c, examples)) for c in checkpoints]
            done = [fact for fact in facts if fact is not None]
            mebibytes = len(facts) * float(np.mean([f["bytes"] for f in done])) / 2**20 if done else None
            what = f"{source.name} on {target} {split}"
            row = _row("extract", what, len(facts), len(done), [f["seconds"] for f in done], mebibytes)
            if row["hours"] is None:
                row["hours"] = len(facts) * len(examples) * rate(source.name) / 3 / 3600
            rows.append(row)
    keys = [key for task in bench.score_tasks() for key in task.cell_keys()]
    stored = _stored(bench.store, keys)
    rows.append(_row("score", f"{len(bench.specs)} selectors", len(keys), len(stored), _seconds(stored)))
    for protocol in bench.suite.protocols:
        mine = [task for task in tasks if task.protocol == protocol]
        keys = [key for task in mine for key in task.cell_keys()]
        stored = _stored(bench.store, keys)
        row = _row("truth", protocol.name, len(keys), len(stored), _seconds(stored))
        if row["hours"] is None and isinstance(protocol, FT):
            seconds = sum(rate(task.checkpoint.run) * _images_of(bench, task) for task in mine)
            row["hours"] = seconds / 3600
        rows.append(row)
    return rows


def _images_of(bench: Bench, task: FETask | FTTask) -> float:
    if not isinstance(task, FTTask):
        return 0.0
    return _training_images(task.protocol, bench.targets[task.target.name]) or 0.0


def _seconds_per_image(bench: Bench, name: str, tasks: Sequence[FETask | FTTask]) -> float:
    """Of fine-tuning from one source run: by the cells that are there, else by one batch timed here."""
    seconds = images = 0.0
    for task in tasks:
        if isinstance(task, FTTask) and task.checkpoint.run == name:
            for cell in _stored(bench.store, task.cell_keys()):
                seconds += cell.seconds
                images += _images_of(bench, task)
    source = next(source for source in bench.suite.sources if source.name == name)
    return seconds / images if images else _time_images(bench, source)[0]


def _planned(bench: Bench, targets: dict[str, Target | None]) -> list[dict[str, Any]]:
    """From the suite alone, before its source runs or its data are there."""
    rows = []
    for source in bench.suite.sources:
        count = len(source.judge) if source.judge else (source.epochs or 0) + 1
        per_image, width = _time_images(bench, source)
        for spec in bench.suite.targets:
            target = targets[spec.name]
            splits = [target.train, target.test, target.pool] if target else []
            images = sum(len(split) for split in splits if split is not None)
            hours = count * images * per_image / 3 / 3600 if target else None
            disk = count * images * width * 2 / 2**20 if target else None
            row = _row(
                "extract", f"{source.name} on {spec.name}", count * (3 if spec.data.pool_per_class else 2), 0
            )
            rows.append({**row, "hours": hours, "MiB": disk})
        for protocol in bench.suite.protocols:
            names = [name for name in targets if protocol.targets is None or name in protocol.targets]
            judged = count if protocol.epochs_judged is None else len({0, *protocol.epochs_judged})
            row = _row(
                "truth", f"{protocol.name} from {source.name}", judged * protocol.seeds * len(names), 0
            )
            if isinstance(protocol, FT):
                passes = [_training_images(protocol, targets[name]) for name in names]
                if None not in passes:
                    passed = judged * protocol.seeds * sum(each or 0.0 for each in passes)
                    row["hours"] = passed * per_image / 3600
            rows.append(row)
    return rows


def _training_images(protocol: FT, target: Target | None) -> float | None:
    """Images of one run, a test image (forward pass alone) counted as a third; None where unknown."""
    if protocol.iterations is not None:
        return protocol.iterations * protocol.training.batch + (len(target.test) / 3 if target else 0.0)
    if target is None or protocol.epochs is None:
        return None
    return protocol.epochs * protocol.rate * len(target.train) + len(target.test) / 3


def _time_images(bench: Bench, source: Source) -> tuple[float, int]:
    """(seconds of a training step per image, width of the features), from one batch on this device."""
    architecture = bench.architectures[source.name]
    network = architecture.build(10).to(bench.device).to(memory_format=torch.channels_last)
    head = network.get_submodule(architecture.head_name(network))
    width = head.in_features if isinstance(head, nn.Linear) else 0
    size = max(spec.data.size for spec in bench.suite.targets)
    images = torch.zeros(TIMED, 3, size, size, device=bench.device).to(memory_format=torch.channels_last)
    labels = torch.zeros(TIMED, dtype=torch.int64, device=bench.device)
    for _ in range(2):  # the first pass chooses kernels
        before = time.perf_counter()
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)
        seconds = time.perf_counter() - before
    return seconds / TIMED, width


def _stored(store: Store, keys: Sequence[dict[str, Any]]) -> list[Cell]:
    return [cell for key in keys if (cell := store.read_cell(key)) is not None and cell.status == "ok"]


def _seconds(cells: Sequence[Cell]) -> list[float]:
    return [cell.seconds for cell in cells]


def _row(
    stage: str,
    what: str,
    wanted: int,
    cached: int,
    seconds: Sequence[float] = (),
    mebibytes: float | None = None,
) -> dict[str, Any]:
    left = wanted - cached
    hours = left * float(np.mean(seconds)) / 3600 if len(seconds) else (0.0 if left == 0 else None)
    return {
        "stage": stage, "what": what, "wanted": wanted, "cached": cached, "to do": left,
        "hours": hours, "MiB": mebibytes,
    }  # fmt: skip
