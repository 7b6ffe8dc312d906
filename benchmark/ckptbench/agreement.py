"""How well a selector's order of the checkpoints matches the truth, and how far that can be believed.

Three parts: figures on arrays (every selector of a track at once), the tests across tracks, and the
results folder's tables. numpy, scipy and pandas alone, so any laptop can judge.

Shapes: E checkpoints, S truth seeds, T test examples, K selectors, R repeats of a random selector.
Sources: Kendall 1945 (tau-b); Vigna 2015 (weighted tau); Benjamini & Hochberg 1995; Holm 1979; Greiner's
relation and the Spearman-Brown formula (ceiling). A coefficient that is undefined (one side constant)
counts as 0 throughout.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ckptbench.suites import nearest
from ckptbench.types import Array, Float, InputError, Provenance, derive_seed

Bool = NDArray[np.bool_]

ALWAYS = ("last-epoch", "source-accuracy", "chance", "oracle", "ceiling")
MIN_RESOLVED = 10  # pairs; below, the resolved tau is blank
MIN_UNITS = 11  # with fewer, the smallest p there is, 2 / 2^10, fails Holm over some forty selectors
SPLITS = 20  # of seeds and test examples, for the regret
CHANCE_ORDERS = 1000


# --------------------------------------------------------------------------------- figures on arrays


def _rows(x: ArrayLike) -> Float:
    return np.atleast_2d(np.asarray(x, dtype=np.float64))


def _ratio(numerator: Float, denominator: Float) -> Float:
    """The quotient, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _signs(x: Float) -> NDArray[np.float32]:
    """P x n signs of the differences x[:, i] - x[:, j] over the pairs i < j."""
    columns = np.ascontiguousarray(x.T)
    return np.concatenate(
        [np.subtract(row > rest, row < rest, dtype=np.float32)
         for row, rest in ((columns[i], columns[i + 1 :]) for i in range(len(columns)))]
    )  # fmt: skip


def tau_b(x: ArrayLike, y: ArrayLike) -> Float:
    """Kendall's tau-b of every row of ``x`` with every row of ``y``, as one product of sign matrices.

    Parameters
    ----------
    x : n x E (or E) finite numbers
    y : m x E (or E)

    Returns
    -------
    n x m; 0 where scipy gives NaN because a row is constant.
    """
    x, y = _rows(x), _rows(y)
    right = _signs(y)
    untied_right = np.count_nonzero(right, axis=0)
    result = np.empty((len(x), len(y)))
    chunk = max(1, 2**21 // max(1, len(right)))
    for start in range(0, len(x), chunk):
        left = _signs(x[start : start + chunk])
        # float32 holds these counts exactly: they are integers far below 2^24.
        agreement = (left.T @ right).astype(np.float64)
        pairs = np.einsum("pn,pn->n", left, left).astype(np.float64)
        result[start : start + chunk] = _ratio(agreement, np.sqrt(pairs[:, None] * untied_right))
    return result


def _hyperbolic(first: Float, second: Float) -> Float:
    """n x m x E (or n x 1 x E) weights 1/(1 + rank), ranked downwards by ``first``, ties by ``second``."""
    weights = np.empty_like(first)
    by_rank = 1.0 / np.arange(first.shape[1], 0, -1)
    np.put_along_axis(weights, np.argsort(first, axis=1), by_rank[None], axis=1)
    tied = np.flatnonzero((np.diff(np.sort(first, axis=1), axis=1) == 0).any(axis=1))
    if not len(tied):
        return weights[:, None]
    full = np.repeat(weights[:, None], len(second), axis=1)
    for row in tied:
        order = np.lexsort((second, np.broadcast_to(first[row], second.shape)), axis=-1)
        np.put_along_axis(full[row], order, by_rank[None], axis=1)
    return full


def weighted_tau(truth: ArrayLike, scores: ArrayLike, rank: str = "both") -> Float:
    """Weighted tau, additive hyperbolic, of every row of ``truth`` with every row of ``scores``.

    With weights w_i = 1/(1 + rank_i), tau = sum_i w_i C_i / sqrt(sum_i w_i A_i sum_i w_i B_i), where C_i is
    the sum over j of both signs' product and A_i, B_i count the j that are not tied with i. The C_i of
    all rows are E small matrix products.

    Parameters
    ----------
    truth : n x E (or E)
    scores : m x E (or E)
    rank : "both" averages the ranks by truth and by score, ``scipy.stats.weightedtau(scores, truth)``;
        "truth" ranks by truth alone, ``scipy.stats.weightedtau(truth, scores, rank=None)``

    Returns
    -------
    n x m; 0 where one side is constant.
    """
    truth, scores = _rows(truth), _rows(scores)
    (_, size), count = truth.shape, len(scores)
    above, below = scores[:, :, None] > scores[:, None, :], scores[:, :, None] < scores[:, None, :]
    right = np.subtract(above, below, dtype=np.float32)
    untied_right = np.abs(right).sum(axis=2, dtype=np.float64)
    result = np.empty((len(truth), count))
    chunk = max(1, 2**18 // (size * max(1, count)))
    for start in range(0, len(truth), chunk):
        some = truth[start : start + chunk]
        weights = [_hyperbolic(some, scores)]
        if rank == "both":
            weights.append(_hyperbolic(scores, some).swapaxes(0, 1))
        sums = np.zeros((len(weights), 3, len(some), count))
        for i in range(size):
            left = np.subtract(some[:, i, None] > some, some[:, i, None] < some, dtype=np.float32)
            terms = (left @ right[:, i].T, np.abs(left).sum(axis=1)[:, None], untied_right[:, i])
            for total, weight in zip(sums, weights, strict=True):
                for part, term in zip(total, terms, strict=True):
                    part += weight[:, :, i] * term
        taus = [_ratio(agree, np.sqrt(left * right)) for agree, left, right in sums]
        result[start : start + chunk] = np.mean(taus, axis=0)
    return result


def partial_tau(t_qa: ArrayLike, t_qz: ArrayLike, t_az: ArrayLike) -> Float:
    """Kendall's partial tau of q and a given z, from the three taus; NaN where one with z is +-1."""
    t_qa, t_qz, t_az = (np.asarray(t, dtype=np.float64) for t in (t_qa, t_qz, t_az))
    square = (1 - t_qz**2) * (1 - t_az**2)
    defined = square > 1e-12
    return np.where(defined, (t_qa - t_qz * t_az) / np.sqrt(np.where(defined, square, 1.0)), np.nan)


def pearson(x: ArrayLike, y: ArrayLike) -> Float:
    """Pearson's r, n x m, of every row of ``x`` with every row of ``y``; 0 where one is constant."""
    x, y = _centred(_rows(x)), _centred(_rows(y))
    return _ratio(x @ y.T, np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1))


def _centred(x: Float) -> Float:
    """Rows minus their mean; exactly 0 for a constant row, whose computed mean may be off by an ulp."""
    x = _bounded(x)
    return np.where(np.ptp(x, axis=1, keepdims=True) == 0, 0.0, x - x.mean(axis=1, keepdims=True))


def _bounded(x: Float) -> Float:
    """Rows over the power of two above their largest magnitude: no overflow, no rounding."""
    return np.asarray(np.ldexp(x, -np.frexp(np.abs(x).max(axis=1, keepdims=True))[1]))


def spearman(x: ArrayLike, y: ArrayLike) -> Float:
    """Spearman's rho, n x m, of every row of ``x`` with every row of ``y``; 0 where one is constant."""
    return pearson(stats.rankdata(_rows(x), axis=1), stats.rankdata(_rows(y), axis=1))


# ------------------------------------------------------------------------------------- one track


@dataclass(frozen=True, eq=False)
class Track:
    """The truth of one source run x target x protocol, or of any list of candidates.

    Attributes
    ----------
    truth : E x S accuracies, NaN where a cell failed
    epochs : E numbers, or None for candidates without an order in time
    correct : E x S x T, whether each test example was classified correctly, where that was kept
    source_accuracy : E numbers, NaN where nobody measured it
    """

    truth: Float
    epochs: NDArray[np.int64] | None = None
    correct: Bool | None = None
    source_accuracy: Float | None = None
    source: str = ""
    target: str = ""
    protocol: str = ""
    kind: str = ""

    @property
    def mean(self) -> Float:
        """The truth of each checkpoint: its mean over seeds, equal means being equal to the bit."""
        return _tied(self.truth.mean(axis=1))

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.source, self.target, self.protocol) if part)


