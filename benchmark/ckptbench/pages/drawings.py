"""Which figures a report shows: from its data to `ckptbench.pages.figures`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ckptbench.agreement.record import WINNER
from ckptbench.agreement.statistics import tau_b
from ckptbench.agreement.track import Track
from ckptbench.base.text import percent
from ckptbench.base.types import Array
from ckptbench.pages.figures import features, matrices, run, scores
from ckptbench.pages.figures.base import Figure
from ckptbench.pages.figures.run import Curve
from ckptbench.pages.queries import FREE, Pair, ReportData, finite_mean, tau_of_tracks

HEATED = 20  # selectors in a heat map over many pairs
ORDER = ("fe", "fe-main", "fe-residual", "ft")  # of protocols in a figure
STANDARDISED = "(std): standardised features."


def file_name(what: str, pair: Pair) -> str:
    """A figure's file name, without what a file system may not like."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in "-".join((what, *pair)))


# ------------------------------------------------------------------------------------ along the run


def truth_overview(report: ReportData) -> Figure:
    """The first protocol of each goal on every pair."""
    first = {goal: {pair: report.of(pair, goal)[0] for pair in report.having(goal)} for goal in report.goals}
    groups = {
        heading: {
            label: {goal: report.curve(tracks[pair]) for goal, tracks in first.items() if pair in tracks}
            for label, pair in pairs.items()
        }
        for heading, pairs in report.groups(*report.goals).items()
    }
    gains = {
        goal: np.array([report.statistic(track, "oracle", "gain") for track in tracks.values()])
        for goal, tracks in first.items()
    }
    lines = "; ".join(
        f"{line}: {goal.upper()} ({' or '.join(dict.fromkeys(t.protocol for t in tracks.values()))})"
        for line, (goal, tracks) in zip(("Solid, ring", "dashed, square"), first.items(), strict=False)
    )
    note = (
        f"{lines}; marks: the best epoch; above a panel: the accuracy there, %. Bands: 95 % intervals. A "
        "line that leaves its panel falls further. What the best wins is chosen on one half of the truth and "
        "measured on the other."
    )
    return run.truths("truths", groups, gains, note)


def truth_figures(report: ReportData) -> Iterator[Figure]:
    for pair in report.full:
        by_goal: dict[str, Sequence[Curve]] = {
            goal: [report.curve(track) for track in report.of(pair, goal)] for goal in ("fe", "ft")
        }
        where = report.where(pair)
        if any(by_goal.values()):
            yield run.truth(file_name("truth", pair), where, by_goal, report.source_curve(pair[0]))
        main, residual = report.of(pair, "fe-main"), report.of(pair, "fe-residual")
        if main and residual:
            whole = report.of(pair, "fe")[:1]
            yield run.parts(
                file_name("parts", pair), where, replace(report.curve(main[0]), label="F_m"),
                replace(report.curve(residual[0]), label="F_r"), report.curve(whole[0]) if whole else None,
            )  # fmt: skip


# ------------------------------------------------------------------------------------ scores and truth


def tau_overview(report: ReportData) -> Iterator[Figure]:
    """For each goal a forest of the leaderboard and a heat map selector x pair."""
    for goal in report.goals:
        board, groups = report.rows[goal], report.groups(goal)
        taus = report.pair_taus(goal)[[pair for pairs in groups.values() for pair in pairs.values()]]
        names = report.shown(goal)
        each, behind = report.run_taus(goal)
        across = np.isfinite(board["last-epoch"]["tau_low"])
        ends = ("tau", "tau_low", "tau_high") if across else ("tau", "noise_low", "noise_high")
        noise = "across runs" if across else "for the noise of the truth in these tracks"
        yield scores.forest(
            f"tau-{goal}", report.over(goal), goal.upper(), ["mean"],
            {n: [(board[n][ends[0]], board[n][ends[1]], board[n][ends[2]])] for n in names},
            [board["ceiling"]["tau"] if "ceiling" in board else np.nan], len(FREE),
            f"{report.how_many(goal)}, best first, and what costs nothing. Lines: 95 % intervals "
            f"{noise}. {STANDARDISED}",
            (each, {name: behind.loc[name].to_numpy() for name in names}),
        )  # fmt: skip
        fixed = [name for name in (*FREE, "ceiling") if name in board]
        rows = {name: taus.loc[name].to_numpy() for name in (*report.ranked(goal)[:HEATED], *fixed)}
        yield matrices.heat(
            f"pairs-{goal}", goal.upper(), {heading: list(pairs) for heading, pairs in groups.items()},
            rows, len(fixed),
            f"{report.how_many(goal, most=HEATED)}, best first, then what costs nothing and perfect "
            "knowledge; τ, mean over the protocols of a pair. Blue: agreement; orange: reversal. "
            f"{STANDARDISED}",
        )  # fmt: skip


