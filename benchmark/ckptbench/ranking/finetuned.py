"""The answer for fine-tuning: the last checkpoint unmeasured, or what fine-tunings on fresh folds say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ckptbench.agreement.certainty import differences, simultaneous_intervals, tied_set
from ckptbench.base.text import counted, number
from ckptbench.base.types import Array, Checkpoint
from ckptbench.ranking.answer import Ranking, epochs_in_words, name_of, percent_of
from ckptbench.ranking.defaults import Advice
from ckptbench.ranking.examples import Labelled
from ckptbench.ranking.verdict import COLUMNS, Screen, against, compared, make_table

FINALISTS, FRESH = 2, 2  # checkpoints, and new folds for their last comparison


def least_runs(checkpoints: int) -> int:
    """Fine-tunings for one round of all checkpoints, smaller ones, and the last comparison."""
    return 2 * checkpoints + (FINALISTS + 1) * FRESH


def untried(
    checkpoints: Sequence[Checkpoint],
    labelled: Labelled,
    used: dict[str, str],
    notes: Sequence[str],
    advice: Advice,
    pick: int,
    screen: Screen | None = None,
) -> Ranking:
    """What the record advises, why, and what a budget would settle."""
    count, best = len(checkpoints), checkpoints[pick]
    verdict = {
        "Take": f"epoch {best.epoch} ({name_of(best)}), {advice.name}, for fine-tuning: no fine-tuning was "
        "measured.",
        "Why": advice.why,
        "To know more": (
            f"--budget 10m fine-tunes all {counted(count, 'checkpoint')} on folds of your data and drops the "
            f"worse half, again and again. That takes at least {least_runs(count)} short fine-tunings, and "
            "says how much the winner differs from the last."
        ),
    }
    if notes:
        verdict["Note"] = " ".join(notes)
    nothing = pd.DataFrame(index=[pick], columns=list(COLUMNS), dtype=np.float64).assign(tied=True)
    return Ranking(
        table=make_table(checkpoints, pick, nothing, screen), pick=best, tied=(best,),
        measured=np.empty((0, len(labelled.labels))), verdict=verdict, used=used,
        facts={"goal": "ft", "examples": len(labelled.labels), "fine_tunings": 0},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What halving ended in.

    ``correct`` : finalists (``places`` in ``checkpoints``) x examples of the fresh folds, of ``groups``
    times : that each finalist was fine-tuned anew
    spent, budget : fine-tunings
    """

    checkpoints: Sequence[Checkpoint]
    pick: int
    places: list[int]
    correct: Array
    groups: Array
    times: int
    spent: int
    budget: int


def decided(decision: Decision, labelled: Labelled, used: dict[str, str], notes: Sequence[str]) -> Ranking:
    """Finalists and the last on the fresh folds, compared in pairs on the same examples."""
    checkpoints, places = decision.checkpoints, decision.places
    found = differences(decision.correct, decision.groups)
    at = places.index(decision.pick)
    ties = tied_set(found)
    ends = simultaneous_intervals(found, at)
    best, last = checkpoints[decision.pick], checkpoints[-1]
    tied = tuple(checkpoints[place] for place, tie in zip(places, ties, strict=True) if tie)
    half = 1.96 * found.noise.std(axis=0)
    low, mean, high = (percent_of(found.accuracy[at] + side * half[at]) for side in (-1, 0, 1))
    verdict = {
        "Take": (
            f"epoch {best.epoch} ({name_of(best)}), for fine-tuning: first of "
            f"{counted(len(places), 'finalist')} on folds that no round had seen."
        ),
        "Expect": (
            f"accuracy {mean} ({low} to {high}) after a short fine-tuning; always answering the largest "
            f"class gives {percent_of(labelled.counts.max() / len(labelled.labels))}."
        ),
    }
    if last is not best:
        other = places.index(len(checkpoints) - 1)
        verdict["The last checkpoint"] = against(last.epoch, ends, found, at, other, ties)
    if len(tied) > 1:
        verdict["Tied"] = (
            f"these data cannot tell {epochs_in_words([c.epoch for c in tied])} apart; differences above "
            f"{number(100 * float(np.max(-ends[0][ties])), 1)} points are excluded, as far as test examples "
            f"go: each was fine-tuned {counted(decision.times, 'time')}."
        )
    verdict["Measured"] = (
        f"{decision.spent} fine-tunings of {counted(len(checkpoints), 'checkpoint')}; nothing is claimed of "
        f"the {len(checkpoints) - len(places)} that were dropped on the way."
    )
    if notes:
        verdict["Note"] = " ".join(notes)
    facts = {
        "goal": "ft", "examples": len(labelled.labels), "fine_tunings": decision.spent,
        "budget_runs": decision.budget,
    }  # fmt: skip
    return Ranking(
        table=make_table(checkpoints, decision.pick, compared(found, ties, at, ends, places)), pick=best,
        tied=tied, measured=decision.correct, verdict=verdict, used=used, facts=facts,
    )  # fmt: skip
