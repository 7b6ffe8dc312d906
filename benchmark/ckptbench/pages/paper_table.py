"""Our truth in the form of the papers' tables: a quoted table beside ours, and fine-tuning methods at
sampling rates (Table 2 of batch-spectral-shrinkage). Both rest on `paired_change`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from ckptbench.agreement.tables import tracks
from ckptbench.agreement.track import Track
from ckptbench.base.errors import InputError
from ckptbench.base.text import number, with_interval
from ckptbench.base.types import Float
from ckptbench.pages.columns import Column, Entry, Table, records
from ckptbench.results import Results
from ckptbench.suites import Published


class Change(NamedTuple):
    """A mean paired difference with its 95 % interval (NaN where nothing shows its noise)."""

    mean: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_change(
    before: Float, after: Float, share: float = 0.0,
    correct: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> Change:  # fmt: skip
    """How much ``after`` is above ``before``, paired by seed and by test example.

    The variance of the mean over S seeds has two terms, joined by Satterthwaite's degrees of freedom:

    - of seeds, v (1/S + f/(1-f)), v being the sample variance of the differences: draws of a ``share`` f of
      one training set overlap, so that v is only 1 - f of what fresh training sets would give, and what the
      draws have in common does not average out (for a difference that is a mean over training examples v is
      (1-f) s^2/n, the covariance of two draws f s^2/n). Nadeau and Bengio (2003) correct overlap alike;
    - of test examples, the variance over examples of the mean difference in correctness, over their number.

    Parameters
    ----------
    before, after : S accuracies
    share : of one training set, that every seed draws; 0 where training sets are disjoint. Where it is 1,
        nothing shows what another training set would give, and the interval is given this one
    correct : of both, S x T, where it was kept
    """
    differences = np.asarray(after - before, dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    seeds = len(differences)
    if not seeds:
        return Change(np.nan, np.nan, np.nan)
    mean = float(differences.mean())
    if seeds < 2:
        return Change(mean, np.nan, np.nan)
    shared = share / (1 - share) if share < 1 else 0.0
    terms = [(float(differences.var(ddof=1)) * (1 / seeds + shared), seeds - 1)]
    if correct is not None:
        by_example = correct[1].mean(axis=0) - correct[0].mean(axis=0)
        terms.append((float(by_example.var(ddof=1)) / len(by_example), len(by_example) - 1))
    variance = sum(term for term, _ in terms)
    freedom = variance**2 / sum(term**2 / df for term, df in terms) if variance else seeds - 1
    half = float(student.ppf(0.975, freedom) * np.sqrt(variance))
    return Change(mean, mean - half, mean + half)


def _judged(track: Track) -> dict[int, int]:
    """Epoch -> row, of the checkpoints with any truth."""
    epochs = np.arange(len(track.truth)) if track.epochs is None else track.epochs
    return {int(epochs[row]): int(row) for row in np.flatnonzero(np.isfinite(track.truth).any(axis=1))}


def _between(one: tuple[Track, int], other: tuple[Track, int]) -> Change:
    """From one (track, row) to another, in points."""
    (before, i), (after, j) = one, other
    seeds = min(before.truth.shape[1], after.truth.shape[1])
    known = np.isfinite(before.truth[i, :seeds] + after.truth[j, :seeds])
    correct = None
    if before.correct is not None and after.correct is not None:
        correct = before.correct[i, :seeds][known], after.correct[j, :seeds][known]
    one_truth, other_truth = before.truth[i, :seeds][known], after.truth[j, :seeds][known]
    change = paired_change(one_truth, other_truth, max(before.overlap, after.overlap), correct)
    return Change(*(100 * value for value in change))


# ------------------------------------------------------------------------------------- a quoted table


def published_table(results: Results) -> pd.DataFrame:
    """A paper's table beside ours, as the suite file quotes it; the change from its first epoch to its last.

    Returns
    -------
    One row per (line of the paper's table, protocol of ours, source, target), accuracies in %. Columns what,
    protocol, source, target; ``paper <epoch>`` and ``ours <epoch>`` for each epoch of the paper and the one
    of ours that stands for it; paper change, our change (last column less the first), low, high
    (`paired_change`) and verdict: ``same direction``, ``other direction``, ``not resolved``, or empty where
    cells are missing.
    """
    suite, quoted = results.suite, results.suite.published
    if quoted is None:
        raise InputError(f"suite {suite.name} quotes no paper's table")
    found = []
    ours = list(tracks(results))
    for row in quoted.rows:
        for protocol in row.protocols:
            for track in (track for track in ours if track.protocol == protocol):
                place = {"protocol": protocol, "source": track.source, "target": track.target}
                found.append({"what": row.what, **place, **_beside(quoted, row.values, track)})
        if not row.protocols:
            for source, own in results.checkpoints.groupby("source", sort=False):
                epochs, accuracy = own["epoch"].to_numpy(), own[["source_accuracy"]].to_numpy()
                place = {"protocol": "", "source": str(source), "target": ""}
                beside = _beside(quoted, row.values, Track(accuracy, epochs))
                found.append({"what": row.what, **place, **beside})
    return pd.DataFrame(found)


def _beside(quoted: Published, theirs: tuple[float, ...], track: Track) -> dict[str, object]:
    places = _judged(track)
    facts: dict[str, object] = {}
    for epoch, mine, value in zip(quoted.epochs, quoted.ours, theirs, strict=True):
        mean = 100 * np.nanmean(track.truth[places[mine]]) if mine in places else np.nan
        facts |= {f"paper {epoch}": value, f"ours {mine}": mean}
    change, ours, verdict = theirs[-1] - theirs[0], Change(np.nan, np.nan, np.nan), ""
    if {quoted.ours[0], quoted.ours[-1]} <= places.keys():
        first, last = (places[quoted.ours[end]] for end in (0, -1))
        ours = _between((track, first), (track, last))
        # One number, such as a source run's accuracy, has no interval and is read as it is.
        told = ours.resolved or (np.isnan(ours.low) and ours.mean != 0)
        verdict = f"{'same' if ours.mean * change > 0 else 'other'} direction" if told else "not resolved"
    return facts | {"paper change": change, "our change": ours.mean, "low": ours.low, "high": ours.high,
                    "verdict": verdict}  # fmt: skip


PUBLISHED_NOTE = (
    "Change: the last column less the first. Ours is the mean paired difference; its 95 % interval holds the "
    "noise of the training sets drawn, widened for their overlap, and of the test examples. Where seeds do "
    "not redraw the training set (fine-tuning on all of it), the interval is given that training set. Heads "
    "by Adam follow the paper's protocol, the others the exact solution."
)


def published_page(results: Results) -> Table:
    """The same table for the eye: columns that say nothing left out, changes with their intervals."""
    frame = published_table(results)
    pairs = frame[["source", "target"]].replace("", np.nan).dropna().drop_duplicates()
    words = ["what", "protocol", *(["source", "target"] * (len(pairs) > 1)), "verdict"]
    names = [str(n) for n in frame if n in words or str(n).startswith(("paper ", "ours ", "our change"))]
    rows = []
    for row in records(frame):
        interval = "" if np.isnan(row["low"]) else f" ({row['low']:+.2f} to {row['high']:+.2f})"
        for name, beside in (("paper change", ""), ("our change", interval)):
            sign = "+" if row[name] > 0 else ""
            row[name] = Entry(f"{sign}{number(row[name])}{beside}", float(row[name]))
        rows.append([row[name] for name in names])
    return Table.of("Accuracies in %", [Column(name, words=name in words) for name in names], rows)


def published_markdown(results: Results) -> str:
    """The table as a Markdown page."""
    suite, table = results.suite, published_page(results)
    assert suite.published is not None
    lines = [f"# {suite.title}: beside {suite.published.paper}", ""]
    lines += [f"> {' '.join(suite.note.split())}", ""] if suite.note else []
    pairs = zip(suite.published.epochs, suite.published.ours, strict=True)
    stand = "; ".join(f"epoch {mine} of ours beside its epoch {epoch}" for epoch, mine in pairs)
    lines += [f"The paper's numbers as printed there, in %, and ours: {stand}. {PUBLISHED_NOTE}", ""]
    return "\n".join([*lines, *table.markdown()]) + "\n"


# --------------------------------------------------------------------------------- fine-tuning methods


def methods_table(results: Results, epoch: int | None = None) -> pd.DataFrame:
    """Fine-tuning methods against sampling rates, and each method's paired difference from the first.

    Parameters
    ----------
    epoch : the checkpoint that was fine-tuned; by default the last that every protocol judged

    Returns
    -------
    One row per source, target and method; for each sampling rate "mean±deviation" over seeds, %, then
    "difference±half" (points, `paired_change` against the suite's first method, 95 %).
    """
    suite = results.suite
    several = Counter((p.method, p.rate) for p in suite.ft)  # protocols that differ in something else
    facts = {p.name: (p.method if several[p.method, p.rate] == 1 else p.name, p.rate) for p in suite.ft}
    tuned = [t for t in tracks(results) if t.goal == "ft" and np.isfinite(t.truth).any()]
    if not tuned:
        raise InputError(f"suite {suite.name} has no fine-tuning cells: ckptbench truth {suite.name}")
    common = set.intersection(*(set(_judged(track)) for track in tuned))
    if epoch is None and not common:
        raise InputError(f"no epoch of suite {suite.name} was fine-tuned under every protocol: name one")
    epoch = max(common) if epoch is None else epoch
    found = {
        (track.source, track.target, *facts[track.protocol]): (track, _judged(track)[epoch])
        for track in tuned
        if epoch in _judged(track)
    }
    if not found:
        raise InputError(f"suite {suite.name} has no fine-tuning cells of epoch {epoch}")
    first = facts[suite.ft[0].name][0]
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for (source, target, method, rate), (track, place) in found.items():
        about = {"source": source, "target": target, "method": method}
        row = rows.setdefault((source, target, method), about)
        accuracy = 100 * track.truth[place][np.isfinite(track.truth[place])]
        deviation = f"±{accuracy.std(ddof=1):.2f}" if len(accuracy) > 1 else ""
        row[f"{100 * rate:g} %"] = f"{accuracy.mean():.2f}{deviation}"
        beside = found.get((source, target, first, rate))
        if beside is not None and method != first:
            row[f"{100 * rate:g} % - {first}"] = with_interval(*_between(beside, (track, place)))
    heads = [
        f"{100 * rate:g} %{end}" for rate in sorted({r for *_, r in found}) for end in ("", f" - {first}")
    ]
    table = pd.DataFrame(rows.values()).fillna("")
    return table[["source", "target", "method", *(head for head in heads if head in table)]]
