"""Validation cells: what a selection procedure may read of a checkpoint, on the target's train split alone.

FE is `ckptbench rank`'s cross-validated probe: a fold is one repeat of it, out-of-fold accuracy on every
training example. FT is fine-tuned on two of three folds and measured on the third, for as long as the suite's
fine-tuning and for a third of that. Each cell keeps the correctness of its examples and its seconds, for
which a procedure is charged; test truth only judges what was picked (`ckptbench.agreement.recorded`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckptbench.base.digests import derive_seed
from ckptbench.base.sampling import stratified_folds
from ckptbench.base.text import counted
from ckptbench.base.types import Array, Checkpoint, Key
from ckptbench.suites import FT
from ckptbench.truth.crossval import ProbeTask
from ckptbench.truth.tasks import FTTask

if TYPE_CHECKING:
    from torch import Tensor

    from ckptbench.truth.tasks import Tensors

PROBE = "probe"
FT_FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class ProbeFold(ProbeTask):
    """One repeat of the cross-validated probe of a checkpoint on a target's train split."""

    checkpoint: Checkpoint
    target: str
    fold: int = 0
    goal = "fe"
    protocol_name = PROBE

    @property
    def name(self) -> str:
        return f"{PROBE} {self.target} {self.checkpoint.run} epoch {self.checkpoint.epoch}"


@dataclass(frozen=True, kw_only=True)
class TuningFold(FTTask):
    """One fine-tuning on all folds of a target's train split but fold ``seed``, measured on that one."""

    goal = "ft"

    @property
    def fold(self) -> int:
        return self.seed

    @property
    def protocol_name(self) -> str:
        return self.protocol.name

    def lock_key(self) -> Key:
        return {"what": "validation/1", "folds": FT_FOLDS, "ft": super().lock_key()}

    def examples(self, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor) -> Tensors:
        import torch

        held = torch.from_numpy(fold_of(labels.cpu().numpy(), self.target) == self.seed).to(images.device)
        return images[~held], labels[~held], images[held], labels[held]


def fold_of(labels: Array, target: str) -> Array:
    """The fold of each training example of a target, 0..FT_FOLDS-1, the same for every checkpoint."""
    labels = labels if labels.ndim == 1 else np.zeros(len(labels))
    return stratified_folds(labels, FT_FOLDS, np.random.default_rng(derive_seed(target, "validation folds")))


def lengths(protocol: FT) -> list[FT]:
    """A third of a fine-tuning protocol and the whole of it, named by their lengths."""
    unit = "iteration" if protocol.iterations else "epoch"
    whole = protocol.iterations or protocol.epochs or 1
    return [
        protocol.model_copy(update={f"{unit}s": length, "name": counted(length, unit)})
        for length in dict.fromkeys((max(1, whole // 3), whole))
    ]
