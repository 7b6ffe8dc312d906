"""What follows from the cross-validated probes of checkpoints, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ckptbench.agreement.certainty import Differences, examples_needed, simultaneous_intervals, tied_set
from ckptbench.agreement.statistics import Bool
from ckptbench.base.text import counted, number
from ckptbench.base.types import Checkpoint, Float, Metric
from ckptbench.ranking.answer import Ranking, epochs_in_words, name_of, noted, percent_of
from ckptbench.ranking.examples import Labelled
from ckptbench.ranking.options import METRIC_NAMES

GUESSING = 0.04  # with the 0.01 of the first look, false alarms are at most 5 in 100
FIRST_LOOK = 0.01
COLUMNS = ("measured", "measured_low", "measured_high", "tied", "below", "below_low", "below_high")


@dataclass(frozen=True)
class Screen:
    """A number of each checkpoint that is no measurement of the goal, by which some were chosen.

    NaN where a checkpoint has none.
    """

    selector: str
    checkpoints: Sequence[Checkpoint]
    scores: Float


def probed(
    checkpoints: Sequence[Checkpoint],
    found: Differences,
    contributions: Float,
    labelled: Labelled,
    metric: Metric,
    p: float,
    used: dict[str, str],
    notes: Sequence[str],
    untrained: bool = False,
    screen: Screen | None = None,
) -> Ranking:
    """The answer for frozen features, from the cross-validated probe of every checkpoint.

    Parameters
    ----------
    found, contributions : of the checkpoints in epoch order
    p : of guessing, from ``guessing_p``
    untrained : whether the first is known to be a network before training
    """
    pick = int(found.accuracy.argmax())
    ties = tied_set(found)
    ends = simultaneous_intervals(found, pick)
    expected, spread = _expected(found, pick)
    known = checkpoints if screen is None else screen.checkpoints
    places = [known.index(one) for one in checkpoints]
    best, count, guessing = checkpoints[pick], counted(len(checkpoints), "checkpoint"), p > GUESSING
    if guessing:
        verdict = {
            "Nothing here is told from guessing": (
                f"with shuffled labels the best of {count} does as well with probability {p:.2g}. "
                f"Epoch {best.epoch} ({name_of(best)}) has the highest mean, which means nothing by itself."
            )
        }
    else:
        aim = "for regression" if labelled.task == "regression" else "for a classifier"
        highest = f"the highest {METRIC_NAMES[metric]} of {count}"
        verdict = {"Take": f"epoch {best.epoch} ({name_of(best)}), {aim} on frozen features: {highest}."}
    baseline, blind = _blind(labelled, metric)
    least = -9.99 if metric == "r2" else 0.0
    low, high = (percent_of(expected + side * spread, least) for side in (-1, 1))
    verdict["Expect"] = (
        f"{METRIC_NAMES[metric]} {percent_of(expected, least)} on new examples like these "
        f"({low} to {high}); {blind} gives {percent_of(baseline)}."
    )
    if not guessing and len(checkpoints) > 1:
        verdict |= _said_of_others(
            [c.epoch for c in checkpoints], found, ties, pick, ends, labelled, untrained
        )
    if screen is not None:
        left = len(screen.checkpoints) - len(checkpoints)
        verdict["Measured"] = (
            f"as many as the budget allowed, those with the highest {screen.selector} and the last; nothing "
            f"is claimed of the other {left}."
        )
    verdict |= noted(notes)
    facts = {
        "goal": "fe", "task": labelled.task, "metric": metric, "guessing_p": p,
        "told_from_guessing": not guessing, "expected": expected, "examples": len(labelled.labels),
        "baseline": baseline,
    }  # fmt: skip
    return Ranking(
        table=make_table(known, places[pick], compared(found, ties, pick, ends, places), screen),
        pick=best,
        tied=tuple(c for c, tied in zip(checkpoints, ties, strict=True) if tied),
        measured=contributions,
        verdict=verdict,
        used=used,
        facts=facts,
    )


def compared(
    found: Differences, ties: Bool, pick: int, ends: tuple[Float, Float], places: Sequence[int]
) -> pd.DataFrame:
    """What was measured, a row a checkpoint, indexed by its place in the run."""
    half, value = 1.96 * found.noise.std(axis=0), found.accuracy
    columns = (
        value,
        value - half,
        np.minimum(value + half, 1.0),
        ties,
        value[pick] - value,
        -ends[1],
        -ends[0],
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), index=list(places))


def make_table(
    checkpoints: Sequence[Checkpoint], pick: int, measured: pd.DataFrame, screen: Screen | None = None
) -> pd.DataFrame:
    """A row a checkpoint: the pick, then the best first, then those that were not measured by their score,
    or from the last backwards."""
    table = pd.DataFrame(
        {
            "epoch": [c.epoch for c in checkpoints],
            "checkpoint": [name_of(c) for c in checkpoints],
            **{name: measured[name].reindex(range(len(checkpoints))) for name in measured},
            "source_accuracy": np.array([c.source_accuracy for c in checkpoints], dtype=np.float64),
        }
    )
    table["tied"] = table["tied"].eq(True)
    scores = np.zeros(len(table))
    if screen is not None:
        table[screen.selector], scores = screen.scores, np.nan_to_num(screen.scores, nan=-np.inf)
    place = np.arange(len(table))
    order = np.lexsort((-place, -scores, -table["measured"].fillna(-np.inf), place != pick))
    table = table.iloc[order].reset_index(drop=True)
    table.insert(0, "rank", place + 1)
    return table


def _blind(labelled: Labelled, metric: Metric) -> tuple[float, str]:
    """What is had without looking at the examples, and how."""
    if metric == "accuracy":
        return float(labelled.counts.max() / len(labelled.labels)), "always answering the largest class"
    if metric == "r2":
        return 0.0, "always answering the mean"
    share = {"balanced": 1 / len(labelled.classes), "auroc": 0.5, "map": float(labelled.labels.mean())}
    return share[metric], "answering without looking"


def _expected(found: Differences, pick: int) -> tuple[float, float]:
    """Of the pick on new examples, less what being the best of several flatters it by; and 1.96 sd."""
    drawn = found.accuracy + found.noise
    chosen = drawn.argmax(axis=1)
    flattery = float(found.noise[np.arange(len(drawn)), chosen].mean())
    return float(found.accuracy[pick] - max(0.0, flattery)), 1.96 * float(found.noise[:, pick].std())


def _said_of_others(
    epochs: list[int],
    found: Differences,
    ties: Bool,
    pick: int,
    ends: tuple[Float, Float],
    labelled: Labelled,
    untrained: bool,
) -> dict[str, str]:
    """The tied set, the last and the untrained network, and how many examples would tell more."""
    said = {}
    tied = [epoch for epoch, tie in zip(epochs, ties, strict=True) if tie]
    if len(tied) > 1:
        all_of_them = "all checkpoints" if len(tied) == len(epochs) else epochs_in_words(tied)
        excluded = 100 * float(np.max(-ends[0][ties]))
        said["Tied"] = (
            f"these data cannot tell {all_of_them} apart; differences above {number(excluded, 1)} points "
            "are excluded. Of the tied ones the highest mean is taken."
        )
    else:
        said["Tied"] = "no other checkpoint: each of them is worse by more than chance explains."
    if pick != len(epochs) - 1:
        said["The last checkpoint"] = against(epochs[-1], ends, found, pick, len(epochs) - 1, ties)
    if untrained and ties[0]:
        what = "epoch 0 is the pick" if pick == 0 else "epoch 0 is among the tied"
        said["The untrained network"] = f"{what}: that training helps is not shown here."
    elif untrained:
        said["The untrained network"] = against(0, ends, found, pick, 0, ties)
    if len(tied) > 1:
        needed = examples_needed(found, 0.01)
        if needed is not None:
            there = len(labelled.labels)
            of = f" of {labelled.total:,} (--limit takes more)" if labelled.total > there else ""
            said["More examples"] = (
                f"about {int(float(f'{needed:.2g}')):,} labelled examples would tell checkpoints apart that "
                f"differ by one point; {there:,}{of} were used."
            )
    return said


def against(
    epoch: int, ends: tuple[Float, Float], found: Differences, pick: int, other: int, ties: Bool
) -> str:
    """How far below the pick another checkpoint is, with its simultaneous interval."""
    low, high = (float(end[other]) for end in ends)
    gap = 100 * (found.accuracy[pick] - found.accuracy[other])
    interval = f"{number(-100 * high, 1)} to {number(-100 * low, 1)}"
    if ties[other]:
        return f"epoch {epoch} is {number(gap, 1)} points lower, which may be chance ({interval})."
    return f"epoch {epoch} is {number(gap, 1)} points worse ({interval})."
