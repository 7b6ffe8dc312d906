"""Which figures a report shows: from a study to `ckptbench.pages.figures`."""

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
from ckptbench.pages.figures import cost, features, matrices, run, scores
from ckptbench.pages.figures.base import Figure
from ckptbench.pages.figures.run import Curve
from ckptbench.pages.figures.scores import Interval, Panel
from ckptbench.pages.queries import FREE, Pair, Study, finite_mean, tau_of_tracks

HEATED = 20  # selectors in a heat map over many pairs
ORDER = ("fe", "fe-main", "fe-residual", "ft")  # of protocols in a figure
STANDARDISED = "(std): standardised features."


def file_name(what: str, pair: Pair) -> str:
    """A figure's file name, without what a file system may not like."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in "-".join((what, *pair)))


# ------------------------------------------------------------------------------------ along the run


def truth_overview(study: Study) -> Figure:
    """The first protocol of each goal on every pair."""
    first = {goal: {pair: study.of(pair, goal)[0] for pair in study.having(goal)} for goal in study.goals}
    groups = {
        heading: {
            label: {goal: study.curve(tracks[pair]) for goal, tracks in first.items() if pair in tracks}
            for label, pair in pairs.items()
        }
        for heading, pairs in study.groups(*study.goals).items()
    }
    gains = {
        goal: np.array([study.statistic(track, "oracle", "gain") for track in tracks.values()])
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


def truth_figures(study: Study) -> Iterator[Figure]:
    for pair in study.full:
        by_goal: dict[str, Sequence[Curve]] = {
            goal: [study.curve(track) for track in study.of(pair, goal)] for goal in ("fe", "ft")
        }
        where = study.where(pair)
        if any(by_goal.values()):
            yield run.truth(file_name("truth", pair), where, by_goal, study.source_curve(pair[0]))
        main, residual = study.of(pair, "fe-main"), study.of(pair, "fe-residual")
        if main and residual:
            whole = study.of(pair, "fe")[:1]
            yield run.parts(
                file_name("parts", pair), where, replace(study.curve(main[0]), label="F_m"),
                replace(study.curve(residual[0]), label="F_r"), study.curve(whole[0]) if whole else None,
            )  # fmt: skip


# ------------------------------------------------------------------------------------ scores and truth


def tau_overview(study: Study) -> Iterator[Figure]:
    """For each goal a forest of the leaderboard and a heat map selector x pair."""
    for goal in study.goals:
        board, groups = study.rows[goal], study.groups(goal)
        taus = study.pair_taus(goal)[[pair for pairs in groups.values() for pair in pairs.values()]]
        names = [*study.shown(goal), *FREE]
        each, behind = study.run_taus(goal)
        across = np.isfinite(board["last-epoch"]["tau_low"])
        ends = ("tau", "tau_low", "tau_high") if across else ("tau", "noise_low", "noise_high")
        noise = "across runs" if across else "for the noise of the truth in these tracks"
        yield scores.forest(
            f"tau-{goal}", study.over(goal), goal.upper(), ["mean"],
            {n: [Interval(*(board[n][f] for f in ends))] for n in names},
            [board["ceiling"]["tau"] if "ceiling" in board else np.nan], len(FREE),
            f"{study.how_many(goal)}, best first, and what costs nothing. Lines: 95 % intervals "
            f"{noise}. {STANDARDISED}",
            (each, {name: behind.loc[name].to_numpy() for name in names}),
        )  # fmt: skip
        fixed = [name for name in (*FREE, "ceiling") if name in board]
        rows = {name: taus.loc[name].to_numpy() for name in (*study.ranked(goal)[:HEATED], *fixed)}
        yield matrices.heat(
            f"pairs-{goal}", goal.upper(), {heading: list(pairs) for heading, pairs in groups.items()},
            rows, len(fixed),
            f"{study.how_many(goal, most=HEATED)}, best first, then what costs nothing and perfect "
            "knowledge; τ, mean over the protocols of a pair. Blue: agreement; orange: reversal. "
            f"{STANDARDISED}",
        )  # fmt: skip


def forest_figures(study: Study) -> Iterator[Figure]:
    for pair in study.full:
        for goal in study.goals:
            tracks = study.of(pair, goal)
            if not tracks:
                continue
            statistics = ("tau", "tau_low", "tau_high")
            rows: dict[str, Sequence[Interval]] = {
                name: [Interval(*(study.statistic(t, name, f) for f in statistics)) for t in tracks]
                for name in (*study.shown(goal), *FREE)
            }
            yield scores.forest(
                file_name(f"tau-{goal}", pair), study.where(pair), goal.upper(),
                [track.protocol for track in tracks], rows,
                [study.statistic(track, "ceiling", "tau") for track in tracks], len(FREE),
                f"{study.how_many(goal)}, best first, and what costs nothing. Lines: 95 % intervals for the "
                f"noise in this truth. {STANDARDISED}",
            )  # fmt: skip


def scatter_figures(study: Study) -> Iterator[Figure]:
    for pair in study.full:
        for goal in study.goals:
            for track in study.of(pair, goal)[:1]:
                panels = [
                    Panel(name, study.score(track, name), study.statistic(track, name, "tau"))
                    for name in (*study.shown(goal), *FREE)
                ]
                yield scores.scatter(
                    file_name(f"scores-{goal}", pair), f"{study.where(pair)}, {goal.upper()}",
                    study.curve(track), panels,
                    f"{study.how_many(goal)} and what costs nothing, against {track.protocol}. Blue: early "
                    f"epochs, orange: late ones; square: the last. {STANDARDISED}",
                )  # fmt: skip


def protocol_figures(study: Study, pairs: Sequence[Pair], name: str, where: str) -> Iterator[Figure]:
    """Protocols of some pairs with each other and with selectors; means over the pairs that have both."""
    tracks = [t for pair in pairs for t in study.of(pair, *ORDER)]
    goals = dict(sorted({t.protocol: t.goal for t in tracks}.items(), key=lambda item: ORDER.index(item[1])))
    if len(goals) < 2:
        return
    at = {(t.protocol, t.source, t.target): t for t in tracks}

    def between(a: str, b: str) -> float:
        both = [(at[a, *pair], at[b, *pair]) for pair in pairs if (a, *pair) in at and (b, *pair) in at]
        return finite_mean([tau_of_tracks(*two) for two in both])

    def under(selector: str, protocol: str) -> float:
        return finite_mean([study.statistic(t, selector, "tau") for t in tracks if t.protocol == protocol])

    yield matrices.protocols(
        name, where, list(goals.values()), list(goals),
        np.array([[between(a, b) for b in goals] for a in goals]),
        {s: np.array([under(s, p) for p in goals]) for s in (*study.shown(*study.goals), *FREE)},
        f"Above: τ between the truths of two protocols{', on pairs that have both' * (len(pairs) > 1)}. "
        f"Below: {_lower(study.how_many(*study.goals))}, and what costs nothing, under each. Blue: "
        "agreement; orange: reversal.",
    )  # fmt: skip


def cost_figures(study: Study) -> Iterator[Figure]:
    extraction = study.results.extraction
    train = extraction["seconds"][extraction["split"] == "train"]
    for goal in study.goals:
        board = study.rows[goal]
        paid = [board[name] for name in study.ranked(goal) if board[name]["seconds"] > 0]
        if not paid:
            continue
        seconds, regret = (np.array([row[name] for row in paid]) for name in ("seconds", "regret"))
        lines = {"extraction": float(train.mean()), f"{goal.upper()} truth": board["oracle"]["seconds"]}
        yield cost.cost(
            f"cost-{goal}", study.over(goal), goal.upper(), [row["selector"] for row in paid], seconds,
            regret, {name: board[name]["regret"] for name in (*FREE, "chance")},
            {label: value for label, value in lines.items() if np.isfinite(value)},
            f"All {len(paid)} scores that cost time; diamonds: those that no cheaper one beats. Extraction "
            "is paid once for all scores; truth is what they save.",
        )  # fmt: skip


def procedure_figures(study: Study, record: pd.DataFrame) -> Iterator[Figure]:
    """What each selection procedure costs and loses, from the suite's ``procedures.csv``."""
    for goal in study.goals:
        rows = record[(record["goal"] == goal) & (record["name"] != WINNER) & record["regret"].notna()]
        if (rows["seconds"] > 0).any():
            yield cost.procedures(
                f"procedures-{goal}", study.over(goal), goal.upper(), rows,
                f"Truth: {rows['truth'].iloc[0]}. Seconds for all checkpoints of a target, extraction "
                "included where features are read. Bars and the band: 95 % intervals across runs. The best "
                "first choice was found on these runs, which flatters it.",
            )  # fmt: skip


