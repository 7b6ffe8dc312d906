"""A new selector on a published leaderboard: seconds, no data, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptbench.agreement.judge import REFERENCE
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.pages.leaderboard import Leaderboards
from ckptbench.pipeline.bundle import load_frozen
from ckptbench.plugins import plugins_of


@dataclass(frozen=True, eq=False)
class Judged:
    """New selectors among the published ones: the labels they go by, and the leaderboards with them."""

    selectors: list[str]
    boards: Leaderboards

    def sentences(self) -> list[str]:
        """Place, tau and regret of each new selector on each board."""
        lines = []
        for goal, board in self.boards.boards.items():
            rows = board.set_index("selector")
            last, count = rows.loc["last-epoch"], int(board["rank"].notna().sum())
            for name in self.selectors:
                own = rows.loc[name]
                said = (
                    f"place {own['rank']} of {count}, tau {own['tau']:.2f}, regret {own['regret']:.2f} points"
                )
                said += f" (last-epoch: tau {last['tau']:.2f}, regret {last['regret']:.2f})"
                lines.append(f"{name}, {goal.upper()}: {said}" + (own["problem"] and f"; {own['problem']}"))
        return lines


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
    return Judged(labels, frozen.leaderboards(frozen.scores(specs, Store(store), workers)))
