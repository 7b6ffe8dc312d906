"""Which score to use for a goal, how far that goes and how sure it is, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ckptbench.agreement.runs import MIN_RUNS
from ckptbench.agreement.track import Track
from ckptbench.base.text import counted, loss, number, typeset
from ckptbench.pages.columns import Row
from ckptbench.pages.figures.run import Curve
from ckptbench.pages.queries import FREE, ReportData


@dataclass(frozen=True)
class Pick:
    """The recommended checkpoint of one pair, beside the best and the last; regret and gain in points."""

    where: str
    protocol: str
    curve: Curve
    pick: int
    tied: int
    regret: float
    gain: float

    def sentence(self) -> str:
        curve, epochs = self.curve, self.curve.epochs
        tied = f" (or one of {self.tied} tied with it)" if self.tied else ""
        return typeset(
            f"take epoch {epochs[self.pick]}{tied}, {curve.at(self.pick)} ({self.protocol}). The best is "
            f"epoch {epochs[curve.best]}, {curve.at(curve.best)}; the last, epoch {epochs[-1]}, has "
            f"{curve.at(-1)}. The pick wins {number(self.gain, 1)} points over the last and loses "
            f"{loss(self.regret)} to the best, measured on the half of the truth that did not choose it."
        )


@dataclass(frozen=True)
class Advice:
    goal: str
    selector: str
    far: str
    sure: str
    picks: list[Pick]


def advise(report: ReportData, goal: str) -> Advice:
    """The score with the highest mean tau; one that costs nothing where no other beats it."""
    rows, scores = report.rows[goal], report.ranked(goal)
    selector = max((*FREE, *scores[:1]), key=lambda name: float(rows[name]["tau"]))
    picks = [
        pick
        for pair in report.pairs
        for track in report.of(pair, goal)[:1]
        for pick in _pick(report, track, selector)
    ]
    far = typeset(_how_far(rows, selector, scores))
    return Advice(goal, selector, far, typeset(_how_sure(rows[selector], selector, scores)), picks)


def _pick(report: ReportData, track: Track, selector: str) -> Iterator[Pick]:
    score = report.score(track, selector)
    known = np.flatnonzero(np.isfinite(score))
    if len(known):
        first = known[score[known] == score[known].max()]
        where = report.where((track.source, track.target))
        regret, gain = (report.statistic(track, selector, name) for name in ("regret", "gain"))
        place, tied = int(first[0]), len(first) - 1
        yield Pick(where, track.protocol, report.curve(track), place, tied, regret, gain)


def _how_far(rows: dict[str, Row], selector: str, scores: list[str]) -> str:
    row = rows[selector]
    interval = ""
    for name, what in (("noise", "for the noise of this truth"), ("tau", "across runs")):
        if np.isfinite(row[f"{name}_low"]):
            low, high = (number(row[f"{name}_{end}"]) for end in ("low", "high"))
            interval = f" (95 % interval {what}: {low} to {high})"
    others = {"last-epoch": "taking the epoch as the score", "source-accuracy": "the source accuracy"}
    if selector in FREE and scores:
        others[scores[0]] = (
            f"{scores[0]}, the best of {counted(len(scores), 'score')} computed from features,"
        )
    beside = [
        f"{words} has {number(rows[name]['tau'])}"
        for name, words in others.items()
        if name != selector and not rows[name]["problem"]
    ]
    if "ceiling" in rows and np.isfinite(rows["ceiling"]["tau"]):
        beside.append(f"perfect knowledge would have {number(rows['ceiling']['tau'])}")
    others = {"last-epoch": "the last checkpoint", "chance": "a random one"}
    losses = [f"{words} {loss(rows[name]['regret'])}" for name, words in others.items() if name != selector]
    trend = ""
    if np.isfinite(row["tau_epoch"]):
        trend = f" With the epoch held fixed it is {number(row['tau_epoch'])}"
        trend += ": the rest is a trend that score and truth share." * bool(row["tau_epoch"] < row["tau"])
        trend = trend.rstrip(".") + "."
    mean, average = ("mean ", "on average ") if row["pairs"] > 1 else ("", "")
    return (
        f"Its {mean}τ with the truth is {number(row['tau'])}{interval}; {', '.join(beside)}.{trend} Its "
        f"first choice {average}loses {loss(row['regret'])} of accuracy to the best checkpoint, "
        f"{', '.join(losses)}."
    )


def _how_sure(row: Row, selector: str, scores: list[str]) -> str:
    runs, number_of = counted(int(row["runs"]), "source run"), counted(len(scores), "score")
    if row["runs"] < MIN_RUNS:
        said = (
            f"{runs}: too few for a verdict ({MIN_RUNS} are needed). What is said here holds for these "
            "tracks and may not hold elsewhere."
        )
    elif selector == "last-epoch":
        said = f"This is the mean over {runs}."
    else:
        told = {"better": "better than", "worse": "worse than"}.get(row["verdict"], "not told apart from")
        said = (
            f"Over {runs} its τ is {told} that of the epoch (p = {row['p']:.2g}, corrected for all "
            f"{row['family']} scores). Its first choice helps {counted(int(row['helped']), 'run')} and harms "
            f"{row['harmed']:.0f}."
        )
    if selector in FREE:
        return f"{said} It costs nothing, and none of {number_of} has a higher mean τ here."
    return said + f" It is also the best of {number_of} on these very tracks, which flatters it." * (
        len(scores) > 1
    )
