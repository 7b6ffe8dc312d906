"""Commands on suites: the stages, leaderboards, reports, comparisons, the frozen bundle; and ``judge``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ckptbench.base.errors import InputError
from ckptbench.cli import options as opt

if TYPE_CHECKING:
    from ckptbench.pipeline.plan import Plan
    from ckptbench.pipeline.progress import Reporter

TOP = 20  # scores of each board on a terminal; LEADERBOARD.md has them all

Stage = Literal["pretrain", "extract", "score", "truth", "validate", "run"]
STAGES: dict[Stage, str] = {
    "pretrain": "Train the suite's source runs, one checkpoint per epoch.",
    "extract": "Cache the features of every checkpoint on every split (and run the stages before).",
    "score": "Score every checkpoint with every selector (and run the stages before).",
    "truth": "Compute FE and FT ground truth (and run the stages before).",
    "validate": "Measure what selection procedures may read, on folds of the train splits; no part of run.",
    "run": "Run every stage of a suite, then print its leaderboards and write its report.",
}


def stage_command(name: Stage) -> Callable[..., None]:
    """The command of a stage: it and all before it, computing what the store lacks; ``run`` is all."""

    def command(
        suite: opt.SuiteName,
        store: opt.StorePath = None,
        device: opt.Device = "auto",
        workers: opt.Workers = None,
        cluster: Annotated[str | None, typer.Option("--cluster", help="a Ray address, or local")] = None,
        precision: opt.Precision = "fp32",
        plugins: opt.Plugins = None,
        selectors: Annotated[
            str | None,
            typer.Option("--selectors", help="comma-separated names; name:param=value sets a parameter"),
        ] = None,
        sources: Annotated[
            str | None,
            typer.Option("--sources", help="only these source runs of the suite, comma-separated"),
        ] = None,
        layer: opt.Layer = None,
        compile: Annotated[
            bool, typer.Option("--compile", help="train compiled networks (torch.compile)")
        ] = False,
        publish: opt.Publish = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="say what would be computed and what is cached")
        ] = False,
        json_: opt.Json = False,
        quiet: opt.Quiet = False,
    ) -> None:
        from ckptbench.base.store import Store
        from ckptbench.pipeline import stages
        from ckptbench.pipeline.plan import Options, resolve
        from ckptbench.pipeline.progress import Reporter
        from ckptbench.suites import load_suite

        options = Options(
            device=device, workers=workers, cluster=cluster, precision=precision, layer=layer,
            plugins=tuple(plugins or ()), selectors=opt.split_labels(selectors),
            sources=None if sources is None else tuple(sources.split(",")), compile=compile,
        )  # fmt: skip
        plan = resolve(load_suite(suite), options, Store(store), "skip" if dry_run else "error")
        if dry_run:
            _print_forecast(plan, json_, validation=name == "validate")
            return
        reporter = Reporter(quiet)
        failed = stages.run(plan, "maps" if name == "run" else name, reporter)
        if name == "run":
            _write_results(plan, opt.PUBLISHED if publish else None, json_, reporter)
        if failed:
            reporter.say(f"{failed} cells failed; run the same command to try them again")
            raise typer.Exit(1)

    return command


def _write_results(plan: Plan, out: Path | None, as_json: bool, reporter: Reporter) -> None:
    """Tables, leaderboards and report of what the store holds; the boards are printed."""
    from ckptbench.agreement.record import publish_record, read_record
    from ckptbench.pages import leaderboard
    from ckptbench.pipeline.provenance import collect, is_drawn, note_drawn
    from ckptbench.results import find_results, local_root

    folder = (out or local_root(plan.store.root)) / plan.suite.name
    results = collect(plan)
    if is_drawn(results, folder):
        _, boards = leaderboard.read(folder)
    else:
        from ckptbench.pages.report import write_report

        results.write(folder)
        boards = leaderboard.write(folder)
        write_report(folder)
        note_drawn(results, folder)
    print(boards.json() if as_json else boards.terminal(most=TOP), end="")
    if not as_json:
        print(_record_text(plan.suite.name), end="")
    if out is not None:
        record = read_record(folder / "procedures.csv")
        if publish_record(record, out):
            reporter.say(f"{out / 'record.csv'} is the record of {plan.suite.name} now")
    elif not as_json:
        with contextlib.suppress(InputError):  # a suite of one's own has no published record
            published, _ = find_results(plan.suite.name, plan.store.root, "published")
            print("\n".join(leaderboard.difference(boards, published)))
    print(f"The report is {folder / 'report.html'}", file=sys.stderr)


def _print_forecast(plan: Plan, as_json: bool, validation: bool) -> None:
    from ckptbench.pipeline.forecast import HOURS, forecast, totals

    rows = forecast(plan, validation)
    stages = totals(rows)
    if as_json:
        opt.print_json({"device": plan.device.type, "rows": opt.rows_of(rows), "stages": opt.rows_of(stages)})
        return
    for table in (rows, stages):
        hours = {name: ["?" if h != h else f"{h:,.2f}" for h in table[name]] for name in HOURS}
        opt.print_frame(table.assign(**hours), False)
        print()
    print(
        f"Hours of one worker on {plan.device.type} for the cells to do: their number times the median of "
        "measured cells;\nlow and high at the quartiles. ? where nothing like it was measured."
    )


def leaderboard(
    suite: opt.SuiteName,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="the folder that holds <suite>/; or frozen, the bundle of the published results"
        ),
    ] = None,
    store: opt.StorePath = None,
    json_: opt.Json = False,
) -> None:
    """Show a suite's leaderboards, from its tables alone; `report` judges them anew."""
    if from_ is not None and str(from_) == "frozen":
        from ckptbench.pipeline.bundle import frozen_folder, load_frozen

        boards = load_frozen(frozen_folder(suite)).leaderboards()
    else:
        from ckptbench.pages.leaderboard import read

        _, boards = read(opt.results_folder(suite, from_, store)[0])
    print(boards.json() if json_ else boards.terminal(most=TOP) + _record_text(boards.facts["suite"]), end="")


