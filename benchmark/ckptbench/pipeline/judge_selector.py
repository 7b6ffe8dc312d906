"""A new selector on a published leaderboard: seconds, no data, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.runs import MIN_RUNS
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.text import counted, with_interval
from ckptbench.pages.columns import Row, records
from ckptbench.pages.leaderboard import Leaderboards
from ckptbench.pipeline.bundle import load_frozen
from ckptbench.plugins import plugins_of


@dataclass(frozen=True, eq=False)
class Judged:
    """New selectors among the published ones: the labels they go by, and the leaderboards with them.

    ``sampling`` is, by goal, how far the frozen rows move a published score's tau.
    """

    selectors: list[str]
    boards: Leaderboards
    sampling: dict[str, float]

    def sentences(self) -> list[str]:
        """Place, tau, regret and verdict of each new selector on each board."""
        lines = []
        for goal, board in self.boards.boards.items():
            rows = {row["selector"]: row for row in records(board)}
            last, count = rows["last-epoch"], int(board["rank"].notna().sum())
            for name in self.selectors:
                own = rows[name]
                said = (
                    f"place {own['rank']} of {count}, tau {own['tau']:.2f}, regret {own['regret']:.2f} points"
                )
                said += f" (last-epoch: tau {last['tau']:.2f}, regret {last['regret']:.2f}). {_verdict(own)}"
                if goal in self.sampling:
                    said += f"; the frozen rows alone move a score's tau by {self.sampling[goal]:.2f}"
                lines.append(f"{name}, {goal.upper()}: {said}" + (own["problem"] and f"; {own['problem']}"))
        return lines


def _verdict(own: Row) -> str:
    """A score against last-epoch over the source runs."""
    runs = counted(int(own["runs"]), "source run")
    if own["verdict"] in ("too few runs", "no sound run"):
        return f"No verdict: {own['verdict']} ({runs}, {MIN_RUNS} sound ones are needed)"
    over = with_interval(own["difference"], own["difference_low"], own["difference_high"])
    return (
        f"Against last-epoch over {runs}: {own['verdict']} ({own['family']}, p {own['p']:.3f}, corrected for "
        f"all scores); tau {over} more, interval across runs"
    )


def judge_selector(
    path: str | Path,
    bundle: str | Path,
    *,
    plugins: Sequence[str] = (),
    store: str | Path | None = None,
    workers: int | None = None,
) -> Judged:
    """Score a suite's frozen candidates with the selectors of one file and place them among the published.

    A score with a parameter ``scale`` is judged on raw and on standardised features. One that is published
    already is judged anew.

    Parameters
    ----------
    path : the plugin file
    bundle : ``results/<suite>/frozen``
    plugins : further plugin files or folders
    store : where scores are kept, see `ckptbench.base.store.Store`
    workers : processes; one per core by default

    Raises
    ------
    InputError
        If the file has no selector that could be judged, or the folder no sound bundle with tables beside it.
    """
    frozen = load_frozen(bundle)
    specs = [one for spec in plugins_of(path, ["selector"], plugins) for one in spec.readings]
    labels = [spec.label for spec in specs]
    for name in REFERENCE:
        if name in labels:
            raise InputError(f"{name!r} in {path} is the name of a row that every leaderboard has")
    boards = frozen.leaderboards(frozen.scores(specs, Store(store), workers))
    return Judged(labels, boards, frozen.sampling_error())