def forest_figures(report: ReportData) -> Iterator[Figure]:
    for pair in report.full:
        for goal in report.goals:
            tracks = report.of(pair, goal)
            if not tracks:
                continue
            names = report.shown(goal)
            rows = {name: [report.tau(track, name) for track in tracks] for name in names}
            yield scores.forest(
                file_name(f"tau-{goal}", pair), report.where(pair), goal.upper(),
                [track.protocol for track in tracks], rows,
                [report.statistic(track, "ceiling", "tau") for track in tracks], len(FREE),
                f"{report.how_many(goal)}, best first, and what costs nothing. Lines: 95 % intervals for the "
                f"noise in this truth. {STANDARDISED}",
            )  # fmt: skip


def scatter_figures(report: ReportData) -> Iterator[Figure]:
    for pair in report.full:
        for goal in report.goals:
            for track in report.of(pair, goal)[:1]:
                panels = [
                    (name, report.score(track, name), report.statistic(track, name, "tau"))
                    for name in report.shown(goal)
                ]
                yield scores.scatter(
                    file_name(f"scores-{goal}", pair), f"{report.where(pair)}, {goal.upper()}",
                    report.curve(track), panels,
                    f"{report.how_many(goal)} and what costs nothing, against {track.protocol}. Blue: early "
                    f"epochs, orange: late ones; square: the last. {STANDARDISED}",
                )  # fmt: skip


def protocol_figures(report: ReportData, only: Pair | None = None) -> Iterator[Figure]:
    """Protocols of a pair with each other and with selectors; of all, means over the pairs that have both."""
    pairs = [only] if only else report.pairs
    name = file_name("protocols", only) if only else "protocols"
    where = report.where(only) if only else report.over(*report.goals)
    tracks = [t for pair in pairs for t in report.of(pair, *ORDER)]
    goals = dict(sorted({t.protocol: t.goal for t in tracks}.items(), key=lambda item: ORDER.index(item[1])))
    if len(goals) < 2:
        return
    at = {(t.protocol, t.source, t.target): t for t in tracks}

    def between(a: str, b: str) -> float:
        both = [(at[a, *pair], at[b, *pair]) for pair in pairs if (a, *pair) in at and (b, *pair) in at]
        return finite_mean([tau_of_tracks(*two) for two in both])

    def under(selector: str, protocol: str) -> float:
        return finite_mean([report.statistic(t, selector, "tau") for t in tracks if t.protocol == protocol])

    yield matrices.protocols(
        name, where, list(goals.values()), list(goals),
        np.array([[between(a, b) for b in goals] for a in goals]),
        {s: np.array([under(s, p) for p in goals]) for s in report.shown(*report.goals)},
        f"Above: τ between the truths of two protocols{', on pairs that have both' * (len(pairs) > 1)}. "
        f"Below: {_lower(report.how_many(*report.goals))}, and what costs nothing, under each. Blue: "
        "agreement; orange: reversal.",
    )  # fmt: skip


def cost_figures(report: ReportData) -> Iterator[Figure]:
    extraction = report.results.extraction
    train = extraction["seconds"][extraction["split"] == "train"]
    for goal in report.goals:
        board = report.rows[goal]
        paid = [board[name] for name in report.ranked(goal) if board[name]["seconds"] > 0]
        if not paid:
            continue
        seconds, regret = (np.array([row[name] for row in paid]) for name in ("seconds", "regret"))
        lines = {"extraction": float(train.mean()), f"{goal.upper()} truth": board["oracle"]["seconds"]}
        yield scores.cost(
            f"cost-{goal}", report.over(goal), goal.upper(), [row["selector"] for row in paid], seconds,
            regret, {name: board[name]["regret"] for name in (*FREE, "chance")},
            {label: value for label, value in lines.items() if np.isfinite(value)},
            f"All {len(paid)} scores that cost time; diamonds: those that no cheaper one beats. Extraction "
            "is paid once for all scores; truth is what they save.",
        )  # fmt: skip


