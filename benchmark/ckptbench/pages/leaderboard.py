"""Leaderboards as text: from a suite's tables to a terminal table, Markdown, CSV and JSON.

Nothing is measured here; `ckptbench.agreement` computes the statistics and `columns` lays them out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ckptbench.agreement.record import record_csv, record_of, truth_of
from ckptbench.agreement.runs import leaderboard
from ckptbench.agreement.sanity import EDGE, FACTOR, outlying
from ckptbench.agreement.tables import Design, agreement_table
from ckptbench.base.text import counted, duration, listed, number
from ckptbench.pages.columns import GOALS, board_table
from ckptbench.pages.paper_table import published_markdown, published_table
from ckptbench.pages.terminal import as_printed, plain_table
from ckptbench.results import Results, lists, read_file, table_from_csv
from ckptbench.suites import Suite

READING = (
    "tau: Kendall's tau-b of score and truth; mean over the protocols of a source-target pair, then over "
    "pairs, target families and source runs. ± runs: 95 % interval of that mean across runs, what to expect "
    "of another recipe on these target families. ± truth noise: from seeds and test examples, for these "
    "tracks alone. resolved: over the pairs of checkpoints that the truth tells apart. given epoch: with the "
    "epoch held fixed. regret: points that the score's first choice loses to the best by one half of the "
    "truth, both measured on the other half. gain: points won over the last checkpoint. A trend that score "
    "and truth merely share counts as agreement: last-epoch and tau given epoch are there to show it."
)
ONE_RUN = 10  # scores of a board that a terminal shows of one run


@dataclass(frozen=True, eq=False)
class Leaderboards:
    """A suite's boards by goal, with the table that they come from and the lines below them.

    A caption says what the goal's truth is: how long fine-tuning was changes which score is good.
    """

    agreement: pd.DataFrame
    boards: dict[str, pd.DataFrame]
    captions: dict[str, str]
    footer: list[str]
    facts: dict[str, str]
    title: str
    note: str

    def terminal(self, width: int = 100, most: int | None = None) -> str:
        """Plain text within ``width`` columns; long names fold, nothing is cut off.

        ``most`` keeps the first so many scores of each board, and says how many follow.
        """
        lines = [self.note, ""] if self.note else []
        for goal, board in self.boards.items():
            shown = most if most is None or board["runs"].max() > 1 else min(most, ONE_RUN)
            table = board_table(board, f"{self.captions[goal]}: {self.title}", shown, wide=False)
            more = int(board["rank"].notna().sum()) - len(table.rows)
            lines += [table.caption, plain_table(table, width)]
            lines += [f"{counted(more, 'more score')}, none above these: see LEADERBOARD.md."] if more else []
            lines += [*table.notes, ""]
        lines += [READING, *self.footer]
        return "\n".join(line if "\n" in line else as_printed(line, width) for line in lines) + "\n"

    def markdown(self) -> str:
        lines = [f"# Leaderboards: {self.title}", ""]
        lines += [f"> {self.note}", ""] if self.note else []
        for goal, board in self.boards.items():
            table = board_table(board, self.captions[goal])
            lines += [f"## {table.caption}", "", *table.markdown(), "", *(f"- {n}" for n in table.notes), ""]
        lines += [READING, "", *(f"- {line}" for line in self.footer)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        # Where no track can be judged, the columns alone.
        found = self.boards or {"fe": leaderboard(self.agreement, "fe")}
        return _csv(pd.concat(found, names=["goal"]).reset_index("goal"))

    def json(self) -> str:
        rows = {goal: json.loads(board.to_json(orient="records")) for goal, board in self.boards.items()}
        content = {"title": self.title, "note": self.note, **self.facts, "footer": self.footer, **rows}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def files(self) -> dict[str, str]:
        """What a results folder holds of the judging: file name -> content."""
        return {
            "agreement.csv": _csv(self.agreement),
            "leaderboard.csv": self.csv(),
            "leaderboard.json": self.json(),
            "LEADERBOARD.md": self.markdown(),
        }


def build(results: Results, agreement: pd.DataFrame | None = None) -> Leaderboards:
    """Judge a suite's tables and lay out its leaderboards.

    Parameters
    ----------
    agreement : what `agreement_table` gives for the results, where it is known already
    """
    design, suite, origin = Design.of(results), results.suite, results.provenance
    agreement = agreement_table(results) if agreement is None else agreement
    boards = {goal: leaderboard(agreement, goal, design) for goal in GOALS}
    boards = {goal: board for goal, board in boards.items() if len(board)}
    facts = {"suite": origin.suite, "suite_digest": origin.suite_digest, "commit": ", ".join(origin.commits)}
    footer = _footer(results, agreement, design)
    captions = {goal: f"{GOALS[goal]} ({goal.upper()}, {truth_of(suite, goal)})" for goal in boards}
    return Leaderboards(agreement, boards, captions, footer, facts, suite.title, " ".join(suite.note.split()))


def difference(boards: Leaderboards, published: Path) -> list[str]:
    """Where a local run's boards differ from the published ones, a sentence a goal.

    A score differs where its tau is not the published one to two digits; the largest differences are named.

    Parameters
    ----------
    published : the results folder of the published record
    """
    theirs, sentences = json.loads(read_file(published, "leaderboard.json")), []
    if theirs["suite_digest"] != boards.facts["suite_digest"]:
        return [f"The published {boards.facts['suite']} is of another version of the suite: not compared."]
    for goal, board in boards.boards.items():
        other = pd.Series({row["selector"]: row["tau"] for row in theirs.get(goal, ())}, dtype=float)
        both = board[board["selector"].isin(other.index)].set_index("selector")["tau"]
        change = (both - other.reindex(both.index)).abs()
        moved = change[change > 0.005].sort_values(ascending=False)
        beside = f"{goal.upper()}, beside the published record:"
        if moved.empty:
            sentences.append(f"{beside} the same tau for all {len(both)} rows that both have.")
            continue
        named = [f"{name} {number(both[name])} here, {number(other[name])} there" for name in moved.index[:3]]
        sentences.append(f"{beside} {len(moved)} of {len(both)} rows differ in tau ({'; '.join(named)}).")
    return sentences


def read(folder: Path) -> tuple[Results, Leaderboards]:
    """The tables of a results folder, and its leaderboards.

    They are laid out from ``agreement.csv`` where it was judged since the tables were written (which takes
    away a former one); where there is none, the tables are judged now.
    """
    results, agreement = Results.read(folder), None
    if lists(folder, "agreement.csv"):
        content = read_file(folder, "agreement.csv")
        agreement = table_from_csv("agreement", content, folder / "agreement.csv")
    return results, build(results, agreement)


def write(folder: Path) -> Leaderboards:
    """Judge the tables of a results folder and write the leaderboards beside them."""
    results = Results.read(folder)
    boards = build(results)
    files = boards.files() | {"procedures.csv": record_csv(record_of(results))}
    if results.suite.published is not None:
        files["published.csv"] = _csv(published_table(results))
        files["PUBLISHED.md"] = published_markdown(results)
    for name, text in files.items():
        results.attach(folder, name, text)
    return boards


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _footer(results: Results, agreement: pd.DataFrame, design: Design) -> list[str]:
    """Where the numbers come from, and what could not be judged."""
    origin, truth = results.provenance, results.truth
    commits = listed([commit[:12] + "-dirty" * commit.endswith("-dirty") for commit in origin.commits])
    machines = "; ".join(origin.machines) or "unknown"
    lines = [
        f"Suite {origin.suite}, digest {origin.suite_digest}. Cells computed by "
        f"commit{'s' * (len(origin.commits) > 1)} {commits or 'unknown'}, on {machines}."
    ]
    for goal, cells in truth.groupby("goal"):
        done = cells[cells["status"] == "ok"]
        seeds = cells.groupby("protocol", sort=False)["seed"].nunique()
        devices = ", ".join(sorted(set(done["device"]) - {""})) or "unknown"
        lines.append(
            f"{str(goal).upper()} truth: {', '.join(f'{name} ({n} seeds)' for name, n in seeds.items())}; "
            f"{len(done)} of {len(cells)} cells; {duration(cells['seconds'].sum())} on {devices}."
        )
    lines += _assumed_lines(results.suite)
    pairs = truth[["source", "target"]].drop_duplicates()
    sources = pairs["source"].nunique()
    runs = f"ONE source run ({pairs['source'].iloc[0]})" if sources == 1 else f"{sources} source runs"
    lines.append(f"All truth is of {runs}: {counted(len(pairs), 'source-target pair')}.")
    extraction = results.extraction
    size = f"{extraction['bytes'].sum() / 2**20:.0f} MiB"
    lines.append(
        f"Extraction: {duration(extraction['seconds'].sum())} for {size} of features, once for all scores."
    )
    said: dict[str, list[str]] = defaultdict(list)
    for key, rows in agreement.groupby(["source", "target", "protocol"], sort=False):
        what = str(rows["left_out"].iloc[0])
        if rows["tau"].isna().all():
            what = f"not judged: {rows['problem'].iloc[0]}"
        if what:
            said[what].append("/".join(map(str, key)))
    lines += [f"{source} is in no verdict: {reason}." for source, reason in design.unsound.items()]
    lines += _doubt_lines(truth)
    lines += _overlap_lines(design)
    for what, tracks in said.items():
        more = f" and {counted(len(tracks) - 1, 'more track')}" * (len(tracks) > 1)
        lines.append(f"{tracks[0]}{more}: {what}.")
    return lines


def _assumed_lines(suite: Suite) -> list[str]:
    """What a paper leaves open and the suite chose."""
    chosen: dict[str, list[str]] = defaultdict(list)
    for protocol in suite.protocols:
        for what in protocol.assumed:
            chosen[what].append(protocol.name)
    of: dict[str, list[str]] = defaultdict(list)
    for what, names in chosen.items():
        of[listed(names)].append(what)
    return [f"Assumed, where the paper is silent, for {who}: {'; '.join(what)}." for who, what in of.items()]


def _doubt_lines(truth: pd.DataFrame) -> list[str]:
    """Cells of the truth to distrust: penalties at the end of the grid, fine-tunings that ran away."""
    lines = []
    for name, rows in truth[truth["message"] == EDGE].groupby("protocol", sort=False):
        cells = counted(int((truth["protocol"] == name).sum()), "cell")
        lines.append(f"{name}: {EDGE} in {len(rows)} of {cells} ({_some_of(rows)}).")
    away = truth[outlying(truth)]
    if len(away):
        tunings = counted(int(truth["deviation"].notna().sum()), "fine-tuning")
        lines.append(
            f"{len(away)} of {tunings} moved the weights more than {FACTOR:g} times as far as the other "
            f"checkpoints' of the same track do: {_some_of(away)}."
        )
    return lines


def _some_of(cells: pd.DataFrame) -> str:
    """'run/target epoch 3, ...': the first three places, and how many follow."""
    places = cells[["source", "target", "epoch"]].drop_duplicates()
    named = [f"{source}/{target} epoch {epoch}" for source, target, epoch in places.itertuples(index=False)]
    more = f" and {len(named) - 3} more" * (len(named) > 3)
    return ", ".join(named[:3]) + more


def _overlap_lines(design: Design) -> list[str]:
    """Where seeds share training examples, which widens the intervals."""
    shared: dict[float, dict[str, None]] = defaultdict(dict)
    for (_, protocol), share in design.overlaps.items():
        if share > 0:
            shared[share][protocol] = None
    lines = []
    for share, protocols in sorted(shared.items()):
        what = f"each draw {100 * share:g} % of one training set: intervals are widened for the overlap."
        if share == 1:
            what = "train on the same examples: their intervals hold for this training set."
        lines.append(f"Seeds of {listed(list(protocols))} {what}")
    return lines
