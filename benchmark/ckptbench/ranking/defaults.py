"""What is done where nothing is said: what the published record puts first (`ckptbench.agreement.record`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptbench.agreement.procedures import FirstChoice, Procedure, take_last
from ckptbench.agreement.record import in_words, published_record, to_follow
from ckptbench.agreement.recorded import without_finetuning
from ckptbench.base.errors import InputError
from ckptbench.base.text import listed
from ckptbench.base.types import Task
from ckptbench.plugins import load_plugins

UNRECORDED: dict[Task, str] = {
    "classification": "ridge-loo",
    "multilabel": "ridge-loo-error",
    "regression": "ridge-loo-error",
}
"""The score that stands for a probe where no record says which."""


@dataclass(frozen=True)
class Advice:
    """What to do for fine-tuning where none is measured: a procedure, its name, and why."""

    procedure: Procedure
    name: str
    why: str


def cheap_score(task: Task, plugins: Sequence[str] = ()) -> str:
    """The score that stands for a probe: the first of the record for frozen features that can be had here."""
    record = published_record()
    if task != "classification" or record is None:
        return UNRECORDED[task]
    rows = record[(record["goal"] == "fe") & (record["what"] == "score")]
    rows = rows.sort_values("chosen", ascending=False, kind="stable")
    return next((name for name in rows["name"] if lacks(name, plugins) is None), UNRECORDED[task])


def for_finetuning(task: Task, plugins: Sequence[str] = ()) -> Advice:
    """What the record says to do, where that takes no fine-tuning and can be had here; else the last."""
    record = published_record()
    why, row = in_words(record, "ft"), to_follow(record, "ft")
    if row is None or task != "classification":
        return Advice(take_last, "the last", why)
    name = str(row["name"])
    procedure = without_finetuning(str(row["what"]), name)
    if procedure is None:
        return Advice(take_last, "the last", f"{why} That takes fine-tunings, which only --budget allows.")
    screen = procedure.selector if isinstance(procedure, FirstChoice) else procedure.screen
    lacking = None if screen is None else lacks(screen, plugins)
    if lacking is not None:
        return Advice(take_last, "the last", f"{why} That cannot be had here: {lacking}.")
    how = "first choice of" if isinstance(procedure, FirstChoice) else "best by"
    return Advice(procedure, f"the {how} {name}", why)


def lacks(label: str, plugins: Sequence[str]) -> str | None:
    """Why a score cannot be had of the features and labels of one checkpoint; None where it can."""
    try:
        spec = load_plugins("selector", plugins)[label]
    except InputError as error:
        return str(error)
    more = sorted(set(spec.needs) - {"features", "labels"}) + ["other checkpoints"] * spec.pool
    return f"{label} needs {listed(more)}" if more else None
