"""Is the best epoch for FE earlier than the best for FT?

Source: inadequately-pretrained-models (Deng et al. 2022), Figures 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Sheet

from ckptbench.agreement.inference import across_runs
from ckptbench.agreement.tables import Design, tracks
from ckptbench.agreement.track import Track, complete, resample_truth, resolved_pairs, row_pairs
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.text import counted
from ckptbench.base.types import Float
from ckptbench.pages.figures.base import INK, WIDTH, Figure, drawn, finish, legend, look
from ckptbench.pages.queries import epochs_of
from ckptbench.results import Results
from ckptbench.studies.base import Case, Outcome, settled

DRAWS = 2000
CLAIM = "the best epoch for FE comes before the best for FT"


def measure(case: Case) -> Outcome:
    """The best epochs of every pair with FE truth; against FT's, by a bootstrap that both share."""
    unsound = Design.of(case.results).unsound
    rows: list[dict[str, Any]] = []
    later: dict[str, list[tuple[float, Float]]] = {}
    for (source, target), of in by_pair(case.results).items():
        if "fe" not in {track.goal for track in of}:
            continue
        rng = np.random.default_rng(derive_seed("best-epochs", source, target))
        row, draws = best_epochs(of, rng)
        rows.append({"source": source, "target": target, **row, "unsound": unsound.get(source, "")})
        if source not in unsound and "later" in row:
            later.setdefault(source, []).append((row["later"] / row["last"], draws / row["last"]))
    if not rows:
        raise InputError(f"suite {case.suite.name} has no pair with FE truth, at three epochs or more")
    table = pd.DataFrame(rows)
    sound = table[table["unsound"] == ""]
    fallen = sound.groupby("source")["fe_fall_resolved"].any()
    of_ft = "no pair has FT truth"
    if later:
        both = sound.dropna(subset="later")
        of_ft = f"FT at {_middle(both['ft_epoch'] / both['last'])} of {counted(len(both), 'pair')}"
    finding = (
        f"FE is best at {_middle(sound['fe_epoch'] / sound['last'])} of the run (median of "
        f"{counted(len(sound), 'pair')}), {of_ft}; FE falls, resolved, in {fallen.sum()} of "
        f"{counted(len(fallen), 'run')}"
    )
    sentence = _sentence(later) if later or sound.empty else f"Does not settle whether {CLAIM}: {of_ft}."
    return Outcome(table, _figure(sound, finding), sentence)


def by_pair(results: Results) -> dict[tuple[str, str], list[Track]]:
    """The FE and FT tracks that can be judged, of each source-target pair."""
    found: dict[tuple[str, str], list[Track]] = {}
    for track in tracks(results):
        whole = complete(track)[0]
        if track.goal in ("fe", "ft") and whole.epochs is not None and len(whole.epochs) > 2:
            found.setdefault((track.source, track.target), []).append(whole)
    return found


def best_epochs(of: Sequence[Track], rng: np.random.Generator) -> tuple[dict[str, Any], Float]:
    """Of one pair: where FE and FT are best among the epochs that all protocols judged, how far they fall.

    Returns the facts, and the bootstrap's differences of the best epochs, FT minus FE (DRAWS; none where a
    pair has no FT truth).
    """
    epochs = reduce(np.intersect1d, [epochs_of(track) for track in of])
    resampled = joint_truths(of, rng)
    row: dict[str, Any] = {"epochs": len(epochs), "last": int(epochs[-1])}
    best, peaks = {}, {}
    goals = [goal for goal in ("fe", "ft") if any(track.goal == goal for track in of)]
    for goal in goals:
        own = [(track, truths) for track, truths in zip(of, resampled, strict=True) if track.goal == goal]
        places = [np.searchsorted(epochs_of(track), epochs) for track, _ in own]
        mean = np.mean([track.mean[at] for (track, _), at in zip(own, places, strict=True)], axis=0)
        truths = np.mean([truths[:, at] for (_, truths), at in zip(own, places, strict=True)], axis=0)
        best[goal] = epochs[truths.argmax(axis=1)]
        row[f"{goal}_epoch"] = peaks[goal] = int(epochs[mean.argmax()])
        row[f"{goal}_fall"] = 100 * float(mean.max() - mean[-1])
        row[f"{goal}_fall_resolved"] = any(has_fallen(track) for track, _ in own)
    if "ft" not in goals:
        return row, np.empty(0)
    difference = (best["ft"] - best["fe"]).astype(np.float64)
    low, high = np.quantile(difference, (0.025, 0.975))
    row |= {
        "later": peaks["ft"] - peaks["fe"],
        "later_low": low,
        "later_high": high,
        "fe_earlier": float((difference > 0).mean()),
    }
    return row, difference