def _tied(means: Float) -> Float:
    """Means without the last digits, in which the same numbers summed in another order may differ.

    Left in, they would put a hidden order into the ties of the truth.
    """
    scale = np.ldexp(1.0, np.frexp(np.abs(means).max(initial=0.0))[1])
    return np.asarray(np.round(means / scale, 13) * scale)


def complete(track: Track) -> tuple[Track, NDArray[np.intp], str]:
    """The part of a track that can be judged, in the order of the epochs.

    A checkpoint without any truth is left out, then every seed that is not whole over the rest. Where
    that leaves one seed or none, checkpoints give way instead: those that lack a seed are left out; and
    where fewer than three stay, the fullest seed is judged alone.

    Returns
    -------
    The track without NaN, the rows it kept, and a sentence on what was left out ("" for nothing).
    """
    order = np.arange(len(track.truth)) if track.epochs is None else np.argsort(track.epochs, kind="stable")
    known = np.isfinite(track.truth[order])
    seeds = known.shape[1]
    rows = np.asarray(known.any(axis=1))
    if known[rows].all(axis=0).sum() < min(2, seeds):
        rows = np.asarray(known.all(axis=1))
        if rows.sum() < 3:
            rows = known[:, known.sum(axis=0).argmax()]
    whole = known[rows].all(axis=0)
    kept = order[rows]

    def pick(values: Array | None) -> Array | None:
        return None if values is None else values[kept]

    names = np.arange(len(rows)) if track.epochs is None else track.epochs[order]
    notes = []
    if not rows.all():
        notes.append(f"no full truth at {_epochs(names[~rows])}")
    if not whole.all():
        notes.append(f"{seeds - whole.sum()} of {seeds} seeds not complete")
    part = replace(
        track, truth=track.truth[kept][:, whole], epochs=pick(track.epochs),
        correct=None if track.correct is None else track.correct[kept][:, whole],
        source_accuracy=pick(track.source_accuracy),
    )  # fmt: skip
    return part, kept, "; ".join(notes)


