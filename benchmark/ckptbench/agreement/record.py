"""The record: what each score's first choice and each procedure has won over the last checkpoint.

A suite's own is ``procedures.csv`` in its results folder; ``results/record.csv`` is that of the published
suite whose verdicts count, and what `ckptbench rank`, the README and the pages quote. A row says what its
choice won on every recipe; whoever takes the best row flatters it. The row ``winner`` is what that habit
won: for each recipe, the choice with the highest median gain on the *other* recipes.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ckptbench.agreement.inference import across_runs
from ckptbench.agreement.recorded import LAST, choices, procedures_of, recorded_pairs
from ckptbench.agreement.runs import MIN_RUNS, run_means
from ckptbench.base.errors import InputError
from ckptbench.base.files import write_text
from ckptbench.base.folders import results_roots
from ckptbench.base.text import counted, duration, number
from ckptbench.results import Results
from ckptbench.suites import Suite

WINNER = "winner"
COLUMNS = (
    "suite", "truth", "goal", "what", "name", "seconds", "regret", "regret_low", "regret_high",
    "gain", "gain_low", "gain_high", "gain_median", "helped", "harmed", "runs", "pairs", "lacking", "chosen",
)  # fmt: skip


def record_of(results: Results) -> pd.DataFrame:
    """The record of a suite's tables; see `make_record`."""
    record = make_record(choices(procedures_of(results), recorded_pairs(results)))
    truths = {goal: truth_of(results.suite, goal) for goal in ("fe", "ft")}
    return record.assign(suite=results.suite.name, truth=record["goal"].map(truths))[list(COLUMNS)]


def make_record(chosen: pd.DataFrame) -> pd.DataFrame:
    """The record over the sound runs.

    Parameters
    ----------
    chosen : rows of `ckptbench.agreement.recorded.choices`

    Returns
    -------
    A row per goal and score or procedure (what), highest median gain over runs first, then ``winner``.
    ``seconds`` (for all checkpoints of a pair, extraction included), ``regret`` and ``gain`` (points) are
    means over runs, _low and _high Student's 95 % interval across runs. ``helped`` and ``harmed`` count runs
    whose gain is beyond 1.96 sd of the truth's noise. ``lacking``: tracks of sound runs whose tables lack a
    number that the procedure asks for. ``chosen``: for how many recipes it was the winner of the others.

    Raises
    ------
    InputError
        If a score or procedure has the name of the row ``winner``.
    """
    if chosen.empty or (chosen := chosen[chosen["unsound"] == ""]).empty:
        return pd.DataFrame(columns=list(COLUMNS))
    parts = [_record(rows, str(goal)) for goal, rows in chosen.groupby("goal", sort=False)]
    return pd.concat(parts, ignore_index=True)


def _record(chosen: pd.DataFrame, goal: str) -> pd.DataFrame:
    if (chosen["selector"] == WINNER).any():
        raise InputError(f"something is called {WINNER!r}, the name of a row of the record: rename it")
    runs = run_means(chosen[chosen["regret"].notna()], ("regret", "gain", "seconds"), ("gain_sd",))
    winners = []
    for source in runs["source"].unique():
        medians = runs[runs["source"] != source].groupby("selector", sort=False)["gain"].median()
        own = runs[runs["source"] == source].set_index("selector")
        medians = medians[medians.index.isin(own.index)]
        if len(medians):
            winners.append(own.loc[[medians.idxmax()]].reset_index())
    table = _summary(runs).reindex(chosen["selector"].unique())
    counts = ["helped", "harmed", "pairs", "runs"]
    table[counts] = table[counts].fillna(0).astype(int)  # of what could nowhere be judged
    table = table.sort_values("gain_median", ascending=False, kind="stable")
    table["chosen"] = 0
    if winners:
        taken = pd.concat(winners, ignore_index=True)
        table["chosen"] = taken["selector"].value_counts().reindex(table.index, fill_value=0)
        row = _summary(taken.assign(selector=WINNER)).assign(chosen=len(taken))
        table = pd.concat([table, row])
    table = table.rename_axis("name").reset_index()
    kinds = chosen.drop_duplicates("selector").set_index("selector")["what"]
    lacking = chosen[chosen["problem"] != ""].groupby("selector").size()
    table["what"] = table["name"].map(kinds).fillna("procedure")
    table["lacking"] = table["name"].map(lacking).fillna(0).astype(int)
    return table.assign(goal=goal)[[name for name in COLUMNS if name not in ("suite", "truth")]]


