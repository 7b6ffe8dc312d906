"""Fine-tuning: the whole network and a new linear head, trained from one checkpoint on one target.

What a method adds to plain training is a list of penalties (``penalty``); the deviation from the
pre-trained weights is that of transferability-of-deep-representations (Tables 1 and 2). A result depends
on its arguments alone, bit for bit on one machine with one thread; on a GPU as far as its kernels do
(AlexNet's and VGG's adaptive pooling has no deterministic backward pass).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.sampling import stratified
from ckptbench.base.types import Task
from ckptbench.networks.training import (
    Pixel,
    augment,
    autocast,
    batches,
    optimiser,
    outputs,
    schedule,
    seeded,
    set_rate,
    skip_padding,
    steps_per_epoch,
    ten_crops,
    to_input,
)
from ckptbench.suites import FT
from ckptbench.truth.columns import measured
from ckptbench.truth.penalty import EVALUATION_BATCH, FineTuning, Penalty, layer_outputs
from ckptbench.truth.probe import balanced_accuracy

T = TypeVar("T")
LOSSES: dict[Task, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": F.cross_entropy,
    "multilabel": F.binary_cross_entropy_with_logits,
    "regression": F.mse_loss,
}


@dataclass(frozen=True)
class FTResult:
    """One fine-tuned network on the test split.

    Attributes
    ----------
    correct : whether each test example was classified correctly; None where there are no classes
    accuracy, balanced_accuracy : fractions in [0, 1]; balanced is the mean recall of the test classes
    deviation : 1/sqrt(n) sum over layers of |W - W_0|_F, with n the number of training examples used;
        layers are all weight matrices and kernels but the head's, which has no pre-trained value
    final_loss : mean cross-entropy over the last epoch's steps
    note : what differs from the protocol (a batch that did not fit in memory), else empty
    features : float32, of all train images and of the test images under the fine-tuned network, where
        asked for
    """

    correct: NDArray[np.bool_] | None
    accuracy: float
    balanced_accuracy: float
    deviation: float
    final_loss: float
    seconds: float
    note: str = ""
    features: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


def finetune(
    network: nn.Module,
    head_name: str,
    state_dict: Mapping[str, Tensor],
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    n_classes: int,
    protocol: FT,
    penalties: Sequence[Penalty],
    seed: int,
    mean: Pixel,
    std: Pixel,
    device: torch.device,
    compile: bool = False,
    features: bool = False,
    task: Task = "classification",
) -> FTResult:
    """Fine-tune one checkpoint and test it.

    Parameters
    ----------
    network : of the checkpoint's architecture. Pass the same object for all checkpoints of a track:
        the first call takes its head off, moves it and compiles it (``compile``); every call
        overwrites its weights.
    head_name : the last linear layer of the network as it was built, which must be its last step
    state_dict : the checkpoint's weights; those of its head are ignored
    train_images, test_images : uint8, n x 3 x H x W; copied to the device where they are not there
    train_labels, test_labels : int64, n; of other tasks n x K
    penalties : those that ``protocol.penalties`` names
    seed : of the training sample (``protocol.rate``), the head, the order, augmentation and dropout.
        One seed for all checkpoints of a track compares them on the same draws.
    mean, std : the source run's pixel normalisation, per channel of [0, 1]
    features : also give the fine-tuned network's features
    task : what the labels are; the accuracy is `ckptbench.truth.columns`' measure where they are no classes

    Raises
    ------
    FloatingPointError
        If the loss or the weights are no longer finite.
    torch.OutOfMemoryError
        If not even the smallest parts of a batch fit on the device. Before that the batch is halved
        again and again, gradients are accumulated, and the note says so.
    InputError
        If the protocol does not fit the network or the data.
    """
    started = time.perf_counter()
    _prepare(network, head_name, device, compile)
    weights = {key: value for key, value in state_dict.items() if not key.startswith(head_name + ".")}
    images, labels = _sampled(train_images, train_labels, protocol.rate, seed)
    labels, test_labels = _as_targets(labels, test_labels, task)
    images, labels, test_images = images.to(device), labels.to(device), test_images.to(device)
    width = _width(network, head_name, to_input(images[:1], mean, std))
    batch = min(protocol.training.batch, len(images))
    if protocol.window is not None and protocol.window > min(images.shape[2:]):
        raise InputError(
            f"protocol {protocol.name}: a window of {protocol.window} pixels does not fit into images of "
            f"{images.shape[2]} x {images.shape[3]}"
        )

    def attempt(parts: int) -> tuple[float, float, Tensor]:
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with seeded(seed, device), exact:
            network.load_state_dict(weights)
            head = nn.Linear(width, n_classes).to(device)
            run = FineTuning(network, head, images, labels, mean, std, batch, parts, seed, LOSSES[task])
            loss, deviation = train(run, protocol, penalties)
            model = nn.Sequential(network, head)
            predicted = predict(model, test_images, mean, std, protocol, EVALUATION_BATCH // parts)
        return loss, deviation, predicted

    most = batch // max(penalty.smallest_batch() for penalty in penalties)
    (final_loss, deviation, predicted), parts = _in_parts(attempt, most, device)

    def put_out(images: Tensor) -> NDArray[np.float32]:
        # In float32 whatever it was trained in, as features are before fine-tuning.
        blocks = outputs(network, images.to(device), mean, std, "fp32", EVALUATION_BATCH // parts)
        return torch.cat(blocks).cpu().numpy()

    correct, balanced = None, math.nan
    if task == "classification":
        correct = (predicted.argmax(1) == test_labels.to(device)).cpu().numpy()
        balanced = balanced_accuracy(correct, test_labels.cpu().numpy())
    return FTResult(
        correct=correct,
        accuracy=measured(predicted.cpu().numpy(), test_labels.cpu().numpy(), task)
        if correct is None
        else float(correct.mean()),
        balanced_accuracy=balanced,
        deviation=deviation,
        final_loss=final_loss,
        seconds=time.perf_counter() - started,
        note=_note(batch, parts, penalties),
        features=(put_out(train_images), put_out(test_images)) if features else None,
    )


def _sampled(images: Tensor, labels: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """The share of the training split that a seed draws, by class where there are classes."""
    if rate == 1:
        return images, labels
    kinds = labels.cpu().numpy() if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    rows = torch.from_numpy(stratified(kinds, rate, derive_seed("sample", seed)))
    return images[rows.to(images.device)], labels[rows.to(labels.device)]


def _as_targets(labels: Tensor, test_labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Labels as the task's loss takes them; numbers in units of the training examples' deviation."""
    if task == "classification":
        return labels, test_labels
    labels, test_labels = labels.float(), test_labels.float()
    if task == "multilabel":
        return labels, test_labels
    level, unit = labels.mean(dim=0), labels.std(dim=0).clamp_min(1e-12)
    return (labels - level) / unit, (test_labels - level) / unit