def _epochs(epochs: Array) -> str:
    shown = ", ".join(str(epoch) for epoch in epochs[:4])
    more = f" and {len(epochs) - 4} more" if len(epochs) > 4 else ""
    return f"epoch{'s' if len(epochs) > 1 else ''} {shown}{more}"


def _residuals(truth: Float) -> Float:
    """E x S truth without the means of its checkpoints and of its seeds (which change no order)."""
    return np.asarray(truth - truth.mean(axis=1, keepdims=True) - truth.mean(axis=0) + truth.mean())


def resample_truth(track: Track, resamples: int, rng: np.random.Generator) -> Float | None:
    """Truths as other seeds and other test examples might have given them, about the observed means.

    Seeds: residuals, pooled over checkpoints, times sqrt(S/(S-1)) for the mean that they lost. They are
    drawn as whole curves along the epochs, a random seed's from a random starting point round the
    circle: one training set meets all checkpoints, so its luck may be serially correlated. Simulated
    with independent luck, intervals cover 92-95 % drawn either way; with AR 0.9 luck 88-94 % drawn so,
    59-91 % from residuals drawn one by one.
    Test examples: drawn with replacement, the same for all checkpoints and seeds.

    Returns
    -------
    resamples x E, or None with a single seed, whose noise nothing in the data shows.
    """
    size, seeds = track.truth.shape
    if seeds < 2:
        return None
    curves = _residuals(track.truth).T * np.sqrt(seeds / (seeds - 1))
    drawn = rng.integers(seeds, size=(resamples, seeds, 1))
    start = rng.integers(size, size=(resamples, seeds, 1))
    truths: Float = track.mean + curves[drawn, (start + np.arange(size)) % size].mean(axis=1)
    if track.correct is not None:
        easy = track.correct.mean(axis=1)
        examples = easy.shape[1]
        chunk = max(1, 2**22 // examples)
        for first in range(0, resamples, chunk):
            n = min(chunk, resamples - first)
            draws = rng.integers(examples, size=(n, examples)) + np.arange(n)[:, None] * examples
            counts = np.bincount(draws.ravel(), minlength=n * examples).reshape(n, examples)
            truths[first : first + n] += (counts - 1.0) @ easy.T / examples
    return _tied(truths)


def surrogates(track: Track, score: Float, draws: NDArray[np.intp], flips: Float) -> Float:
    """Scores that know nothing of the truth, as rough along the epochs as ``score``.

    Its increments, permuted by ``draws`` (n x E-1), with signs ``flips``, cumulated.
    Without epochs there is no roughness to keep: the score's values in another order (draws n x E).
    """
    if track.epochs is None:
        return score[draws]
    steps = np.diff(_bounded(score[None])[0])[draws] * flips
    return np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)


def chance_p(track: Track, scores: Sequence[Float], number: int, rng: np.random.Generator) -> Float:
    """Two-sided p of each selector's tau (mean over its repeats) against ``number`` surrogates.

    Parameters
    ----------
    scores : K arrays, R x E each; the repeats of one selector are permuted and flipped together
    """
    size = len(track.truth) - (track.epochs is not None)
    draws = np.argsort(rng.random((number, size)), axis=1)
    flips = rng.choice([-1.0, 1.0], size=draws.shape)
    result = np.empty(len(scores))
    for k, repeats in enumerate(scores):
        observed = abs(tau_b(track.mean, repeats).mean())
        null = np.mean([tau_b(surrogates(track, q, draws, flips), track.mean)[:, 0] for q in repeats], axis=0)
        result[k] = (1 + np.sum(np.abs(null) >= observed - 1e-12)) / (1 + number)
    return result


def ceiling(truth: Float) -> float:
    """The tau that perfect knowledge would reach against the mean of S seeds; NaN with one seed.

    t1 = mean tau-b between single seeds' truths, r = sin(pi t1 / 2), R = S r / (1 + (S-1) r),
    ceiling = 2/pi asin sqrt R; 0 where seeds agree no better than chance.
    """
    seeds = truth.shape[1]
    if seeds < 2:
        return float("nan")
    between = tau_b(truth.T, truth.T)[np.triu_indices(seeds, 1)].mean()
    r = max(0.0, np.sin(np.pi * between / 2))
    return float(2 / np.pi * np.arcsin(np.sqrt(seeds * r / (1 + (seeds - 1) * r))))


def resolved_pairs(track: Track) -> Bool:
    """Which pairs of checkpoints (i < j, row by row) differ in truth: z test, Benjamini-Hochberg at 5 %.

    The variance of a difference is that of the seeds, pooled over checkpoints, plus, from the kept
    correctness, that of the test examples in pairs. (Their interaction is in both: slightly cautious.)
    None is resolved with a single seed.
    """
    size, seeds = track.truth.shape
    i, j = np.triu_indices(size, 1)
    if seeds < 2:
        return np.zeros(len(i), dtype=bool)
    pooled = np.sum(_residuals(track.truth) ** 2) / ((size - 1) * (seeds - 1))
    variance = np.full(len(i), 2 * pooled / seeds)
    if track.correct is not None:
        easy = track.correct.mean(axis=1)
        cov = np.cov(easy) / easy.shape[1]
        variance += np.maximum(cov[i, i] + cov[j, j] - 2 * cov[i, j], 0.0)
    difference = np.abs(track.mean[i] - track.mean[j])
    z = np.divide(difference, np.sqrt(variance), out=np.full(len(i), np.inf), where=variance > 0)
    p = np.where(difference == 0, 1.0, 2 * stats.norm.sf(z))
    return np.asarray(stats.false_discovery_control(p) <= 0.05)


