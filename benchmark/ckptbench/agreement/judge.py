"""How well each selector's order of the checkpoints matches the truth of one track."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ckptbench.agreement.statistics import (
    LONG,
    Bool,
    as_rows,
    partial_tau,
    pearson,
    spearman,
    tau_b,
    weighted_tau,
)
from ckptbench.agreement.track import (
    Track,
    ceiling,
    chance_p,
    complete,
    epochs_text,
    resample_truth,
    resolved_pairs,
    resolved_tau,
    split_truth,
)
from ckptbench.base.digests import derive_seed
from ckptbench.base.types import Array, Float

REFERENCE = ("last-epoch", "source-accuracy", "chance", "oracle", "ceiling")
PERMUTED = "@permuted"  # ends the label of a score's control, computed on permuted labels


def first_choice(scores: Float) -> Float:
    """m x E weights of each row's first choice: 1, or shared equally among those tied for first."""
    first = scores == scores.max(axis=1, keepdims=True)
    return np.asarray(first / first.sum(axis=1, keepdims=True))


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


STATISTICS = (
    "tau", "tau_sd", "tau_low", "tau_high", "p_chance",
    "tau_w", "tau_w_sd", "tau_w_low", "tau_w_high", "tau_w_truth",
    "tau_resolved", "resolved_share", "tau_epoch",
    "regret", "gain", "gain_sd", "best_gain", "best_resolved", "rel_1", "rel_3", "rho", "r",
)  # fmt: skip


def judge_track(
    track: Track,
    scores: Mapping[str, ArrayLike],
    *,
    resamples: int = 2000,
    surrogate_scores: int = 1999,
) -> pd.DataFrame:
    """Every statistic of every selector on one track, and the reference rows.

    Parameters
    ----------
    track : may hold NaN where truth failed, see `complete`
    scores : name -> E numbers, or R x E for the repeats of a random selector, in the track's order of
        checkpoints; NaN where a score failed

    Returns
    -------
    One row a selector, then ``last-epoch`` and ``source-accuracy`` (where there are epochs), ``chance``,
    ``oracle`` and ``ceiling``; columns: selector, `STATISTICS`, problem, checkpoints, seeds,
    overlap, left_out.
    ``regret``, ``gain``, its sd by the truth's noise ``gain_sd`` and ``best_gain`` are in the truth's own
    unit; statistics of a random selector are means over its repeats. ``best_gain`` is what the best
    checkpoint wins over the last, chosen and measured on all of the truth: an upper bound, beside the
    oracle's ``gain``, cross-fitted: a lower one. ``best_resolved`` is 1 where the pair of the best and the
    last is resolved, else 0. ``tau_w`` is ``scipy.stats.weightedtau(q, a)``, ``tau_w_truth``
    ``weightedtau(a, q, rank=None)``, ``tau_epoch`` tau given epoch, ``tau_low`` and ``tau_high`` the 95 %
    interval. A score that is constant or not finite is named in ``problem`` and counts as constant: tau 0,
    the regret of a random pick.
    """
    track, kept, left_out = complete(track)
    size, seeds = track.truth.shape
    about = {"checkpoints": size, "seeds": seeds, "overlap": track.overlap, "left_out": left_out}
    if size < 3:
        names = [*(name for name in scores if name not in REFERENCE), *REFERENCE]
        blank = dict.fromkeys(STATISTICS, np.nan)
        problem = f"{size} checkpoints with truth: at least 3 are needed"
        return pd.DataFrame([{"selector": name, **blank, "problem": problem, **about} for name in names])

    pool = {name: as_rows(values)[:, kept] for name, values in scores.items() if name not in REFERENCE}
    if track.epochs is not None:
        unknown = np.full(size, np.nan)
        pool["last-epoch"] = as_rows(track.epochs)
        pool["source-accuracy"] = as_rows(unknown if track.source_accuracy is None else track.source_accuracy)
    tested = len(pool)
    pool["chance"] = np.zeros((1, size))  # all tied: exactly the mean over all orders
    pool["oracle"] = as_rows(track.mean)
    problems = ["" if name == "chance" else _problem(track, q) for name, q in pool.items()]
    repeats = [np.zeros((1, size)) if bad else q for q, bad in zip(pool.values(), problems, strict=True)]

    columns: dict[str, Any] = {name: np.full(len(pool) + 1, np.nan) for name in STATISTICS}
    resolved = resolved_pairs(track)
    _fill_orders(columns, track, repeats, resolved)
    _fill_choices(columns, track, repeats, resolved)
    if size > LONG:  # whose coefficients take long, and have little noise
        resamples, surrogate_scores = min(resamples, 100), min(surrogate_scores, 199)
    columns["p_chance"][:tested] = chance_p(
        track, repeats[:tested], surrogate_scores, _rng(track, "surrogates")
    )
    truths = resample_truth(track, resamples, _rng(track, "resamples"))
    if truths is not None:
        _fill_noise(columns, track, repeats[:tested], truths)
    return pd.DataFrame({"selector": [*pool, "ceiling"], **columns, "problem": [*problems, ""], **about})


