"""The report: one self-contained HTML page per suite, and the same figures as SVG files.

`write_report` reads a results folder and computes nothing but what its tables imply. Where the features are
at hand it also writes the small tables that their figures are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd

from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.record import read_record, record_of
from ckptbench.base.files import write_text
from ckptbench.base.text import duration, listed, typeset
from ckptbench.pages import drawings
from ckptbench.pages.advice import advise
from ckptbench.pages.columns import Column, Entry, Table, board_table, interval_entry, word_column
from ckptbench.pages.figures.base import Figure
from ckptbench.pages.leaderboard import READING
from ckptbench.pages.paper_table import PUBLISHED_NOTE, published_page
from ckptbench.pages.queries import ReportData
from ckptbench.plugins import load_plugins
from ckptbench.suites import FE, FT, Suite


@dataclass(frozen=True)
class Section:
    """A part of the page; left out where it has neither figures nor tables, unless it is to say so."""

    anchor: str
    heading: str
    text: list[str]
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    always: bool = False


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` and ``figures/*.svg`` into a results folder.

    Parameters
    ----------
    folder : ``results/<suite>/``; the page says where it lacks ``spectra.csv`` and ``embedding.csv``

    Returns
    -------
    The path of the page.
    """
    folder = Path(folder)
    report = ReportData(folder)
    path = folder / "procedures.csv"
    record = read_record(path) if path.exists() else record_of(report.results)
    sections = [part for part in _sections(report, record) if part.figures or part.tables or part.always]
    for old in (folder / "figures").glob("*.svg"):
        old.unlink()
    for figure in (figure for section in sections for figure in section.figures):
        report.results.attach(folder, f"figures/{figure.name}.svg", figure.file())
    page = page_template("report.html.jinja").render(
        suite=report.suite, boards=report.boards, advice=[advise(report, goal) for goal in report.goals],
        sections=sections, provenance=report.results.provenance, few=not report.many,
        protocols=_protocol_table(report.suite), citations=_citations(report),
    )  # fmt: skip
    write_text(folder / "report.html", page)
    return folder / "report.html"


def page_template(name: str) -> jinja2.Template:
    """A template of the package, with the filters that all pages use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ckptbench"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"typeset": typeset, "duration": duration}
    return environment.get_template(name)


def _sections(report: ReportData, record: pd.DataFrame) -> Iterator[Section]:
    """The page's sections; of many pairs only overviews are drawn, and two pairs in full."""
    many = report.many
    protocols = [figure for pair in report.full for figure in drawings.protocol_figures(report, pair)]
    yield Section(
        "truth", "Accuracy along the run",
        ["What every checkpoint is worth on the target. FE is a linear probe, a new softmax head on frozen "
         "features; FT fine-tunes the whole network. The source accuracy is that of the pre-training task."],
        [drawings.truth_overview(report)] if many else list(drawings.truth_figures(report)),
    )  # fmt: skip
    yield Section(
        "tau", "How well each score ranks the checkpoints",
        ["Kendall's τ is 1 when score and truth rank all checkpoints alike, 0 when they are unrelated, −1 "
         "when the order is reversed. No score can be expected to pass the ceiling: that is what perfect "
         "knowledge would reach against a truth of so few seeds. A trend that score and truth merely share "
         "counts as agreement; last-epoch shows how far a trend alone gets."],
        list(drawings.tau_overview(report) if many else drawings.forest_figures(report)),
    )  # fmt: skip
    yield Section(
        "procedures", "What to do, and what it costs",
        ["What a user does is a procedure: take the last checkpoint, a score's first choice, cross-validate "
         "a probe, or fine-tune briefly and halve. Each reads only what a user could measure on the training "
         "split and is charged for it; the test truth judges its pick. Means over the sound runs."],
        list(drawings.procedure_figures(report, record)),
    )  # fmt: skip
    if not many:
        yield Section(
            "scores", "Score against truth",
            ["Each point is a checkpoint. A useful score rises with the truth."],
            list(drawings.scatter_figures(report)),
        )  # fmt: skip
    yield Section(
        "cost", "What it costs",
        ["Regret is what the score's first choice loses against the best checkpoint: the best is chosen on "
         "one half of the seeds and test examples, and both are measured on the other half."],
        list(drawings.cost_figures(report)),
    )  # fmt: skip
    yield Section(
        "agreement", "What agrees with what",
        ["The truth is a protocol: another penalty, scaling or length can order the same checkpoints "
         "differently, and where protocols disagree, no score can agree with all of them. Scores that rank "
         "alike are one piece of evidence, not two."],
        [*(drawings.protocol_figures(report) if many else protocols), *drawings.alike_figures(report)],
    )  # fmt: skip
    if many:
        each = (drawings.truth_figures, drawings.forest_figures, drawings.scatter_figures)
        drawn = [figure for draw in each for figure in draw(report)]
        yield Section("full", "Two pairs in full", [report.chosen()], [*drawn, *protocols])
    yield _feature_section(report)
    if report.suite.published is not None:
        paper = report.suite.published.paper
        text = f"{paper}: its numbers as printed, and ours at the epochs that stand for its own."
        beside = [published_page(report.results)]
        yield Section("published", "Beside the paper", [text, PUBLISHED_NOTE], tables=beside)
    tables = [table for goal in report.goals for table in _goal_tables(report, goal)]
    text = "Single protocols, and the intervals of single tracks, are in agreement.csv."
    yield Section("leaderboards", "Leaderboards", [READING, *([text] * many)], tables=tables)