def _summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a score or procedure over its runs."""
    groups = runs.groupby("selector", sort=False)
    means = groups[["seconds", "regret", "gain"]].mean()
    sums = groups[["helped", "harmed", "pairs"]].sum().astype(int)
    table = means.join(sums).assign(gain_median=groups["gain"].median(), runs=groups.size())
    for name in ("regret", "gain"):
        wide = runs.pivot(index="source", columns="selector", values=name).reindex(columns=table.index)
        table[f"{name}_low"], table[f"{name}_high"] = across_runs(wide)
    return table


def truth_of(suite: Suite, goal: str) -> str:
    """What of a suite's truth a reader must know beside each number: how long its fine-tuning is."""
    if goal == "fe":
        return "linear probe"
    lengths = [f"{ft.iterations} iterations" if ft.iterations else f"{ft.epochs} epochs" for ft in suite.ft]
    return " or ".join(dict.fromkeys(lengths))


def publish_record(record: pd.DataFrame, root: Path) -> bool:
    """Write ``root/record.csv`` where every goal has enough sound runs for verdicts; whether it was."""
    winners = record[record["name"] == WINNER]
    if winners.empty or (winners["runs"] < MIN_RUNS).any():
        return False
    write_text(root / "record.csv", record_csv(record))
    return True


def record_csv(record: pd.DataFrame) -> str:
    """The record as CSV."""
    return record[list(COLUMNS)].to_csv(index=False, float_format="%.6g", lineterminator="\n")


def read_record(path: Path) -> pd.DataFrame:
    """Read a record.

    Raises
    ------
    InputError
        If there is none, or it is not one.
    """
    try:
        record = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"there is no record {path}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    lost = [name for name in COLUMNS if name not in record]
    if lost:
        raise InputError(f"{path} lacks the column {lost[0]!r}")
    return record


def published_record() -> pd.DataFrame | None:
    """results/record.csv of the tree or the wheel, or None where nothing is published."""
    for root in results_roots():
        if (root / "record.csv").is_file():
            return read_record(root / "record.csv")
    return None


def to_follow(record: pd.DataFrame | None, goal: str) -> pd.Series | None:
    """The row of what the record says to follow; None where that is to take the last checkpoint."""
    if record is None:
        return None
    rows = record[record["goal"] == goal]
    won, names = rows[rows["name"] == WINNER], rows[rows["name"] != WINNER]
    if won.empty or won["gain_median"].iloc[0] <= 0 or won["harmed"].iloc[0] > won["helped"].iloc[0]:
        return None
    favourite = names.sort_values("chosen", ascending=False, kind="stable").iloc[0]
    return None if favourite["name"] == LAST else favourite


def in_words(record: pd.DataFrame | None, goal: str) -> str:
    """What the record says to take for a goal, and what following it has won: a sentence."""
    rows = pd.DataFrame(columns=list(COLUMNS)) if record is None else record[record["goal"] == goal]
    won, names = rows[rows["name"] == WINNER], rows[rows["name"] != WINNER]
    if won.empty:
        return "No published record says that anything does better than taking the last checkpoint."
    winner, favourite = won.iloc[0], names.sort_values("chosen", ascending=False, kind="stable").iloc[0]
    on = f"on {counted(int(winner['runs']), 'source run')} of {winner['suite']} ({winner['truth']})"
    if favourite["name"] == LAST:
        return f"Take the last checkpoint: {on} nothing has won anything over it in the median."
    gain = float(winner["gain_median"])
    moved = f"{'won' if gain > 0 else 'lost'} {number(abs(gain), 1)} points" if gain else "won nothing"
    outcome = (
        f"{moved} over the last in the median "
        f"(helped {int(winner['helped'])}, harmed {int(winner['harmed'])})."
    )
    if to_follow(record, goal) is None:
        return f"Take the last checkpoint: {on} choosing by what did best on the other runs {outcome}"
    what = f"the first choice of {favourite['name']}" if favourite["what"] == "score" else favourite["name"]
    return (
        f"Take what this chooses: {what} ({duration(float(favourite['seconds']))} a target); {on} choosing "
        f"by what did best on the other runs, mostly this, {outcome}"
    )
