"""The stages of a suite, each a function of a plan: pretrain, extract, score, truth, feature maps.

``validate``, what selection procedures may read, stands aside: it costs as much as truth and needs features
alone. Every stage computes what the store lacks and nothing else, so it can be run alone, again, or after a
kill.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from ckptbench.base.errors import InputError
from ckptbench.base.files import make_folder
from ckptbench.base.tasks import CellTask
from ckptbench.base.types import Cell
from ckptbench.networks.extract import extract as extract_features
from ckptbench.networks.hardware import machine, resolve_precision
from ckptbench.networks.pretrain import RunTask
from ckptbench.networks.runs import last_epoch
from ckptbench.pipeline.executor import Task, default_workers, run_tasks
from ckptbench.pipeline.feature_maps import map_tasks
from ckptbench.pipeline.plan import Plan
from ckptbench.pipeline.progress import Advance, Reporter
from ckptbench.plugins import PluginSpec
from ckptbench.scores.tasks import ScoreTask, pair_tasks
from ckptbench.suites import FT
from ckptbench.truth.columns import MEASURE
from ckptbench.truth.crossval import make_folds
from ckptbench.truth.tasks import FETask, FTTask, Split
from ckptbench.truth.validation import FT_FOLDS, ProbeFold, TuningFold, lengths

Stage = Literal["pretrain", "extract", "score", "truth", "maps", "validate"]
STAGES: tuple[Stage, ...] = ("pretrain", "extract", "score", "truth", "maps")
ASIDE: tuple[Stage, ...] = ("pretrain", "extract", "validate")
Tuning = TypeVar("Tuning", bound=FTTask)
SHOWN = 5  # failures named on the terminal; the tables name all


def run(plan: Plan, upto: Stage = "maps", reporter: Reporter | None = None) -> int:
    """Every stage up to one, each computing what the store lacks; returns how many cells failed."""
    reporter = reporter or Reporter(quiet=True)
    failed = 0
    for stage in ASIDE if upto == "validate" else STAGES[: STAGES.index(upto) + 1]:
        if stage in ("pretrain", "extract"):
            {"pretrain": pretrain, "extract": extract}[stage](plan, reporter)
        elif stage == "truth":
            failed += run_cells(plan, "FE truth", fe_tasks(plan), "cpu", reporter)
            failed += run_cells(plan, "FT truth", ft_tasks(plan), str(plan.device), reporter)
        elif stage == "validate":
            failed += run_cells(plan, "FE validation", probe_folds(plan), "cpu", reporter)
            failed += run_cells(plan, "FT validation", tuning_folds(plan), str(plan.device), reporter)
        else:
            failed += run_cells(plan, stage, tasks(plan, stage), "cpu", reporter)
        reporter.damaged(plan.store.damaged)
    return failed


def tasks(plan: Plan, stage: Stage) -> list[CellTask]:
    """The tasks of a stage that leaves cells: score, truth, maps, validate. They need the stages before."""
    if stage == "score":
        return [*score_tasks(plan)]
    if stage == "truth":
        return [*fe_tasks(plan), *ft_tasks(plan)]
    if stage == "maps":
        return [*map_tasks(plan, fe_tasks(plan), ft_tasks(plan))]
    if stage == "validate":
        return [*probe_folds(plan), *tuning_folds(plan)]
    raise InputError(
        f"stage {stage} leaves files, not cells: only score, truth, maps and validate have tasks"
    )


def pretrain(plan: Plan, reporter: Reporter) -> None:
    """Train the source runs of the suite, or go on with them, side by side."""
    device, options = str(plan.device), plan.options
    left = {source: source.epochs_left for source in plan.sources if source.epochs_left > 0}
    runs = [
        RunTask(plan.store.root, source.spec, device, options.plugins, options.compile) for source in left
    ]
    with (
        reporter.stage("pretrain", sum(left.values())) as advance,
        _followed({source.name: source.folder for source in left}, advance),
    ):
        make_folder(plan.store.root)  # workers elsewhere look for it
        workers = options.workers or default_workers(device)
        workers = max(1, min(workers, len(runs)))  # one run alone is trained in this process
        run_tasks(runs, lambda task, cells: None, workers, device, options.cluster)


def extract(plan: Plan, reporter: Reporter) -> None:
    """Features of every checkpoint on every split."""
    for source in plan.sources:
        for target, split, examples in plan.splits(source):
            keys = [source.recipe.key(checkpoint, examples) for checkpoint in source.checkpoints]
            missing = sum(not plan.store.has_features(key) for key in keys)
            with reporter.stage("extract", missing * len(examples)) as advance:
                forward = partial(advance, note=f"{target} {split}")
                extract_features(source.checkpoints, examples, source.recipe, plan.store, forward)


def run_cells(plan: Plan, name: str, wanted: Sequence[CellTask], device: str, reporter: Reporter) -> int:
    """Run the tasks that lack cells, and say which cells failed; returns how many."""
    todo = [task for task in wanted if task.missing(plan.store)]
    failed: list[str] = []
    with reporter.stage(name, len(todo)) as advance:

        def done(task: Task, cells: list[Cell]) -> None:
            failed.extend(f"{task.name}: {cell.message}" for cell in cells if cell.status != "ok")
            advance(1, task.name)

        workers = plan.options.workers or default_workers(device)
        run_tasks(todo, done, workers, device, plan.options.cluster)
    for line in list(dict.fromkeys(failed))[:SHOWN]:
        reporter.say(f"failed: {line}")
    if len(failed) > SHOWN:
        reporter.say(f"... and {len(failed) - SHOWN} more failed cells; the leaderboards count them all")
    return len(failed)


def score_tasks(plan: Plan) -> list[ScoreTask]:
    """Every selector on every candidate, with its label control."""
    found = []
    for source, target in plan.pairs:
        files, repeats = plan.candidates(source, target), plan.suite.repeats
        found += pair_tasks(plan.store, files, plan.specs, target, repeats=repeats, controls=True)
    return found


def fe_tasks(plan: Plan) -> list[FETask]:
    """A task per (FE protocol, pair, checkpoint); FE after fine-tuning is FT's to compute."""
    protocols = [protocol for protocol in plan.suite.fe if protocol.after is None]
    found, tasks = [], {spec.name: spec.data.task for spec in plan.suite.targets}
    for protocol, (source, target) in itertools.product(protocols, plan.pairs):
        data, key = plan.targets[target], source.recipe.key
        for checkpoint in plan.judged(protocol, source, target):
            task = FETask(
                store=plan.store.root, checkpoint=checkpoint, target=target, protocol=protocol,
                train=Split(key(checkpoint, data.train), data.train.labels),
                test=Split(key(checkpoint, data.test), data.test.labels),
                pool=Split(key(checkpoint, data.pool), data.pool.labels) if data.pool else None,
                n_classes=len(data.classes), task=tasks[target],
            )  # fmt: skip
            found.append(task)
    return found