def _feature_section(report: ReportData) -> Section:
    text = ["The singular values of the features, and where t-SNE puts the examples."]
    lacking = [f"{name}.csv" for name in ("spectra", "embedding") if getattr(report.results, name) is None]
    if lacking:
        text.append(
            f"Not shown: this results folder has no {listed(lacking)}. Both are written when the report is "
            "made where the features are at hand."
        )
    figures = list(drawings.feature_figures(report))
    return Section("features", "The features themselves", text, figures, always=True)


# ------------------------------------------------------------------------------------------- tables


def _goal_tables(report: ReportData, goal: str) -> Iterator[Table]:
    board = report.boards.boards[goal]
    yield board_table(board, report.boards.captions[goal])
    if report.many:
        yield _pick_table(report, goal)
    yield _tau_table(report, goal)


def _tau_table(report: ReportData, goal: str) -> Table:
    """Tau for every selector: with its interval on every track of a goal, or of many pairs on each."""
    names = list(report.rows[goal])
    if report.many:
        caption = f"τ by source-target pair, {goal.upper()}, mean over protocols"
        heads = [report.where(pair) for pair in report.having(goal)]
        taus = report.pair_taus(goal)
        rows = [[name, *taus.loc[name]] for name in names]
    else:
        caption, tracks = f"τ by track, {goal.upper()}", [t for t in report.tracks if t.goal == goal]
        heads = [f"{report.where((t.source, t.target))} {t.protocol}" for t in tracks]
        rows = [[name, *(interval_entry(*report.tau(track, name)) for track in tracks)] for name in names]
    columns = [word_column("score", key=True), *(Column(head, "Kendall's τ") for head in heads)]
    return Table.of(caption, columns, rows, sum(name in REFERENCE for name in names))


def _pick_table(report: ReportData, goal: str) -> Table:
    """What the advised score picks on every pair, beside the best and the last checkpoint."""
    advice = advise(report, goal)
    heads: list[Column | str] = [
        word_column("source-target pair", key=True), Column("take epoch", "the pick"), "accuracy",
        "best epoch", "accuracy", Column("last", "accuracy there"),
        Column("regret", "points lost to the best, cross-fitted"),
        Column("gain", "points won over the last, cross-fitted"), word_column("protocol"),
    ]  # fmt: skip
    rows = []
    for pick in advice.picks:
        curve = pick.curve
        at = {k: Entry(curve.at(k), float(curve.mean[k])) for k in (pick.pick, curve.best, -1)}
        both = (part for k in (pick.pick, curve.best) for part in (int(curve.epochs[k]), at[k]))
        rows.append([pick.where, *both, at[-1], pick.regret, pick.gain, pick.protocol])
    return Table.of(f"Picks of {advice.selector}, {goal.upper()}", heads, rows)


def _protocol_table(suite: Suite) -> Table:
    heads: list[Column | str] = [*map(word_column, ("protocol", "truth", "what is done")), "seeds"]
    rows = (
        [p.name, "FE" if isinstance(p, FE) else "FT", _protocol_words(p), p.seeds] for p in suite.protocols
    )
    return Table.of("Protocols", heads, rows)


def _protocol_words(protocol: FE | FT) -> str:
    """A protocol in one phrase, from the fields that decide."""
    if isinstance(protocol, FT):
        length = f"{protocol.epochs} epochs" if protocol.epochs else f"{protocol.iterations} iterations"
        more = f", {protocol.method}" if protocol.method != "l2" else ""
        more += f", {protocol.rate:.0%} of the training examples" if protocol.rate < 1 else ""
        return f"whole network fine-tuned, {length}, learning rate {protocol.training.lr:g}{more}"
    part = {"all": "", "main": "F_m of ", "residual": "F_r of "}[protocol.part]
    what = part + {"std": "standardised features", "raw": "raw features"}[protocol.scale]
    if protocol.solver == "adam":
        return f"softmax head by Adam on {what}, learning rate {protocol.lr:g}"
    penalty = "tuned on a validation split" if protocol.penalty == "tuned" else f"{protocol.penalty:g}"
    return f"softmax regression on {what}, L2 penalty {penalty}"


def _citations(report: ReportData) -> Table:
    """What to cite for each score: the paper that its plugin names."""
    known = load_plugins("selector").specs
    boards = pd.concat(list(report.boards.boards.values()))
    boards = boards[~boards["selector"].isin(REFERENCE)]
    origins = dict(zip(boards["selector"].str.partition(":")[0], boards["origin"], strict=True))
    names: dict[str, list[str]] = {}
    for base, origin in origins.items():
        plugin = known[base].plugin if base in known else None
        unknown = "no paper: defined by this benchmark" if plugin else f"no paper is named ({origin})"
        lower = getattr(plugin, "published", "higher") == "lower"
        remark = " (lower is better in the paper, negated here)" * lower
        names.setdefault(getattr(plugin, "paper", None) or unknown, []).append(base + remark)
    rows = [[", ".join(bases), paper] for paper, bases in names.items()]
    return Table.of("Scores and their papers", [word_column("score"), word_column("cite")], rows)
