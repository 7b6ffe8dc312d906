"""BERT fine-tuned on tasks of GLUE with and without BSS on the pooled feature.

Source: batch-spectral-shrinkage (Chen et al. 2019), Table 4: batches of 32, 3 epochs, MNLI-m, QNLI, MRPC and
SST-2; the rest is the recipe of Devlin et al. 2019, BERT (Adam, linear warm-up over a tenth of the steps and
linear decay), at one of its rates. Needs transformers, and datasets where texts come from the hub.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.networks.hardware import pick_device
from ckptbench.networks.training import batches, one_thread, seeded, steps_per_epoch
from ckptbench.plugins import load_plugins
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptbench.truth.penalty import Penalty

BATCH, EPOCHS, RATE, DECAY, LENGTH = 32, 3, 2e-5, 0.01, 128
EXAMPLES = 2000  # of train and of dev by default; all with --full
HUB = "nyu-mll/glue"
CLAIM = "BSS on the pooled feature helps BERT"


@dataclass(frozen=True)
class Task:
    """Columns of the one or two texts on the hub, and its split that stands for dev."""

    columns: tuple[str, ...]
    dev: str = "validation"


TASKS = {
    "mnli": Task(("premise", "hypothesis"), "validation_matched"),
    "qnli": Task(("question", "sentence")),
    "mrpc": Task(("sentence1", "sentence2")),
    "sst2": Task(("sentence",)),
}


def measure(case: Case) -> Outcome:
    """Dev accuracy of every task, with and without BSS, on the same draws."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError("study bert needs transformers: pip install 'ckptbench[bert]'")
    rows = []
    device = pick_device(case.device)
    for name in TASKS:
        most = sys.maxsize if case.full else EXAMPLES
        train, dev = (_texts(case.texts, name, split, most) for split in ("train", "dev"))
        for seed in range(case.seeds):
            for method in ("plain", "bss"):
                added = [load_plugins("penalty", case.plugins)["bss"].make()] if method == "bss" else []
                with one_thread(device):
                    accuracy = finetune(
                        case.weights, train, dev, added, derive_seed("bert", name, seed), device
                    )
                rows.append({"task": name, "seed": seed, "method": method, "accuracy": 100 * accuracy})
    table = pd.DataFrame(rows)
    wide = table.pivot(index=["task", "seed"], columns="method", values="accuracy")
    gain = wide["bss"] - wide["plain"]
    means = ", ".join(f"{value:+.2f} on {name}" for name, value in gain.groupby("task").mean().items())
    numbered = table.assign(at=table["task"].map({name: i for i, name in enumerate(TASKS, 1)}))
    x = ", ".join(f"{i} {name}" for i, name in enumerate(TASKS, 1))
    figure = line_figure(
        "bert",
        f"BSS changes the accuracy of {Path(case.weights).name} by {gain.mean():+.2f} points: {means}.",
        "Accuracy on the dev sets of four tasks, with and without BSS.",
        "Mean, least and greatest over seeds.",
        [Panel(x, "dev accuracy, %", lines(numbered, "method", "at", "accuracy"))],
    )
    return Outcome(table, figure, verdict(CLAIM, gain, "paired fine-tuning", "the gain in points"))


def finetune(
    weights: str,
    train: pd.DataFrame,
    dev: pd.DataFrame,
    penalties: Sequence[Penalty],
    seed: int,
    device: torch.device,
) -> float:
    """Fine-tune and give the share of dev examples that are right.

    ``train`` and ``dev`` have one or two columns of text and ``label``, the last column.
    """
    tokenizer, network = _pretrained(weights)
    network.to(device)
    with seeded(seed, device):
        head = nn.Linear(network.config.hidden_size, int(train["label"].max()) + 1).to(device)
        drop = nn.Dropout(network.config.hidden_dropout_prob)
        parameters = [*network.parameters(), *head.parameters()]
        opt = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
        steps = EPOCHS * steps_per_epoch(len(train), BATCH)
        rising = max(1, steps // 10)
        plan = torch.optim.lr_scheduler.LambdaLR(
            opt, lambda step: min((step + 1) / rising, max(0.0, (steps - step) / (steps - rising)))
        )

        def pooled(part: pd.DataFrame) -> torch.Tensor:
            texts = [part[column].tolist() for column in part.columns[:-1]]
            encoded = tokenizer(*texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            found: torch.Tensor = network(**encoded.to(device)).pooler_output
            return found

        network.train()
        for epoch in range(EPOCHS):
            for rows in batches(len(train), BATCH, seed, epoch):
                part = train.iloc[rows.numpy()]
                features = pooled(part)
                labels = torch.tensor(part["label"].to_numpy(), device=device)
                loss = F.cross_entropy(head(drop(features)), labels)
                for penalty in penalties:
                    loss = loss + penalty.penalise(features, features)
                opt.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                opt.step()
                plan.step()
    network.eval()
    right = 0
    with torch.no_grad():
        for begin in range(0, len(dev), 4 * BATCH):
            part = dev.iloc[begin : begin + 4 * BATCH]
            right += int((head(pooled(part)).argmax(1).cpu().numpy() == part["label"].to_numpy()).sum())
    return right / len(dev)


def _pretrained(weights: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    local = Path(weights).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=local)
        network = AutoModel.from_pretrained(weights, local_files_only=local, use_safetensors=True)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"weights {weights!r} are neither in a folder that transformers has saved nor on the hub: {why}"
        ) from None
    return tokenizer, network


def _texts(folder: str, task: str, split: str, most: int) -> pd.DataFrame:
    """Texts and labels of a split, from FOLDER/TASK/SPLIT.csv or from the hub."""
    if folder:
        path = Path(folder) / task / f"{split}.csv"
        try:
            table = pd.read_csv(path, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as texts: {error}") from None
        if len(table.columns) not in (2, 3) or table.columns[-1] != "label" or table.empty:
            raise InputError(f"{path} should have one or two columns of text, then label, and rows")
        return table.head(most)
    if importlib.util.find_spec("datasets") is None:
        raise InputError("study bert reads texts from the hub by datasets, which is missing: or give --texts")
    from datasets import load_dataset

    name = TASKS[task].dev if split == "dev" else split
    try:
        found: pd.DataFrame = load_dataset(HUB, task, split=name).to_pandas()
    except Exception as error:  # the hub's errors have no common base
        raise InputError(f"texts of {task} are not to be had from the hub: {error}") from None
    return found[[*TASKS[task].columns, "label"]].head(most)
