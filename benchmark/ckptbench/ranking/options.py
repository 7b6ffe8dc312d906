"""What may be said to ``rank``, checked; imports nothing that takes time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

from ckptbench.base.errors import InputError
from ckptbench.base.text import listed
from ckptbench.base.types import Metric, Task

Goal = Literal["fe", "ft"]
METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": ("accuracy", "balanced", "auroc"),
    "multilabel": ("map", "auroc"),
    "regression": ("r2",),
}
"""What can be measured of a task; the first where nothing is said."""
METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "accuracy",
    "balanced": "balanced accuracy",
    "auroc": "AUROC",
    "map": "mean average precision",
    "r2": "share of variance explained (R2)",
}
LIMIT = 2000
Normalisation = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """See `ckptbench.rank`, whose arguments these are."""

    arch: str | None = None
    goal: Goal = "fe"
    budget: str | float | None = None
    task: Task = "classification"
    metric: Metric | None = None
    groups: Any = None
    plugins: Sequence[str] | str = ()
    layer: str | None = None
    size: int | None = None
    normalise: Normalisation | None = None
    key: str | None = None
    prefix: str | None = None
    pattern: str | None = None
    strict: bool = False
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    limit: int = LIMIT

    @property
    def measure(self) -> Metric:
        return self.metric or METRICS[self.task][0]

    def checked(self) -> Options:
        """The same, words in lower case.

        Raises
        ------
        InputError
            If something is not known, or two things do not go together.
        """
        for name in ("arch", "layer", "key", "prefix", "pattern"):
            if not isinstance(word := getattr(self, name), str | None):
                raise InputError(f"{name} is {word!r}: it should be a word")
        for name in ("size", "limit"):
            number = getattr(self, name)
            if number is not None and not isinstance(number, Integral):
                raise InputError(f"{name} is {number!r}: it should be a whole number")
        goal, task = one_of("goal", self.goal, get_args(Goal)), one_of("task", self.task, get_args(Task))
        one_of("precision", self.precision, ("fp32", "bf16"))
        metric = None if self.metric is None else one_of("metric", self.metric, get_args(Metric))
        if metric is not None and metric not in METRICS[task]:
            raise InputError(f"the metric of {task} can be {listed(METRICS[task])}, not {metric}")
        if self.limit < 10:
            raise InputError(f"limit is {self.limit}: at least 10 examples are needed")
        if self.budget is not None:
            runs = parse_budget(self.budget)[1]
            if goal == "fe" and runs is not None:
                raise InputError("a budget in runs is for fine-tuning: goal='ft', or give a time as in 10m")
            if goal == "ft" and task != "classification":
                raise InputError(
                    "fine-tunings are measured where each example has one class; without a budget the last "
                    "checkpoint is taken"
                )
        plugins = (str(self.plugins),) if is_path(self.plugins) else tuple(map(str, self.plugins))
        return replace(self, goal=goal, task=task, metric=metric, plugins=plugins)


def one_of(name: str, value: Any, known: Sequence[str]) -> Any:
    """The one of some words, in whatever case it was written."""
    if isinstance(value, str) and value.lower() in known:
        return value.lower()
    raise InputError(f"{name} is {value!r}: it should be {' or '.join(repr(one) for one in known)}")


def parse_budget(budget: str | float) -> tuple[float | None, int | None]:
    """(seconds, number of fine-tunings), one of them None."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|runs?|)", str(budget).strip().lower())
    if not found or float(found[1]) <= 0:
        raise InputError(f"a budget of {budget!r} cannot be read: 10m, 2h, 90s or '30 runs' can")
    if found[2].startswith("run"):
        return None, int(float(found[1]))
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[found[2]], None


def is_path(value: Any) -> bool:
    return isinstance(value, str | Path)
