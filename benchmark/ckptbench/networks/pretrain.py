"""Source runs: train a network from its initialisation and keep a checkpoint of every epoch.

A run is addressed by all that changes its weights. Killed and started again it goes on from its last
whole epoch: nothing depends on a global random state, and the optimiser's state is saved beside the
weights (as tensors, never pickled), so it ends with the weights of an undisturbed run. ``run.json``,
written after an epoch's files, is what makes the epoch count.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.files import atomic, read_json, write_json
from ckptbench.base.folders import commit
from ckptbench.base.store import Store
from ckptbench.base.types import Cell
from ckptbench.data.targets import load_target
from ckptbench.networks.objective import Batch, Objective, replace_head
from ckptbench.networks.runs import RUN_FILE, Run, file_digest, find_run, last_epoch, normalisation
from ckptbench.networks.training import (
    batches,
    on_device,
    one_thread,
    optimiser,
    schedule,
    seeded,
    set_rate,
    skip_padding,
    steps_per_epoch,
)
from ckptbench.suites import Source

RESUME_PREFIX = "resume"


@dataclass(frozen=True)
class RunTask:
    """A source run as a task for workers. It leaves checkpoints, and no cells.

    On a CPU a worker has one thread, so that the weights do not depend on the number of cores: sums in
    another order made another run, and on one of the demonstrations another winner.
    """

    store: Path
    source: Source
    device: str
    plugins: tuple[str, ...] = ()
    compile: bool = False

    @property
    def name(self) -> str:
        return f"source run {self.source.name}"

    def cell_keys(self) -> list[dict[str, Any]]:
        return []

    def run(self) -> list[Cell]:
        """Train the run to its end, or go on with it."""
        assert self.source.data is not None
        data = load_target(self.source.data, self.source.name, plugins=self.plugins)
        run = find_run(self.source, data, torch.device(self.device), self.plugins, self.compile)
        pretrain(run, Store(self.store))
        return []


def pretrain(
    run: Run, store: Store, progress: Callable[[int, float], None] = lambda epoch, accuracy: None
) -> Path:
    """Train a source run to its end, or go on with it, and return its folder.

    Parameters
    ----------
    progress : called with each epoch done and its source accuracy

    Raises
    ------
    InputError
        If the loss is no longer finite.
    """
    folder, source = run.folder(store), run.source
    if source.checkpoints is not None:
        return folder
    # The suite's own check says so: a source run has a folder, or all that training needs.
    assert source.epochs is not None
    with store.lock({"run": folder.name}):
        if last_epoch(folder)[0] < source.epochs:
            with one_thread(run.device):
                _Trainer(run, folder, progress).train(store)
        for state in folder.glob(f"{RESUME_PREFIX}*"):
            state.unlink()
    return folder


class _Trainer:
    """The network, the optimiser and the record of one run while it trains."""

    def __init__(self, run: Run, folder: Path, progress: Callable[[int, float], None]) -> None:
        assert run.data is not None
        assert run.source.training is not None
        assert run.source.epochs is not None
        self.run, self.folder, self.progress = run, folder, progress
        self.training, self.epochs = run.source.training, run.source.epochs
        self.seed = derive_seed("pretrain", run.source.seed)
        self.objective: Objective = run.objective.make()
        self.classes = len(run.data.classes)
        with seeded(self.seed, run.device):
            network = run.architecture.build(self.objective.outputs(self.classes))
            head = run.architecture.extractor.head(network)
            # The objective's own head is no part of a checkpoint.
            self.dropped = f"{head}." if replace_head(network, head, self.objective) else None
        skip_padding(network)
        self.network = network.to(run.device).to(memory_format=torch.channels_last)
        if run.compile:
            self.network.compile(dynamic=False)
        self.opt = optimiser([{"params": list(self.network.parameters())}], self.training)
        self.train_set, self.test_set = (
            on_device(part, run.device) for part in (run.data.train, run.data.test)
        )
        self.rows: list[dict[str, Any]] = []

    def train(self, store: Store) -> None:
        self.rows = _resume(self.folder, self.network, self.opt, store)
        if not self.rows:
            self.keep(0, None, None, 0.0)
        for epoch in range(len(self.rows), self.epochs + 1):
            before = time.perf_counter()
            loss, accuracy = self.train_epoch(epoch)
            if not math.isfinite(loss):
                raise InputError(
                    f"source run {self.run.source.name} diverged in epoch {epoch} (loss {loss}): "
                    "a smaller lr is needed"
                )
            self.keep(epoch, loss, accuracy, time.perf_counter() - before)

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training set: its mean loss and the share of examples solved, as it went."""
        n = len(self.train_set[0])
        steps = steps_per_epoch(n, self.training.batch)
        self.network.train()
        losses, solved = [], []
        # What the network itself draws (dropout) is a function of the epoch alone, too.
        with seeded(derive_seed(self.seed, "epoch", epoch), self.run.device):
            for step, chosen in enumerate(batches(n, self.training.batch, self.seed, epoch)):
                done = (epoch - 1) * steps + step
                set_rate(self.opt, schedule(self.training, done, self.epochs * steps, steps))
                batch = self.batch(self.train_set, chosen.to(self.run.device), epoch)
                loss, right = self.objective.loss(batch)
                self.opt.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                self.opt.step()
                losses.append(loss.detach())
                solved.append(right.double().mean())
        return float(torch.stack(losses).mean()), float(torch.stack(solved).mean())

    def batch(self, split: tuple[Tensor, Tensor], indices: Tensor, epoch: int) -> Batch:
        """Some examples of a split; epoch 0 is measurement."""
        mean, std = normalisation(self.run.source)
        return Batch(
            network=self.network, images=split[0][indices], labels=split[1][indices], indices=indices,
            classes=self.classes, training=epoch > 0, seed=self.seed, epoch=epoch,
            augment=self.training.augment, mean=mean, std=std, precision=self.run.precision,
        )  # fmt: skip

    @torch.inference_mode()
    def source_accuracy(self) -> float:
        self.network.eval()
        indices = torch.arange(len(self.test_set[0]), device=self.run.device)
        parts = [self.batch(self.test_set, rows, 0) for rows in torch.split(indices, self.training.batch)]
        return float(torch.cat([self.objective.loss(part)[1] for part in parts]).double().mean())

    def keep(self, epoch: int, loss: float | None, accuracy: float | None, seconds: float) -> None:
        """Write the checkpoint of an epoch, the state to go on from, and the record that makes it count."""
        folder, source_accuracy = self.folder, self.source_accuracy()
        path = folder / f"epoch-{epoch:03d}.safetensors"
        weights = {
            name: value.contiguous()
            for name, value in self.network.state_dict().items()
            if self.dropped is None or not name.startswith(self.dropped)
        }
        with atomic(path) as file:
            file.write(save(weights))
        fact = {"epoch": epoch, "file": path.name, "digest": file_digest(path)}
        measured = {"source_accuracy": source_accuracy, "training_accuracy": accuracy, "training_loss": loss}
        self.rows.append({**fact, **measured, "seconds": seconds, "commit": commit()[0]})
        assert self.run.data is not None
        facts = {
            "key": self.run.key,
            "source": self.run.source.model_dump(mode="json"),
            "guess": self.objective.guess(self.classes, self.training.batch),
            "notes": self.run.data.notes,
            "checkpoints": self.rows,
        }
        state = None
        if epoch < self.epochs:
            state = folder / f"{RESUME_PREFIX}-{epoch:03d}.safetensors"
            with atomic(state) as file:
                file.write(save(_state(self.network, self.opt)))
            facts["resume"] = {"file": state.name, "digest": file_digest(state)}
        write_json(folder / RUN_FILE, facts)
        for old in folder.glob(f"{RESUME_PREFIX}*"):
            if old != state:
                old.unlink()
        self.progress(epoch, source_accuracy)


def _state(network: nn.Module, opt: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for index, values in opt.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                state[f"optimiser.{index}.{key}"] = value.contiguous()
    return state


def _resume(
    folder: Path, network: nn.Module, opt: torch.optim.Optimizer, store: Store
) -> list[dict[str, Any]]:
    """Load the state after the last whole epoch; returns the rows of the epochs done, none for a new run."""
    record = folder / RUN_FILE
    try:
        facts = read_json(record)
        rows: list[dict[str, Any]] = facts["checkpoints"]
        path = folder / facts["resume"]["file"]
        if file_digest(path) != facts["resume"]["digest"]:
            raise ValueError(f"the checksum of {path.name} does not fit")
        state = load_file(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if record.exists():
            store.report(record, error)
        return []
    network.load_state_dict(
        {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    )
    weights = list(network.parameters())
    moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            like = weights[int(index)]
            # A fused optimiser walks through weights and moments side by side: one memory format for both.
            moments[int(index)][name] = (
                torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            )
    opt.load_state_dict({"state": dict(moments), "param_groups": opt.state_dict()["param_groups"]})
    return rows