def resolved_tau(truth: Float, scores: Float, resolved: Bool) -> Float:
    """(concordant - discordant) / resolved pairs for each row of ``scores``; NaN below 10 such pairs.

    Parameters
    ----------
    truth : E
    scores : m x E
    resolved : P, from `resolved_pairs`
    """
    pairs = int(resolved.sum())
    if pairs < MIN_RESOLVED:
        return np.full(len(scores), np.nan)
    signs = _signs(_rows(truth))[resolved, 0]
    return np.asarray(signs @ _signs(scores)[resolved], dtype=np.float64) / pairs


def first_choice(scores: Float) -> Float:
    """m x E weights of each row's first choice: 1, or shared equally among those tied for first."""
    first = scores == scores.max(axis=1, keepdims=True)
    return np.asarray(first / first.sum(axis=1, keepdims=True))


def _halves(number: int, splits: int, rng: np.random.Generator) -> tuple[Float, Float]:
    """Weights, splits x number, of a random half and of the other; of all twice where there is one."""
    if number == 1:
        return np.ones((splits, 1)), np.ones((splits, 1))
    half = np.argsort(rng.random((splits, number)), axis=1) < number // 2
    return half / (number // 2), ~half / (number - number // 2)


def split_truth(track: Track, rng: np.random.Generator, splits: int = SPLITS) -> tuple[Float, Float]:
    """Truth on one half of the seeds and test examples, and on the other half: F x E each.

    Every split serves in both directions (F = 2 x splits). With one seed only the test examples are
    split; with neither several seeds nor kept correctness, the same truth stands on both sides.
    """
    size, seeds = track.truth.shape
    sides = []
    by_seed = _halves(seeds, splits, rng)
    if track.correct is None:
        sides = [weights @ track.truth.T for weights in by_seed]
    else:
        flat = track.correct.reshape(size * seeds, -1).astype(np.float64)
        for weights, examples in zip(by_seed, _halves(flat.shape[1], splits, rng), strict=True):
            cells = (flat @ examples.T).reshape(size, seeds, splits)
            sides.append(np.einsum("esf,fs->fe", cells, weights))
    return _tied(np.concatenate(sides)), _tied(np.concatenate(sides[::-1]))


def rel_at_k(truth: Float, score: Float, k: int) -> float:
    """Best truth among the score's first k over the best truth of all; NaN if that is not positive.

    Candidates tied across the k-th place are drawn at random: the exact expectation over the draws.
    """
    best, k = truth.max(), min(k, len(truth))
    if best <= 0:
        return float("nan")
    edge = np.sort(score)[::-1][k - 1]
    sure = truth[score > edge]
    tied = np.sort(truth[score == edge])[::-1]
    places, floor = k - len(sure), sure.max(initial=-np.inf)
    # The i-th best of the tied is the best one drawn if it is in and the i before it are not.
    ways = [comb(len(tied) - 1 - i, places - 1) for i in range(len(tied))]
    return float(np.array(ways) / sum(ways) @ np.maximum(tied, floor) / best)


FIGURES = (
    "tau", "tau_sd", "tau_low", "tau_high", "p_chance",
    "tau_w", "tau_w_sd", "tau_w_low", "tau_w_high", "tau_w_truth",
    "tau_resolved", "resolved_share", "tau_epoch",
    "regret", "gain", "rel_1", "rel_3", "rho", "r",
)  # fmt: skip


def judge_track(
    track: Track,
    scores: Mapping[str, ArrayLike],
    *,
    resamples: int = 2000,
    surrogate_scores: int = 1999,
) -> pd.DataFrame:
    """Every figure of every selector on one track, and the rows that are always there.

    Parameters
    ----------
    track : may hold NaN where truth failed, see `complete`
    scores : name -> E numbers, or R x E for the repeats of a random selector, in the track's order of
        checkpoints; NaN where a score failed

    Returns
    -------
    One row a selector, then ``last-epoch`` and ``source-accuracy`` (where there are epochs), ``chance``,
    ``oracle`` and ``ceiling``; columns: selector, `FIGURES`, problem, checkpoints, seeds, left_out.
    ``regret`` and ``gain`` are in the truth's own unit; figures of a random selector are means over its
    repeats. ``tau_w`` is ``scipy.stats.weightedtau(q, a)``, ``tau_w_truth`` ``weightedtau(a, q, rank=None)``,
    ``tau_epoch`` tau given epoch, ``tau_low`` and ``tau_high`` the 95 % interval. A score that is constant
    or not finite is named in ``problem`` and counts as constant: tau 0, the regret of a random pick.
    """
    track, kept, left_out = complete(track)
    size, seeds = track.truth.shape
    about = {"checkpoints": size, "seeds": seeds, "left_out": left_out}
    if size < 3:
        names = [*(name for name in scores if name not in ALWAYS), *ALWAYS]
        blank = dict.fromkeys(FIGURES, np.nan)
        problem = f"{size} checkpoints with truth: at least 3 are needed"
        return pd.DataFrame([{"selector": name, **blank, "problem": problem, **about} for name in names])

    def rng(purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed("agreement", track.name, purpose))

    pool = {name: _rows(values)[:, kept] for name, values in scores.items() if name not in ALWAYS}
    if track.epochs is not None:
        unknown = np.full(size, np.nan)
        pool["last-epoch"] = _rows(track.epochs)
        pool["source-accuracy"] = _rows(unknown if track.source_accuracy is None else track.source_accuracy)
    tested = len(pool)
    orders = rng("chance").permuted(np.tile(np.arange(float(size)), (CHANCE_ORDERS // 2, 1)), axis=1)
    pool["chance"] = np.concatenate([orders, -orders])  # with its reverse, so that tau is exactly 0
    pool["oracle"] = _rows(track.mean)
    problems = [_problem(track, q) for q in pool.values()]
    repeats = [np.zeros((1, size)) if bad else q for q, bad in zip(pool.values(), problems, strict=True)]
    stacked, truth = np.concatenate(repeats), track.mean
    counts = np.array([len(q) for q in repeats])

    def means(values: Float) -> Float:
        return _group_means(values, counts)

    figures: dict[str, Any] = {name: np.full(len(pool) + 1, np.nan) for name in FIGURES}

    tau, resolved = tau_b(truth, stacked)[0], resolved_pairs(track)
    figures["tau"][:-1] = means(tau)
    figures["tau_w"][:-1] = means(weighted_tau(truth, stacked)[0])
    figures["tau_w_truth"][:-1] = means(weighted_tau(truth, stacked, rank="truth")[0])
    figures["tau_resolved"][:-1] = means(resolved_tau(truth, stacked, resolved))
    figures["rel_1"][:-1] = means(np.array([rel_at_k(truth, q, 1) for q in stacked]))
    figures["rel_3"][:-1] = means(np.array([rel_at_k(truth, q, 3) for q in stacked]))
    figures["rho"][:-1] = means(spearman(truth, stacked)[0])
    figures["r"][:-1] = means(pearson(truth, stacked)[0])
    figures["resolved_share"][:] = resolved.mean() if seeds > 1 else np.nan
    figures["tau"][-1] = ceiling(track.truth)

    choice = first_choice(stacked)
    choosing, measured = split_truth(track, rng("splits"))
    best = (first_choice(choosing) * measured).sum(axis=1).mean()
    # The oracle chooses on one half too: judged where it chose, it would beat the best.
    figures["regret"][:-1] = best - means(choice @ measured.mean(axis=0))
    figures["regret"][-2] = 0.0
    if track.epochs is not None:
        with_epoch = tau_b(track.epochs, np.vstack([stacked, truth]))[0]
        figures["tau_epoch"][:-1] = means(partial_tau(tau, with_epoch[:-1], with_epoch[-1]))
        figures["gain"][:-1] = means(choice @ truth) - truth[-1]
        figures["gain"][-2] = best - measured[:, -1].mean()

    figures["p_chance"][:tested] = chance_p(track, repeats[:tested], surrogate_scores, rng("surrogates"))
    truths = resample_truth(track, resamples, rng("resamples"))
    if truths is not None:
        judged = np.concatenate(repeats[:tested])
        for name, taus in (("tau", tau_b(truths, judged)), ("tau_w", weighted_tau(truths, judged))):
            sd, middle = _sd(taus, counts[:tested]), figures[name][:tested]
            figures[f"{name}_low"][:tested] = np.maximum(middle - 1.96 * sd, -1.0)
            figures[f"{name}_high"][:tested] = np.minimum(middle + 1.96 * sd, 1.0)
            figures[f"{name}_sd"][:tested] = sd
    return pd.DataFrame({"selector": [*pool, "ceiling"], **figures, "problem": [*problems, ""], **about})


def _group_means(values: Float, counts: Array) -> Float:
    """Means over runs of neighbours in the last axis, ``counts`` long each."""
    return np.asarray(np.add.reduceat(values, np.cumsum(counts) - counts, axis=-1) / counts)


def _sd(taus: Float, counts: Array) -> Float:
    """sd of each selector's mean tau over resampled truths, and over fresh repeats where it has several."""
    means = _group_means(taus, counts)
    between_repeats = (_group_means(taus**2, counts) - means**2).mean(axis=0) / np.maximum(counts - 1, 1)
    return np.asarray(np.sqrt(means.var(axis=0, ddof=1) + np.where(counts > 1, between_repeats, 0.0)))


def _problem(track: Track, repeats: Float) -> str:
    bad = ~np.isfinite(repeats).all(axis=0)
    if bad.any():
        where = f"{bad.sum()} candidates" if track.epochs is None else _epochs(track.epochs[bad])
        return f"not finite at {where}"
    return "constant" if (np.ptp(repeats, axis=1) == 0).all() else ""


# ---------------------------------------------------------------------------------- across tracks


def sign_flip_p(differences: ArrayLike, seed: int = 0) -> Float:
    """Two-sided p that each column's mean is 0, by flipping the signs of its rows.

    All 2^n flips where n <= 16, else 2^16 drawn ones.

    Parameters
    ----------
    differences : n units x K
    """
    d = np.asarray(differences, dtype=np.float64)
    units = len(d)
    if units <= 16:
        flips = np.array(list(product((1.0, -1.0), repeat=units)))
    else:
        flips = np.random.default_rng(seed).choice([1.0, -1.0], size=(2**16, units))
        flips[0] = 1.0
    observed = np.abs(d.sum(axis=0))
    return np.asarray(np.mean(np.abs(flips @ d) >= observed - 1e-9, axis=0))


def holm(p: ArrayLike) -> Float:
    """Holm's adjusted p values."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _verdict(units: int, difference: float, p: float) -> str:
    if units < MIN_UNITS:
        return "too few tracks"
    if not p <= 0.05:
        return "not told apart"
    return "better" if difference > 0 else "worse"


def _judged(agreement: pd.DataFrame, kind: str) -> pd.DataFrame:
    digests = sorted(set(agreement["suite_digest"]))
    if len(digests) > 1:
        raise InputError(f"rows of different suites cannot share a leaderboard: digests {', '.join(digests)}")
    rows = agreement[(agreement["kind"] == kind) & agreement["tau"].notna()]
    return rows.assign(problem=rows["problem"].fillna(""))  # an empty text comes back from CSV as NaN


def leaderboard(agreement: pd.DataFrame, kind: str) -> pd.DataFrame:
    """One row a selector over all tracks of a kind, best mean tau first; the rows always there last.

    A unit is a source run x target, its protocols averaged; every mean is over units. Each selector and
    ``source-accuracy`` are tested against ``last-epoch`` over units (`sign_flip_p`, Holm). The interval of
    the mean tau is that of these tracks' truth, not of other tracks: within a unit the protocols' sds are
    averaged, as if their errors were one (they share seeds and test examples); between units errors are
    taken as independent. Tracks that cannot be judged are blank for all and left out.

    Parameters
    ----------
    agreement : from `agreement_table`
    kind : "fe" or "ft"

    Returns
    -------
    Columns: rank (NA for the rows always there), selector, verdict, p (Holm), tau, tau_low, tau_high,
    tau_resolved, tau_epoch, worst, regret and gain (points), mean_rank (among the ranked), seconds (a
    checkpoint), cells, wanted, origin, tracks, units, problem. Empty when the kind has no judged track.

    Raises
    ------
    InputError
        If the rows come from different suite digests.
    """
    judged = _judged(agreement, kind)
    means = ["tau", "tau_resolved", "tau_epoch", "regret", "gain", "seconds"]
    by_unit = judged.groupby(["selector", "source", "target"], sort=False)
    units = by_unit[[*means, "tau_sd"]].mean().groupby("selector", sort=False)
    tracks = judged.groupby("selector", sort=False)
    board = units[means].mean()
    board["units"], board["tracks"] = units.size(), tracks.size()
    sd = np.sqrt(units["tau_sd"].agg(lambda sds: (sds**2).sum(skipna=False))) / board["units"]
    board["tau_low"] = (board["tau"] - 1.96 * sd).clip(lower=-1.0)
    board["tau_high"] = (board["tau"] + 1.96 * sd).clip(upper=1.0)
    board["worst"], board["origin"] = tracks["tau"].min(), tracks["origin"].first()
    # A score's cells serve all protocols of its unit, a truth's only one.
    cells = by_unit[["cells", "wanted"]].max().groupby("selector").sum(min_count=1)
    cells.update(tracks[["cells", "wanted"]].sum().loc[lambda sums: sums.index == "oracle"])
    board = board.join(cells.astype("Int64"))
    board["problem"] = [_problems(judged[judged["selector"] == name]) for name in board.index]

    ranked = [name for name in board.index if name not in ALWAYS]
    tau = by_unit["tau"].mean().unstack("selector")
    board["rank"] = board["tau"][ranked].rank(ascending=False, method="min").astype("Int64")
    board["mean_rank"] = tau[ranked].rank(axis=1, ascending=False).mean()
    board["verdict"], board["p"] = "", np.nan
    tested = [*ranked, "source-accuracy"]
    if len(board):
        differences = tau[tested].sub(tau["last-epoch"], axis=0)
        board.loc[tested, "p"] = holm(sign_flip_p(differences))
        board.loc[tested, "verdict"] = [
            _verdict(len(tau), differences[name].mean(), board["p"][name]) for name in tested
        ]
    place = {name: i for i, name in enumerate([*sorted(ranked, key=lambda n: -board["tau"][n]), *ALWAYS])}
    return board.reset_index().sort_values("selector", key=lambda names: names.map(place))[
        ["rank", "selector", "verdict", "p", "tau", "tau_low", "tau_high", "tau_resolved", "tau_epoch",
         "worst", "regret", "gain", "mean_rank", "seconds", "cells", "wanted", "origin", "tracks", "units",
         "problem"]
    ].reset_index(drop=True)  # fmt: skip


def _problems(rows: pd.DataFrame) -> str:
    """'constant on source/target', each problem with the units that have it."""
    bad = rows[rows["problem"] != ""].drop_duplicates(["source", "target", "problem"])
    where = (bad["source"] + "/" + bad["target"]).groupby(bad["problem"], sort=False)
    return "; ".join(f"{problem} on {', '.join(names)}" for problem, names in where)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two selectors side by side: ``tracks`` has a row a track, ``difference`` is the mean over units of
    tau of a minus tau of b, tested by `sign_flip_p`; ``verdict`` says what a is against b."""

    a: str
    b: str
    kind: str
    tracks: pd.DataFrame
    units: int
    difference: float
    p: float
    verdict: str


def compare(agreement: pd.DataFrame, a: str, b: str, kind: str) -> Comparison:
    """Test selector ``a`` against ``b`` over the units of a kind, and list both track by track.

    Raises
    ------
    InputError
        If a selector is not in the table or the kind has no judged track.
    """
    judged = _judged(agreement, kind)
    if judged.empty:
        raise InputError(f"there is no judged {kind.upper()} track to compare {a!r} and {b!r} on")
    for name in (a, b):
        if name not in set(judged["selector"]):
            known = nearest(name, judged["selector"])
            raise InputError(f"no selector {name!r} in this suite's results: {known}")
    key = ["source", "target", "protocol"]
    columns = [*key, "tau", "tau_low", "tau_high", "tau_resolved", "regret", "gain"]
    left, right = (judged.loc[judged["selector"] == name, columns] for name in (a, b))
    tracks = left.merge(right, on=key, suffixes=("_a", "_b"), sort=False)
    tracks["difference"] = tracks["tau_a"] - tracks["tau_b"]
    by_unit = tracks.groupby(["source", "target"])["difference"].mean()
    p = float(sign_flip_p(by_unit.to_numpy()[:, None])[0])
    difference = float(by_unit.mean())
    return Comparison(a, b, kind, tracks, len(by_unit), difference, p, _verdict(len(by_unit), difference, p))


# ----------------------------------------------------------------------------- the results folder

COLUMNS = {
    "scores": "suite_digest source target epoch selector repeat score status message seconds origin",
    "truth": "suite_digest source target protocol kind epoch seed accuracy balanced_accuracy status message "
    "seconds device deviation penalty test_examples row",
    "checkpoints": "suite_digest source epoch digest architecture source_accuracy",
    "extraction": "suite_digest source target split epoch examples seconds bytes",
}
WORDS = {
    "suite_digest", "source", "target", "protocol", "kind", "selector", "status", "message", "device",
    "origin", "digest", "architecture", "split",
}  # fmt: skip
WHOLE = {"epoch", "repeat", "seed", "row"}
NUMBERS = WHOLE | {"score", "accuracy", "seconds", "test_examples", "source_accuracy", "examples", "bytes"}


@dataclass(frozen=True, eq=False)
class Results:
    """The tables of one suite as its stages wrote them.

    ``correct`` maps "source|target" to packed correctness, rows x ceil(T/8), indexed by ``truth.row``.
    """

    scores: pd.DataFrame
    truth: pd.DataFrame
    checkpoints: pd.DataFrame
    extraction: pd.DataFrame
    correct: Mapping[str, NDArray[np.uint8]]
    provenance: Provenance

    def tracks(self) -> Iterator[Track]:
        """Every track, its checkpoints in the order of their epochs, NaN where a truth cell failed."""
        facts = self.checkpoints.set_index(["source", "epoch"])["source_accuracy"]
        for key, cells in self.truth.groupby(["source", "target", "protocol", "kind"], sort=False):
            source, target, protocol, kind = (str(part) for part in key)
            done = cells[cells["status"] == "ok"]
            epochs, seeds = np.unique(cells["epoch"]), np.unique(cells["seed"])
            place = np.searchsorted(epochs, done["epoch"]), np.searchsorted(seeds, done["seed"])
            truth = np.full((len(epochs), len(seeds)), np.nan)
            truth[place] = done["accuracy"]
            correct, packed = None, self.correct.get(f"{source}|{target}")
            if packed is not None and len(done) and (done["row"] >= 0).all():
                bits = np.unpackbits(packed[done["row"]], axis=1, count=int(done["test_examples"].iloc[0]))
                if np.abs(bits.mean(axis=1) - done["accuracy"]).max() > 1e-4:
                    raise InputError(f"correct.npz and truth.csv disagree on {source}, {target}, {protocol}")
                correct = np.zeros((*truth.shape, bits.shape[1]), dtype=bool)
                correct[place] = bits
            yield Track(
                truth,
                epochs,
                correct,
                facts.reindex([(source, epoch) for epoch in epochs]).to_numpy(dtype=np.float64),
                source,
                target,
                protocol,
                kind,
            )


def load_results(folder: str | Path) -> Results:
    """Read a results folder: four CSV tables, the packed correctness and the provenance.

    Raises
    ------
    InputError
        If a file is missing or damaged, lacks a column, repeats a cell, or names another suite digest.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no results folder {folder}")
    tables = {name: read_table(folder / f"{name}.csv", columns.split()) for name, columns in COLUMNS.items()}
    provenance = _read_provenance(folder / "provenance.json")
    for name, table in tables.items():
        others = sorted(set(table["suite_digest"]) - {provenance.suite_digest})
        if others:
            raise InputError(
                f"{folder / name}.csv has rows of suite digest {others[0]}, provenance.json says "
                f"{provenance.suite_digest}: results of different suites cannot be mixed"
            )
    for name, key in (
        ("scores", ["source", "target", "epoch", "selector", "repeat"]),
        ("truth", ["source", "target", "protocol", "kind", "epoch", "seed"]),
        ("checkpoints", ["source", "epoch"]),
    ):
        again = tables[name][tables[name].duplicated(key)]
        if len(again):
            cell = ", ".join(f"{column} {again.iloc[0][column]}" for column in key)
            raise InputError(f"{folder / name}.csv holds a cell twice: {cell}")
    correct = _read_correct(folder / "correct.npz")
    for place, cells in tables["truth"].groupby(["source", "target"]):
        have = len(correct.get("|".join(map(str, place)), ()))
        if cells["row"].max() >= have:
            raise InputError(
                f"{folder / 'correct.npz'} has {have} rows for {place[0]}|{place[1]}, truth.csv asks for "
                f"row {cells['row'].max()}"
            )
    return Results(**tables, correct=correct, provenance=provenance)


def _missing(path: Path) -> InputError:
    return InputError(f"the results folder {path.parent} lacks {path.name}")


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV with at least these columns, words as text and numbers as numbers."""
    others = dict.fromkeys(set(columns) - WORDS, "")
    words = dict.fromkeys(WORDS.intersection(columns), str)
    try:
        table = pd.read_csv(path, dtype=words, keep_default_na=False, na_values=others)
    except FileNotFoundError:
        raise _missing(path) from None
    except pd.errors.EmptyDataError:  # a stage that has nothing yet writes no header either
        table = pd.DataFrame(columns=columns)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} cannot be read: {error}") from None
    lost = [name for name in columns if name not in table.columns]
    if lost:
        raise InputError(f"{path} lacks the column {lost[0]!r}")
    for name in sorted(NUMBERS.intersection(columns)):
        try:
            table[name] = pd.to_numeric(table[name]).astype(np.int64 if name in WHOLE else np.float64)
        except ValueError as error:
            raise InputError(f"{path}, column {name!r}: {error}") from None
    return table


def _read_provenance(path: Path) -> Provenance:
    try:
        raw = json.loads(path.read_text())
        return Provenance(**{field.name: raw[field.name] for field in fields(Provenance)})
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a provenance file: {error!r}") from None


def _read_correct(path: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def agreement_table(results: Results) -> pd.DataFrame:
    """Every figure for every track and selector, as ``agreement.csv`` holds it.

    Returns
    -------
    One row per source, target, protocol and selector (in every track the same selectors). Columns:
    suite_digest, source, target, protocol, kind; those of `judge_track`, with ``regret`` and ``gain`` in
    accuracy points; cells present and wanted (of the score; of the truth for the oracle), seconds a
    checkpoint, origin.
    """
    scores = results.scores.assign(score=results.scores["score"].where(results.scores["status"] == "ok"))
    names = [name for name in dict.fromkeys(scores["selector"]) if name not in ALWAYS]
    always = dict.fromkeys(ALWAYS, "always there")
    origins = dict(zip(scores["selector"], scores["origin"], strict=True)) | always
    places = dict(iter(scores.groupby(["source", "target"])))
    truths = dict(iter(results.truth.groupby(["source", "target", "protocol", "kind"])))
    frames = []
    for track in results.tracks():
        cells = places.get((track.source, track.target), scores[:0])
        pool = cells.pivot(index=["selector", "repeat"], columns="epoch", values="score")
        pool = pool.reindex(columns=track.epochs)
        missing = np.full(len(track.truth), np.nan)
        have = set(pool.index.get_level_values("selector"))
        frame = judge_track(track, {n: pool.loc[n].to_numpy() if n in have else missing for n in names})
        frame[["regret", "gain"]] *= 100

        truth = truths[track.source, track.target, track.protocol, track.kind]
        size, facts = len(track.truth), track.source_accuracy
        known = 0 if facts is None else np.isfinite(facts).sum()
        counts = pd.concat([_cell_counts(cells, names), pd.DataFrame(
            {
                "cells": [size, known, (truth["status"] == "ok").sum()],
                "wanted": [size, size, len(truth)],
                "seconds": [0.0, 0.0, truth["seconds"].sum() / size],
                "message": "",
            },
            index=["last-epoch", "source-accuracy", "oracle"],
        )])  # fmt: skip
        frame = frame.join(counts, on="selector")
        message = frame.pop("message").fillna("")
        named = (frame["problem"] != "") & (message != "")
        frame["problem"] = frame["problem"].where(~named, frame["problem"] + ": " + message)
        frame["origin"] = frame["selector"].map(origins)
        for name in ("kind", "protocol", "target", "source"):
            frame.insert(0, name, getattr(track, name))
        frames.append(frame)
    if not frames:
        raise InputError("truth.csv holds no cell yet: nothing can be judged")
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "suite_digest", results.provenance.suite_digest)
    return table


def _cell_counts(cells: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Per selector: cells present, cells wanted (checkpoints x repeats), mean seconds, first failure."""
    by_selector = cells.groupby("selector")
    done = cells[np.isfinite(cells["score"])].groupby("selector")
    failed = cells[cells["message"] != ""].groupby("selector")
    repeats = (by_selector["repeat"].max() + 1).reindex(names, fill_value=1)
    return pd.DataFrame(
        {
            "cells": done.size().reindex(names, fill_value=0),
            "wanted": repeats * cells["epoch"].nunique(),
            "seconds": done["seconds"].mean().reindex(names),
            "message": failed["message"].first().reindex(names, fill_value=""),
        },
        index=pd.Index(names, name="selector"),
    )