def _record_text(suite: str) -> str:
    """What the published record says to take, below the boards of any other suite."""
    from ckptbench.agreement.record import in_words, published_record
    from ckptbench.pages.terminal import as_printed

    record = published_record()
    if record is None or suite in set(record["suite"]):
        return ""
    lines = [f"{goal.upper()}, published record: {in_words(record, goal)}" for goal in ("fe", "ft")]
    return "\n" + "".join(as_printed(line, 100) + "\n" for line in lines)


def report(suite: opt.SuiteName, from_: opt.From = None, store: opt.StorePath = None) -> None:
    """Write a suite's figures and its report page from its tables.

    Of published results they go to reports/<suite>/ in the cache.
    """
    from ckptbench.pages import leaderboard as boards
    from ckptbench.pages.report import write_report
    from ckptbench.results import Results, local_root

    folder, published = opt.results_folder(suite, from_, store)
    if published:
        results = Results.read(folder)
        folder = local_root(store).with_name("reports") / folder.name
        results.write(folder)
    boards.write(folder)
    print(f"The report is {write_report(folder)}", file=sys.stderr)


def compare(
    a: Annotated[str, typer.Argument(metavar="A")],
    b: Annotated[str, typer.Argument(metavar="B")],
    suite: Annotated[str, typer.Option("--suite", help="a suite with results")],
    goal: Annotated[opt.Goal, typer.Option("--for", help="FE or FT truth")] = "fe",
    from_: opt.From = None,
    store: opt.StorePath = None,
    json_: opt.Json = False,
) -> None:
    """Compare two selectors track by track, with the paired test."""
    from ckptbench.agreement.runs import compare as compare_selectors
    from ckptbench.agreement.tables import Design
    from ckptbench.pages.comparison import comparison_text
    from ckptbench.pages.leaderboard import read

    results, boards = read(opt.results_folder(suite, from_, store)[0])
    found = compare_selectors(boards.agreement, a, b, goal, Design.of(results))
    if json_:
        tables = {name: opt.rows_of(getattr(found, name)) for name in ("tracks", "runs")}
        opt.print_json(vars(found) | tables)
    else:
        print(comparison_text(found), end="")


def methods(
    suite: opt.SuiteName,
    epoch: Annotated[int | None, typer.Option("--epoch", help="the checkpoint; the last by default")] = None,
    from_: opt.From = None,
    store: opt.StorePath = None,
    json_: opt.Json = False,
) -> None:
    """Show fine-tuning methods against sampling rates, and each one's paired difference from the first."""
    from ckptbench.pages.paper_table import methods_table

    opt.print_frame(methods_table(opt.read_results(suite, from_, store), epoch), json_)


def freeze(
    suite: opt.SuiteName,
    rows: Annotated[int, typer.Option("--rows", min=1, help="examples of each pair; two a class stay")] = 160,
    targets: Annotated[
        str | None, typer.Option("--targets", help="only these targets, comma-separated")
    ] = None,
    checkpoints: Annotated[
        int | None, typer.Option("--checkpoints", min=3, help="at most so many of each source run")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="the folder that holds <suite>/ with its tables")
    ] = opt.PUBLISHED,
    store: opt.StorePath = None,
    workers: opt.Workers = None,
    plugins: opt.Plugins = None,
) -> None:
    """For maintainers: write a suite's frozen bundle beside its tables, and what sampling did to tau."""
    from ckptbench.base.store import Store
    from ckptbench.pipeline.freeze import freeze as freeze_suite
    from ckptbench.pipeline.plan import Options, resolve
    from ckptbench.suites import load_suite

    options = Options(device="cpu", workers=workers, plugins=tuple(plugins or ()))
    plan = resolve(load_suite(suite), options, Store(store))
    folder = out / plan.suite.name
    names = None if targets is None else targets.split(",")
    manifest = freeze_suite(plan, folder, rows, targets=names, checkpoints=checkpoints)
    size = sum(path.stat().st_size for path in (folder / "frozen").iterdir())
    print(f"wrote {folder / 'frozen'}, {size / 1e6:.1f} MB\n{manifest.effect}")


def judge(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE.csv", help="one row per candidate: its truth, and a column per selector"
        ),
    ],
    truth: Annotated[
        str | None,
        typer.Option("--truth", help="the truth's column; several seeds by commas or a common prefix"),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="a column that groups rows into tracks")
    ] = None,
    json_: opt.Json = False,
) -> None:
    """Judge anyone's table of scores and truth."""
    from ckptbench.agreement.outside import judge_table
    from ckptbench.pages.comparison import judged_text

    judged = judge_table(table, truth, group)
    if json_:
        opt.print_json(opt.rows_of(judged))
    else:
        print(judged_text(judged), end="")