def _fill_orders(columns: dict[str, Float], track: Track, repeats: list[Float], resolved: Bool) -> None:
    """How alike the orders of score and truth are: a row each of ``repeats``, the last one the ceiling's."""
    truth, stacked, counts = track.mean, np.concatenate(repeats), _counts(repeats)
    found = {
        "tau": tau_b(truth, stacked)[0],
        "tau_w": weighted_tau(truth, stacked)[0],
        "tau_w_truth": weighted_tau(truth, stacked, rank="truth")[0],
        "tau_resolved": resolved_tau(truth, stacked, resolved),
        "rel_1": np.array([rel_at_k(truth, q, 1) for q in stacked]),
        "rel_3": np.array([rel_at_k(truth, q, 3) for q in stacked]),
        "rho": spearman(truth, stacked)[0],
        "r": pearson(truth, stacked)[0],
    }
    for name, values in found.items():
        columns[name][:-1] = _group_means(values, counts)
    if track.epochs is not None:
        with_epoch = tau_b(track.epochs, np.vstack([stacked, truth]))[0]
        partial = partial_tau(found["tau"], with_epoch[:-1], with_epoch[-1])
        columns["tau_epoch"][:-1] = _group_means(partial, counts)
    columns["resolved_share"][:] = resolved.mean() if track.truth.shape[1] > 1 else np.nan
    columns["tau"][-1] = ceiling(track.truth)


def _fill_choices(columns: dict[str, Float], track: Track, repeats: list[Float], resolved: Bool) -> None:
    """What first choices win and lose; the oracle is the row before the ceiling's."""
    truth, choice, counts = track.mean, first_choice(np.concatenate(repeats)), _counts(repeats)
    choosing, measured = split_truth(track, _rng(track, "splits"))
    best = (first_choice(choosing) * measured).sum(axis=1).mean()
    # The oracle chooses on one half too: judged where it chose, it would beat the best.
    columns["regret"][:-1] = best - _group_means(choice @ measured.mean(axis=0), counts)
    columns["regret"][-2] = 0.0
    if track.epochs is not None:
        columns["gain"][:-1] = _group_means(choice @ truth, counts) - truth[-1]
        columns["gain"][-2] = best - measured[:, -1].mean()
        columns["best_gain"][:] = truth.max() - truth[-1]
        if track.truth.shape[1] > 1:
            columns["best_resolved"][:] = _beats_last(truth, resolved)


def _fill_noise(columns: dict[str, Float], track: Track, repeats: list[Float], truths: Float) -> None:
    """What other ``truths`` (resamples x E) do to gains and taus of the first rows, those of ``repeats``."""
    judged, counts = np.concatenate(repeats), _counts(repeats)
    rows = slice(len(counts))
    if track.epochs is not None:
        gains = first_choice(judged) @ truths.T - truths[:, -1]
        columns["gain_sd"][rows] = _group_means(gains.T, counts).std(axis=0, ddof=1)
    for name, taus in (("tau", tau_b(truths, judged)), ("tau_w", weighted_tau(truths, judged))):
        sd, middle = _sd(taus, counts), columns[name][rows]
        columns[f"{name}_low"][rows] = np.maximum(middle - 1.96 * sd, -1.0)
        columns[f"{name}_high"][rows] = np.minimum(middle + 1.96 * sd, 1.0)
        columns[f"{name}_sd"][rows] = sd


def _rng(track: Track, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed("agreement", track.name, purpose))


def _counts(repeats: list[Float]) -> Array:
    return np.array([len(q) for q in repeats])


def _beats_last(truth: Float, resolved: Bool) -> bool:
    """Whether the pair of the best checkpoint and the last is resolved."""
    best, last = int(truth.argmax()), len(truth) - 1
    return best < last and bool(resolved[best * last - best * (best - 1) // 2 + last - best - 1])


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
    if bad.all():
        return "no score at any checkpoint"
    if bad.any():
        where = f"{bad.sum()} candidates" if track.epochs is None else epochs_text(track.epochs[bad])
        return f"not finite at {where}"
    return "constant" if (np.ptp(repeats, axis=1) == 0).all() else ""