def predict(
    model: nn.Module, images: Tensor, mean: Pixel, std: Pixel, protocol: FT, batch: int = EVALUATION_BATCH
) -> Tensor:
    """Outputs (n x C) of a fine-tuned model for test images, the mean over ten crops if it has a window."""
    views = [images] if protocol.window is None else ten_crops(images, protocol.window)
    found = [torch.cat(outputs(model, x, mean, std, protocol.training.precision, batch)) for x in views]
    return torch.stack(found).float().mean(0)


def _in_parts(attempt: Callable[[int], T], most: int, device: torch.device) -> tuple[T, int]:
    """What an attempt with each batch in 1, 2, 4, ... parts gives, and in how many it fits in memory."""
    parts = 1
    while True:
        try:
            return attempt(parts), parts
        except torch.OutOfMemoryError:
            if 2 * parts > most:
                raise
        parts *= 2  # not in the handler, where the traceback still holds the failed step's tensors
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _prepare(network: nn.Module, head_name: str, device: torch.device, compile: bool) -> None:
    """Take the head off and move the network, where an earlier call has not."""
    if isinstance(network.get_submodule(head_name), nn.Identity):
        return
    network.set_submodule(head_name, nn.Identity())
    network.to(device)
    if device.type == "cuda":  # on a CPU, optimisers copy such weights
        network.to(memory_format=torch.channels_last)
    skip_padding(network)
    if compile:
        network.compile(dynamic=False)