def joint_truths(of: Sequence[Track], rng: np.random.Generator, draws: int = DRAWS) -> list[Float]:
    """Truths as other seeds and test examples might have given them: draws x E for each track.

    Tracks of one pair share their test examples, so that these are drawn once for all; seeds, which
    protocols do not share, are drawn for each.
    """
    counts: dict[int, Float] = {}
    found = []
    for track in of:
        truths = resample_truth(replace(track, correct=None), draws, rng)
        truths = np.tile(track.mean, (draws, 1)) if truths is None else truths
        if track.correct is not None:
            easy = track.correct.mean(axis=1)
            size = easy.shape[1]
            if size not in counts:
                drawn_counts = rng.multinomial(size, np.full(size, 1 / size), size=draws)
                counts[size] = drawn_counts.astype(np.float64) - 1
            truths = truths + counts[size] @ easy.T / size
        found.append(truths)
    return found


def has_fallen(track: Track) -> bool:
    """Whether the last checkpoint is below the best by a resolved margin."""
    last = len(track.mean) - 1
    best = int(track.mean.argmax())
    return best < last and is_resolved(track, best, last)


def is_resolved(track: Track, i: int, j: int) -> bool:
    """Whether checkpoints i < j differ in truth, among all pairs of the track."""
    pairs = next(pairs for row, pairs in row_pairs(len(track.mean)) if row == i)
    return bool(resolved_pairs(track)[pairs][j - i - 1])


def _middle(shares: pd.Series) -> str:
    return f"{100 * shares.median():.0f} %"


def _sentence(later: dict[str, list[tuple[float, Float]]]) -> str:
    """Over runs, or, of a single one, by the bootstrap of its pairs."""
    what = "FT's best minus FE's, in per cent of the run,"
    runs = np.array([100 * np.mean([share for share, _ in pairs]) for pairs in later.values()])
    if len(runs) != 1:
        if not len(runs):
            return f"Does not settle whether {CLAIM}: no source run is sound."
        low, high = (float(end[0]) for end in across_runs(runs[:, None]))
        return settled(CLAIM, float(runs.mean()), low, high, what, counted(len(runs), "run"), 0)
    (pairs,) = later.values()
    low, high = np.quantile(100 * np.mean([draws for _, draws in pairs], axis=0), (0.025, 0.975))
    over = f"the truth's noise on {counted(len(pairs), 'pair')} of one run"
    return settled(CLAIM, float(runs[0]), float(low), float(high), what, over, 0)


@drawn
def _figure(sound: pd.DataFrame, finding: str) -> Figure:
    """A line a pair: the best FE and the best FT epoch along the run."""
    shown = sound.sort_values(["source", "target"], ascending=False)
    sheet = Sheet(figsize=(WIDTH, 1.4 + 0.17 * len(shown)))
    axes = sheet.subplots()
    rows = np.arange(len(shown))
    goals = [goal for goal in ("fe", "ft") if f"{goal}_epoch" in shown]
    places = {goal: 100 * shown[f"{goal}_epoch"] / shown["last"] for goal in goals}
    axes.hlines(rows, places[goals[0]], places[goals[-1]], color=INK, alpha=0.3, linewidth=0.8)
    for i, (goal, share) in enumerate(places.items()):
        axes.plot(share, rows, label=f"best {goal.upper()} epoch", linestyle="none", **look(i, "marker"))
    axes.set_yticks(
        rows,
        [f"{source} → {target}" for source, target in zip(shown["source"], shown["target"], strict=True)],
    )
    axes.tick_params(axis="y", labelsize=6.5)
    axes.set_xlabel("epoch of pre-training, % of the run")
    legend(axes, 1)
    alt = "A row for each source-target pair, with the epoch at which FE and FT accuracy are highest."
    note = (
        "Only epochs that every protocol of a pair judged; accuracies are means over the protocols of a goal."
    )
    return finish(sheet, "best-epochs", finding + ".", alt, note)