def ft_tasks(plan: Plan) -> list[FTTask]:
    """A task per (FT protocol, seed, pair, checkpoint)."""
    return [
        task
        for protocol in plan.suite.ft
        for task in _tunings(plan, FTTask, protocol, plan.penalties[protocol.name], protocol.seeds)
    ]


def _tunings(
    plan: Plan, kind: type[Tuning], protocol: FT, penalties: tuple[PluginSpec, ...], seeds: int
) -> Iterator[Tuning]:
    """A task per (seed, pair, checkpoint)."""
    data = {spec.name: spec.data for spec in plan.suite.targets}
    precision = resolve_precision(protocol.training.precision, plan.device)
    facts = {**machine(plan.device), "precision": precision}
    # Seeds outermost: a run that is stopped early has whole trajectories of the first seeds.
    for seed, (source, target) in itertools.product(range(seeds), plan.pairs):
        for checkpoint in plan.judged(protocol, source, target):
            yield kind(
                store=plan.store.root, checkpoint=checkpoint, target=target, protocol=protocol,
                penalties=penalties, data=data[target], data_digest=plan.targets[target].digest, seed=seed,
                architecture=source.spec.architecture, layer=plan.options.layer,
                extractor=source.recipe.architecture.extractor_digest,
                normalisation=source.recipe.normalisation, device=str(plan.device), facts=facts,
                plugins=plan.options.plugins, compile=plan.options.compile,
                after=tuple(fe for fe in plan.suite.fe if fe.after == protocol.name),
            )  # fmt: skip


def probe_folds(plan: Plan) -> list[ProbeFold]:
    """One repeat of the cross-validated probe, at the checkpoints of the suite's first FE protocol."""
    found, tasks = [], {spec.name: spec.data.task for spec in plan.suite.targets}
    for protocol, (source, target) in itertools.product(plan.suite.fe[:1], plan.pairs):
        train, classes = plan.targets[target].train, plan.targets[target].classes
        folds = make_folds(train.labels, None, plan.targets[target].digest, repeats=1)
        for checkpoint in plan.judged(protocol, source, target):
            task = ProbeFold(
                store=plan.store.root, checkpoint=checkpoint, target=target, n_classes=len(classes),
                label=f"{source.name} epoch {checkpoint.epoch} on {target}", labels=train.labels,
                features=source.recipe.key(checkpoint, train), folds=folds,
                task=tasks[target], metric=MEASURE[tasks[target]],
            )  # fmt: skip
            found.append(task)
    return found


def tuning_folds(plan: Plan) -> list[TuningFold]:
    """Fine-tunings on folds at the length of the suite's first FT protocol and a third of it."""
    return [
        task
        for whole in plan.suite.ft[:1]
        for protocol in lengths(whole)
        for task in _tunings(plan, TuningFold, protocol, plan.penalties[whole.name], FT_FOLDS)
    ]


@contextlib.contextmanager
def _followed(folders: dict[str, Path], advance: Advance) -> Iterator[None]:
    """Advance by the epochs that runs note in their folders, in whichever process they are trained."""
    seen = {name: last_epoch(folder)[0] for name, folder in folders.items()}
    over = threading.Event()

    def follow() -> None:
        last = not folders
        while not last:
            last = over.wait(0.5)
            for name, folder in folders.items():
                epoch, accuracy = last_epoch(folder)
                if epoch > seen[name]:
                    note = f"{name} epoch {epoch}, source accuracy {100 * accuracy:.1f} %"
                    advance(epoch - seen[name], note)
                    seen[name] = epoch

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
