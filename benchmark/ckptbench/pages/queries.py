"""What a report asks of a suite's results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.runs import run_table
from ckptbench.agreement.statistics import tau_b
from ckptbench.agreement.tables import Design, tracks
from ckptbench.agreement.track import Track, complete, resample_truth
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.text import counted, listed
from ckptbench.base.types import Array, Float
from ckptbench.pages import leaderboard
from ckptbench.pages.columns import Row, records
from ckptbench.pages.figures.run import Curve

Pair = tuple[str, str]
"""A source run and a target."""

FEW = 4  # pairs, up to which each has figures of its own
SHOWN = 12  # selectors in a figure, beside those that cost nothing; tables have all
FREE = ("last-epoch", "source-accuracy")


class ReportData:
    """A suite's results, looked at once from all the sides that the page shows."""

    def __init__(self, folder: Path) -> None:
        results, self.boards = leaderboard.read(folder)
        self.results, self.suite, self.design = results, results.suite, Design.of(results)
        self.goals = list(self.boards.boards)
        agreement = self.boards.agreement
        self.rows: dict[str, dict[str, Row]] = {
            goal: {row["selector"]: row for row in records(board)}
            for goal, board in self.boards.boards.items()
        }
        self._statistics = {
            (row["source"], row["target"], row["protocol"], row["selector"]): row
            for row in records(agreement)
        }
        judged = agreement[agreement["tau"].notna()]
        names = set(zip(judged["source"], judged["target"], judged["protocol"], strict=True))
        whole = [complete(track)[0] for track in tracks(results)]
        self.tracks = [t for t in whole if (t.source, t.target, t.protocol) in names]
        if not self.tracks:
            raise InputError(
                f"no track of suite {self.suite.name} can be judged yet: each needs 3 checkpoints"
            )
        self.pairs: list[Pair] = list(dict.fromkeys((t.source, t.target) for t in self.tracks))
        cells = results.scores[results.scores["status"] == "ok"]
        self._scores = dict(cells.groupby(["source", "target", "selector", "epoch"])["score"].mean().items())
        self._curves: dict[str, Curve] = {}

    # Source-target pairs.

    def where(self, pair: Pair) -> str:
        """What a pair is called: its target, with the source run where there are several."""
        several = len({source for source, _ in self.pairs}) > 1
        return f"{self.named(pair)[0]} → {pair[1]}" if several else pair[1]

    def named(self, pair: Pair) -> Pair:
        """The pair, its source run marked where it did not learn."""
        return pair[0] + " (unsound)" * (pair[0] in self.design.unsound), pair[1]

    def over(self, *goals: str) -> str:
        """What a mean over the runs or pairs with such truth is called; one pair has its own name."""
        pairs = self.having(*goals)
        pairs = [pair for pair in pairs if pair[0] not in self.design.unsound] or pairs
        runs = len({source for source, _ in pairs})
        if len(pairs) == 1:
            return self.where(pairs[0])
        return f"Mean over {counted(runs, 'run')}" if runs > 1 else f"Mean over {counted(len(pairs), 'pair')}"

    def having(self, *goals: str) -> list[Pair]:
        """The pairs with a track of any of the goals."""
        return [pair for pair in self.pairs if self.of(pair, *goals)]

    @property
    def many(self) -> bool:
        return len(self.pairs) > FEW

    @cached_property
    def full(self) -> list[Pair]:
        """The pairs drawn in full: all of a few; of many the first and the last with truth for every goal."""
        if not self.many:
            return self.pairs
        pairs = [pair for pair in self.pairs if all(self.of(pair, goal) for goal in self.goals)] or self.pairs
        return list(dict.fromkeys((pairs[0], pairs[-1])))

    def chosen(self) -> str:
        """Which pairs are drawn in full, and how they were chosen."""
        goals = listed([goal.upper() for goal in self.goals])
        names = listed([self.where(pair) for pair in self.full])
        return (
            f"Of {counted(len(self.pairs), 'source-target pair')}, two are drawn in full, here and below: "
            f"the first and the last in truth.csv that have {goals} truth, {names}."
        )

    def groups(self, *goals: str) -> dict[str, dict[str, Pair]]:
        """Heading -> label -> pair: targets below their source runs, or the other way round."""
        pairs = {self.named(pair): pair for pair in self.having(*goals)}
        groups = grouped(list(pairs))
        return {head: {label: pairs[pair] for label, pair in group.items()} for head, group in groups.items()}

    # Tracks.

    def of(self, pair: Pair, *goals: str) -> list[Track]:
        """A pair's tracks for some goals: fe, ft, or a part of the features, fe-main and fe-residual."""
        return [t for goal in goals for t in self.tracks if (t.source, t.target, t.goal) == (*pair, goal)]

    def curve(self, track: Track) -> Curve:
        """A track's truth along the epochs, with its intervals."""
        if track.name not in self._curves:
            rng = np.random.default_rng(derive_seed("report", track.name))
            truths = resample_truth(track, 1000, rng)
            half = None if truths is None else 1.96 * truths.std(axis=0, ddof=1)
            self._curves[track.name] = Curve(track.protocol, epochs_of(track), track.mean, half)
        return self._curves[track.name]

    def source_curve(self, source: str) -> Curve | None:
        """The accuracy on the source task along the epochs."""
        facts = self.results.checkpoints
        facts = facts[(facts["source"] == source) & facts["source_accuracy"].notna()].sort_values("epoch")
        if facts.empty:
            return None
        return Curve("source", facts["epoch"].to_numpy(), facts["source_accuracy"].to_numpy())

    # Selectors.

    def score(self, track: Track, selector: str) -> Float:
        """A selector's scores (means over its repeats) at the epochs of a track, NaN where it has none."""
        if selector == "last-epoch":
            return epochs_of(track).astype(np.float64)
        if selector == "source-accuracy" and track.source_accuracy is not None:
            return track.source_accuracy
        about = (track.source, track.target, selector)
        return np.array([self._scores.get((*about, epoch), np.nan) for epoch in epochs_of(track)])

    def statistic(self, track: Track, selector: str, name: str) -> float:
        """A column of the agreement table."""
        return float(self._statistics[track.source, track.target, track.protocol, selector][name])

    def tau(self, track: Track, selector: str) -> tuple[float, float, float]:
        """Tau on a track with the ends of its interval."""
        tau, low, high = (self.statistic(track, selector, name) for name in ("tau", "tau_low", "tau_high"))
        return tau, low, high

    def pair_taus(self, goal: str) -> pd.DataFrame:
        """Selectors x pairs of a goal: tau, mean over the pair's protocols."""
        rows = self.boards.agreement[self.boards.agreement["goal"] == goal]
        taus = rows.groupby(["selector", "source", "target"])["tau"].mean().unstack(["source", "target"])
        return taus.reindex(columns=pd.MultiIndex.from_tuples(self.having(goal)))

    def run_taus(self, goal: str) -> tuple[str, pd.DataFrame]:
        """What a board's mean tau is the mean of, and selectors x runs; of a single run, x pairs."""
        runs = run_table(self.boards.agreement, goal, self.design)
        taus = runs[runs["unsound"] == ""].pivot(index="selector", columns="source", values="tau")
        return ("one run", taus) if taus.shape[1] > 1 else ("one pair", self.pair_taus(goal))

    def ranked(self, goal: str) -> list[str]:
        """The scores of a board, best first, without the reference rows."""
        return [name for name in self.rows[goal] if name not in REFERENCE]

    def shown(self, *goals: str) -> list[str]:
        """The scores with the highest mean tau, as many for each goal; then what costs nothing."""
        names: list[str] = []
        for goal in goals:
            scores = self.ranked(goal)
            names += scores[: len(scores) if len(scores) <= SHOWN else SHOWN // len(goals)]
        return [*dict.fromkeys(names), *FREE]

    def how_many(self, *goals: str, most: int = SHOWN) -> str:
        """'The 12 best of 45 scores by mean τ for FE', or that all are shown."""
        count = len(self.ranked(goals[0]))
        if count <= most:
            return f"All {count} scores"
        each = " and for ".join(goal.upper() for goal in goals)
        return f"The {most // len(goals)} best of {count} scores by mean τ for {each}"


def grouped(pairs: Sequence[Pair]) -> dict[str, dict[str, Pair]]:
    """Heading -> label -> pair, below the side that has fewer names."""
    side = int(len({source for source, _ in pairs}) > len({target for _, target in pairs}))
    groups: dict[str, dict[str, Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair[side], {})[pair[1 - side]] = pair
    return groups


def epochs_of(track: Track) -> Array:
    return np.arange(len(track.truth)) if track.epochs is None else track.epochs


def tau_of_tracks(a: Track, b: Track) -> float:
    """Tau between two truths over the epochs that both have."""
    _, left, right = np.intersect1d(epochs_of(a), epochs_of(b), return_indices=True)
    return float(tau_b(a.mean[left], b.mean[right])[0, 0]) if len(left) > 2 else float("nan")


def finite_mean(values: Sequence[float] | Any) -> float:
    """The mean of what is finite, NaN where nothing is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