def alike_figures(study: Study) -> Iterator[Figure]:
    names = [*study.shown(*study.goals), *FREE]
    taus = []
    for pair in study.pairs:
        track = max((t for t in study.tracks if (t.source, t.target) == pair), key=lambda t: len(t.truth))
        values = np.stack([study.score(track, name) for name in names])
        bad = np.asarray(~np.isfinite(values).all(axis=1))
        values = np.where(bad[:, None], 0.0, values)
        tau = tau_b(values, values)
        tau[bad], tau[:, bad] = np.nan, np.nan
        taus.append(tau)
    # The mean over the pairs that have one; masked where none has, without a warning.
    mean = np.ma.masked_invalid(np.stack(taus)).mean(axis=0).filled(np.nan)
    if np.isfinite(mean[np.triu_indices(len(names) - len(FREE), 1)]).any():
        yield matrices.alike(
            "alike", study.over(*study.goals), names, mean, len(FREE),
            f"{study.how_many(*study.goals)}, and what costs nothing; mean τ of their orders over "
            "source-target pairs.",
        )  # fmt: skip


# -------------------------------------------------------------------------------------- the features


def feature_figures(study: Study) -> Iterator[Figure]:
    spectra, maps = study.results.spectra, study.results.embedding
    for pair in study.full:
        if spectra is not None and len(rows := _rows_of(spectra, pair)):
            yield features.spectra(file_name("spectra", pair), study.where(pair), rows)
        if maps is not None and len(rows := _rows_of(maps, pair)):
            found = []
            for (after, epoch), places in rows.groupby(["after", "epoch"], sort=False):
                title = _map_title(study, pair, str(after), int(str(epoch)))
                labels = _class_labels(places["label"])
                found.append(features.Map(title, places[["x", "y"]].to_numpy(), labels))
            which = "Above: the best checkpoint of the first protocol; below: the last. "
            note = (
                f"{'' if study.suite.published else which}A sample of the training examples; distances "
                "between clusters mean nothing in t-SNE."
            )
            yield features.embedding(file_name("tsne", pair), study.where(pair), found, note)


def _rows_of(table: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    return table[(table["source"] == pair[0]) & (table["target"] == pair[1])]


def _map_title(study: Study, pair: Pair, after: str, epoch: int) -> str:
    tracks: list[Track] = study.of(pair, *study.goals)
    curve = study.curve(next((t for t in tracks if t.protocol == after), tracks[0]))
    at = np.flatnonzero(curve.epochs == epoch)
    accuracy = f" ({curve.label} {percent(curve.mean[at[0]])})" if len(at) else ""
    return f"epoch {epoch}{' after fine-tuning' * bool(after)}{accuracy}"


def _class_labels(labels: pd.Series) -> Array:
    """Class labels as whole numbers where they are, so that 10 comes after 9."""
    numbers = pd.to_numeric(labels, errors="coerce")
    return (labels if numbers.isna().any() else numbers.astype(int)).to_numpy()


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