def _width(network: nn.Module, head_name: str, x: Tensor) -> int:
    """How many features the head that was taken off had."""
    # forward and not __call__: a compiled network passes by the hooks.
    with torch.no_grad(), layer_outputs(network.eval(), [head_name]) as seen:
        features = network.forward(x)
    if seen[head_name] is not features or features.ndim != 2:
        raise InputError(f"{type(network).__name__} does not end in its linear head: it cannot get a new one")
    return features.shape[1]


def _note(batch: int, parts: int, penalties: Sequence[Penalty]) -> str:
    if parts == 1:
        return ""
    apart = " and feature spectrum" if not all(penalty.additive for penalty in penalties) else ""
    return (
        f"batches of {batch} did not fit on the device: gradients accumulated over {parts} parts, each "
        f"with its own batch-norm statistics{apart}"
    )


def train(run: FineTuning, protocol: FT, penalties: Sequence[Penalty]) -> tuple[float, float]:
    """Train the network and its head in place; the loss of the last epoch, and the deviation."""
    training, device = protocol.training, run.images.device
    first = {name: weight.detach().clone() for name, weight in run.network.named_parameters()}
    epoch_steps = steps_per_epoch(len(run.images), training.batch)
    steps = protocol.iterations or epoch_steps * (protocol.epochs or 0)
    step = epoch = 0
    with run.stack:
        run.network.eval()
        for penalty in penalties:
            penalty.start(run)
        opt = _optimiser(run, protocol, penalties)
        # A compiled network passes by the hooks.
        forward: Callable[[Tensor], Tensor] = run.network.forward if run.watched else run.network
        run.network.train()
        while step < steps:
            loss = torch.zeros((), device=device)
            rows = batches(len(run.images), training.batch, run.seed, epoch, device)[: steps - step]
            for batch in rows:
                set_rate(opt, schedule(training, step, steps, epoch_steps if protocol.epochs else 1))
                opt.zero_grad()
                loss += backward(run, protocol, penalties, forward, batch, epoch)
                for penalty in penalties:
                    penalty.gradients()
                opt.step()
                step += 1
            epoch += 1
            final_loss = loss.item() / len(rows)
            if not math.isfinite(final_loss):
                raise FloatingPointError(
                    f"fine-tuning by {protocol.name} diverged: the loss of epoch {epoch} is {final_loss}"
                )
    moved = [
        (weight.detach() - first[name]).norm()
        for name, weight in run.network.named_parameters()
        if weight.ndim >= 2 and name.endswith("weight")
    ]
    deviation = float(torch.stack(moved).sum()) / math.sqrt(len(run.images))
    if not math.isfinite(deviation):
        raise FloatingPointError(f"fine-tuning by {protocol.name} diverged: the last weights are not finite")
    return final_loss, deviation


def _optimiser(run: FineTuning, protocol: FT, penalties: Sequence[Penalty]) -> torch.optim.Optimizer:
    training = protocol.training
    body = head = training.weight_decay
    for penalty in penalties:
        body, head = penalty.decay(body, head)
    rate = training.lr * protocol.head_multiplier
    groups = [
        {"params": list(run.network.parameters()), "weight_decay": body},
        {"params": list(run.head.parameters()), "weight_decay": head, "lr": rate},
    ]
    return optimiser(groups, training)


def backward(
    run: FineTuning,
    protocol: FT,
    penalties: Sequence[Penalty],
    forward: Callable[[Tensor], Tensor],
    batch: Tensor,
    epoch: int,
) -> Tensor:
    """Accumulate the gradients of a batch of training rows, part by part; its mean cross-entropy."""
    training = protocol.training
    total = torch.zeros((), device=batch.device)
    for part in batch.tensor_split(run.parts):
        images = augment(run.images[part], training.augment, run.seed, epoch, part, protocol.window)
        x = to_input(images, run.mean, run.std)
        with autocast(training.precision, batch.device):
            features = seen = forward(x)
            for penalty in penalties:
                seen = penalty.features(seen)
            loss = objective = run.loss(run.head(seen).float(), run.labels[part])
            for penalty in penalties:
                objective = objective + penalty.penalise(x, features)
        share = len(part) / len(batch)
        (objective * share).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() * share
    return total
