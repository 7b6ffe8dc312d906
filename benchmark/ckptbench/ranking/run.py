"""``rank``: which checkpoint to take to labelled data, measured on those data, and how surely.

Nothing heavy is imported before it is known that the answer was not given before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Cell, Metric, Task
from ckptbench.ranking.answer import Ranking
from ckptbench.ranking.options import LIMIT, Goal, Normalisation, Options
from ckptbench.ranking.remembered import question

if TYPE_CHECKING:
    from ckptbench.pipeline.progress import Reporter


def rank(
    checkpoints: Any,
    arch: str | None = None,
    data: Any = None,
    *,
    goal: Goal = "fe",
    budget: str | float | None = None,
    task: Task = "classification",
    metric: Metric | None = None,
    groups: str | Path | Sequence[Any] | None = None,
    plugins: Sequence[str] | str = (),
    layer: str | None = None,
    size: int | None = None,
    normalise: Normalisation | None = None,
    key: str | None = None,
    prefix: str | None = None,
    pattern: str | None = None,
    strict: bool = False,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    store: str | Path | None = None,
    workers: int | None = None,
    limit: int = LIMIT,
    reporter: Reporter | None = None,
) -> Ranking:
    """Say which checkpoint to take to your data.

    An answer from files is remembered in the store until one of them changes.

    Parameters
    ----------
    checkpoints : a folder, a list of files, modules or state dicts, or (with ``data`` the labels) a list of
        feature matrices N x D; lists are in the order of time
    arch : the architecture's name, with options as in ``resnet18:stem=small``
    data : a path (a folder of images per class, .csv or .tsv with columns path or text and label, .npz, a
        data set that Hugging Face's datasets saved), a set's name, (images, labels), a torch Dataset or
        DataLoader, or a DataFrame with columns path or text and label
    goal : ``fe`` for a head on frozen features, ``ft`` for fine-tuning
    budget : seconds or ``"10m"`` to spend; for fine-tuning on real fine-tunings, or ``"30 runs"``; for frozen
        features on probes, of the checkpoints that a cheap score puts first
    task : ``classification``; ``multilabel``, labels N x K of 0 and 1, or names with ; between; or
        ``regression``, labels N or N x K numbers
    metric : what is measured: accuracy, balanced accuracy (``balanced``) or ``auroc``; of several labels
        ``map`` (mean average precision) or ``auroc``; of numbers ``r2``. The first of these by default
    groups : examples that belong together (patients, speakers): folds never split a group. A column of the
        table, a CSV file with path and group, or a group for each example
    size, normalise : of the images, in pixels, and (mean, deviation) of each channel; by default those of the
        run's own record, else those that the architecture's library uses
    key, prefix : where in a file the weights are, where that is not found by fitting
    pattern : a regular expression whose group finds the epoch in a file's name
    strict : stop at a checkpoint that cannot be used, where it would be skipped
    limit : use at most so many examples

    Raises
    ------
    InputError
        If anything given is not there or does not fit.
    """
    if data is None:
        raise InputError("say on which labelled data, as in data='path/to/images'")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: at least one is needed")
    options = Options(
        arch=arch, goal=goal, budget=budget, task=task, metric=metric, groups=groups, plugins=plugins,
        layer=layer, size=size, normalise=normalise, key=key, prefix=prefix, pattern=pattern, strict=strict,
        device=device, precision=precision, limit=limit,
    ).checked()  # fmt: skip
    kept = Store(store)
    asked = question(checkpoints, data, options)
    cell = None if asked is None else kept.read_cell(asked)
    if cell is not None:
        return Ranking.unpacked(cell.extra)

    from ckptbench.pipeline.progress import Reporter
    from ckptbench.ranking.measure import measured_answer

    reporter = reporter or Reporter(quiet=True)
    ranking = measured_answer(checkpoints, data, options, kept, workers, reporter)
    if asked is not None:
        kept.write_cell(Cell(asked, "ok", extra=ranking.packed()))
    return ranking
