"""Commands on suites: the stages, leaderboards, reports, comparisons, the frozen bundle."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ckptbench.base.errors import InputError
from ckptbench.cli.options import (
    Device,
    DeviceOption,
    From,
    Goal,
    Json,
    Layer,
    Plugins,
    Precision,
    PrecisionOption,
    Quiet,
    SelectorsOption,
    StorePath,
    SuiteName,
    Workers,
    print_frame,
    results_folder,
    split_labels,
)

if TYPE_CHECKING:
    from ckptbench.pipeline.plan import Plan
    from ckptbench.pipeline.progress import Reporter

TOP = 20  # scores of each board on a terminal; LEADERBOARD.md has them all
PUBLISHED = Path("results")

Cluster = Annotated[str | None, typer.Option("--cluster", help="a Ray address, or local")]
Sources = Annotated[
    str | None, typer.Option("--sources", help="only these source runs of the suite, comma-separated")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be computed and what is cached")]
Compile = Annotated[bool, typer.Option("--compile", help="train compiled networks (torch.compile)")]
Publish = Annotated[
    bool, typer.Option("--publish", help="for maintainers: write results/<suite>/, the published record")
]
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
        suite: SuiteName,
        store: StorePath = None,
        device: DeviceOption = Device.auto,
        workers: Workers = None,
        cluster: Cluster = None,
        precision: PrecisionOption = Precision.fp32,
        plugins: Plugins = None,
        selectors: SelectorsOption = None,
        sources: Sources = None,
        layer: Layer = None,
        compile: Compile = False,
        publish: Publish = False,
        dry_run: DryRun = False,
        json_: Json = False,
        quiet: Quiet = False,
    ) -> None:
        from ckptbench.base.store import Store
        from ckptbench.pipeline import stages
        from ckptbench.pipeline.plan import Options, resolve
        from ckptbench.pipeline.progress import Reporter
        from ckptbench.suites import load_suite

        options = Options(
            device=device.value,
            workers=workers,
            cluster=cluster,
            precision=precision.value,
            plugins=tuple(plugins or ()),
            selectors=split_labels(selectors),
            sources=None if sources is None else tuple(sources.split(",")),
            layer=layer,
            compile=compile,
        )
        plan = resolve(load_suite(suite), options, Store(store), "skip" if dry_run else "error")
        if dry_run:
            _print_forecast(plan, json_, validation=name == "validate")
            return
        reporter = Reporter(quiet)
        failed = stages.run(plan, "maps" if name == "run" else name, reporter)
        if name == "run":
            _write_results(plan, PUBLISHED if publish else None, json_, reporter)
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
        boards = leaderboard.reread(results, folder)
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
        tables = {"rows": rows, "stages": stages}
        found = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        print(json.dumps({"device": plan.device.type, **found}, indent=1))
        return
    for table in (rows, stages):
        shown = table.assign(
            **{name: ["?" if hours != hours else f"{hours:,.2f}" for hours in table[name]] for name in HOURS}
        )
        print_frame(shown, False)
        print()
    print(
        f"Hours of one worker on {plan.device.type} for the cells to do: their number times the median of "
        "measured cells;\nlow and high at the quartiles. ? where nothing like it was measured."
    )


def leaderboard(
    suite: SuiteName,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="the folder that holds <suite>/; or frozen, the bundle of the published results"
        ),
    ] = None,
    store: StorePath = None,
    json_: Json = False,
) -> None:
    """Rebuild a suite's leaderboards from its tables, on any laptop."""
    from ckptbench.pages.leaderboard import build

    if from_ is not None and str(from_) == "frozen":
        from ckptbench.pipeline.bundle import frozen_folder, load_frozen

        boards = load_frozen(frozen_folder(suite)).leaderboards()
    else:
        from ckptbench.results import Results

        boards = build(Results.read(results_folder(suite, from_, store)[0]))
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


def report(suite: SuiteName, from_: From = None, store: StorePath = None) -> None:
    """Write a suite's figures and its report page from its tables.

    Of published results they go to reports/<suite>/ in the cache.
    """
    from ckptbench.pages import leaderboard as boards
    from ckptbench.pages.report import write_report
    from ckptbench.results import Results, local_root

    folder, published = results_folder(suite, from_, store)
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
    goal: Annotated[Goal, typer.Option("--for", help="FE or FT truth")] = Goal.fe,
    from_: From = None,
    store: StorePath = None,
    json_: Json = False,
) -> None:
    """Compare two selectors track by track, with the paired test."""
    from ckptbench.agreement.runs import compare as compare_selectors
    from ckptbench.agreement.tables import Design, agreement_table
    from ckptbench.pages.comparison import comparison_text
    from ckptbench.results import Results

    results = Results.read(results_folder(suite, from_, store)[0])
    found = compare_selectors(agreement_table(results), a, b, goal.value, Design.of(results))
    if json_:
        facts = dict(vars(found))
        for name in ("tracks", "runs"):
            facts[name] = json.loads(facts[name].to_json(orient="records"))
        print(json.dumps(facts, indent=1))
    else:
        print(comparison_text(found), end="")


def methods(
    suite: SuiteName,
    epoch: Annotated[int | None, typer.Option("--epoch", help="the checkpoint; the last by default")] = None,
    from_: From = None,
    store: StorePath = None,
    json_: Json = False,
) -> None:
    """Show fine-tuning methods against sampling rates, and each one's paired difference from the first."""
    from ckptbench.pages.paper_table import methods_table
    from ckptbench.results import Results

    print_frame(methods_table(Results.read(results_folder(suite, from_, store)[0]), epoch), json_)


def freeze(
    suite: SuiteName,
    budget: Annotated[float, typer.Option("--budget", help="megabytes of arrays")] = 8.0,
    out: Annotated[
        Path, typer.Option("--out", help="the folder that holds <suite>/ with its tables")
    ] = PUBLISHED,
    store: StorePath = None,
    workers: Workers = None,
    plugins: Plugins = None,
) -> None:
    """For maintainers: write a suite's frozen bundle beside its tables, and what sampling did to tau."""
    from ckptbench.base.store import Store
    from ckptbench.pipeline.freeze import freeze as freeze_suite
    from ckptbench.pipeline.plan import Options, resolve
    from ckptbench.suites import load_suite

    options = Options(device="cpu", workers=workers, plugins=tuple(plugins or ()))
    plan = resolve(load_suite(suite), options, Store(store))
    folder = out / plan.suite.name
    manifest = freeze_suite(plan, folder, round(budget * 1e6))
    size = sum(path.stat().st_size for path in (folder / "frozen").iterdir())
    print(f"wrote {folder / 'frozen'}, {size / 1e6:.1f} MB\n{manifest.effect}")