def procedure_figures(report: ReportData, record: pd.DataFrame) -> Iterator[Figure]:
    """What each selection procedure costs and loses, from the suite's ``procedures.csv``."""
    for goal in report.goals:
        rows = record[(record["goal"] == goal) & (record["name"] != WINNER) & record["regret"].notna()]
        if (rows["seconds"] > 0).any():
            yield scores.procedures(
                f"procedures-{goal}", report.over(goal), goal.upper(), rows,
                f"Truth: {rows['truth'].iloc[0]}. Seconds for all checkpoints of a target, extraction "
                "included where features are read. Bars and the band: 95 % intervals across runs. The best "
                "first choice was found on these runs, which flatters it.",
            )  # fmt: skip


def alike_figures(report: ReportData) -> Iterator[Figure]:
    names = report.shown(*report.goals)
    taus = []
    for pair in report.pairs:
        track = max((t for t in report.tracks if (t.source, t.target) == pair), key=lambda t: len(t.truth))
        values = np.stack([report.score(track, name) for name in names])
        bad = np.asarray(~np.isfinite(values).all(axis=1))
        values = np.where(bad[:, None], 0.0, values)
        tau = tau_b(values, values)
        tau[bad], tau[:, bad] = np.nan, np.nan
        taus.append(tau)
    # The mean over the pairs that have one; masked where none has, without a warning.
    mean = np.ma.masked_invalid(np.stack(taus)).mean(axis=0).filled(np.nan)
    if np.isfinite(mean[np.triu_indices(len(names) - len(FREE), 1)]).any():
        yield matrices.alike(
            "alike", report.over(*report.goals), names, mean, len(FREE),
            f"{report.how_many(*report.goals)}, and what costs nothing; mean τ of their orders over "
            "source-target pairs.",
        )  # fmt: skip


# -------------------------------------------------------------------------------------- the features


def feature_figures(report: ReportData) -> Iterator[Figure]:
    spectra, maps = report.results.spectra, report.results.embedding
    for pair in report.full:
        if spectra is not None and len(rows := _rows_of(spectra, pair)):
            yield features.spectra(file_name("spectra", pair), report.where(pair), rows)
        if maps is not None and len(rows := _rows_of(maps, pair)):
            found = []
            for (after, epoch), places in rows.groupby(["after", "epoch"], sort=False):
                title = _map_title(report, pair, str(after), int(str(epoch)))
                labels = _class_labels(places["label"])
                found.append(features.Map(title, places[["x", "y"]].to_numpy(), labels))
            which = "Above: the best checkpoint of the first protocol; below: the last. "
            note = (
                f"{'' if report.suite.published else which}A sample of the training examples; distances "
                "between clusters mean nothing in t-SNE."
            )
            yield features.embedding(file_name("tsne", pair), report.where(pair), found, note)


def _rows_of(table: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    return table[(table["source"] == pair[0]) & (table["target"] == pair[1])]


def _map_title(report: ReportData, pair: Pair, after: str, epoch: int) -> str:
    tracks: list[Track] = report.of(pair, *report.goals)
    curve = report.curve(next((t for t in tracks if t.protocol == after), tracks[0]))
    at = np.flatnonzero(curve.epochs == epoch)
    accuracy = f" ({curve.label} {percent(curve.mean[at[0]])})" if len(at) else ""
    return f"epoch {epoch}{' after fine-tuning' * bool(after)}{accuracy}"


def _class_labels(labels: pd.Series) -> Array:
    """Class labels as whole numbers where they are, so that 10 comes after 9."""
    numbers = pd.to_numeric(labels, errors="coerce")
    return (labels if numbers.isna().any() else numbers.astype(int)).to_numpy()


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
