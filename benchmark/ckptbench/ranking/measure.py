"""Measuring checkpoints on labelled examples: features, cross-validated probes, and whether it is guessing.

Every checkpoint is measured by a repeated cross-validated linear probe, or where a budget forbids that, those
which a cheap score puts first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptbench.agreement.certainty import differences, guessing_p
from ckptbench.agreement.procedures import Procedure, Request, Scores, drive, take_last
from ckptbench.agreement.recorded import PROBED
from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.text import counted, listed
from ckptbench.base.types import Cell, Checkpoint, Float, Key, Metric
from ckptbench.pipeline.progress import Reporter
from ckptbench.ranking.answer import Ranking, epochs_in_words
from ckptbench.ranking.defaults import cheap_score, for_finetuning
from ckptbench.ranking.examples import Labelled, Tokens, draw, of_labels
from ckptbench.ranking.finetuned import untried
from ckptbench.ranking.given import given_matrices, prepared, store_features, used_data, used_images
from ckptbench.ranking.options import Options, is_path, parse_budget
from ckptbench.ranking.reading import read_source
from ckptbench.ranking.verdict import FIRST_LOOK, Screen, probed
from ckptbench.truth.crossval import ProbeTask, make_folds, read_contributions

if TYPE_CHECKING:
    from ckptbench.networks.extract import Recipe
    from ckptbench.ranking.checkpoints import Brought

SMALL = 2e9  # rows x features x classes x checkpoints below which no worker is started
TINY = 10  # examples of a class below which a warning is due


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Checkpoints with features in the store, in epoch order, on the examples."""

    store: Store
    checkpoints: list[Checkpoint]
    keys: list[Key]
    labelled: Labelled
    used: dict[str, str]
    notes: list[str]
    untrained: bool = False

    def only(self, places: Sequence[int]) -> Measured:
        """Some of the checkpoints."""
        checkpoints = [self.checkpoints[place] for place in places]
        return replace(self, checkpoints=checkpoints, keys=[self.keys[place] for place in places])


def measured_answer(
    checkpoints: Any, data: Any, options: Options, store: Store, workers: int | None, reporter: Reporter
) -> Ranking:
    """What ``rank`` answers, computed."""
    matrices = given_matrices(checkpoints)
    if matrices is None:
        return _of_networks(checkpoints, data, options, store, workers, reporter)
    if options.goal == "ft":
        raise InputError("fine-tuning needs networks, and these are features")
    labelled = of_labels(data, options.groups, options.task)
    if len(labelled.labels) != len(matrices[0]):
        raise InputError(f"there are {len(labelled.labels)} labels for {len(matrices[0])} rows of features")
    own, keys = store_features(matrices, store)
    used = {
        "checkpoints": f"{len(matrices)} feature matrices, {matrices[0].shape[1]} features",
        "data": used_data(labelled),
    }
    measured = Measured(store=store, checkpoints=own, keys=keys, labelled=labelled, used=used, notes=[])
    return probe_all(measured, options.measure, workers, reporter, options.budget, options.plugins)


def _of_networks(
    checkpoints: Any, data: Any, options: Options, store: Store, workers: int | None, reporter: Reporter
) -> Ranking:
    from ckptbench.networks.extract import Recipe
    from ckptbench.networks.hardware import device_of, pick_device
    from ckptbench.ranking.checkpoints import bring

    with reporter.stage("read", _count(checkpoints)) as advance:
        brought = bring(checkpoints, options, store, advance)
    for line in brought.skipped:
        reporter.say(line)
    source = read_source(data, options.groups, options.plugins, options.task)
    picture = prepared(brought.preprocessing, options.size, options.normalise, source.options)
    scaling = {"size": picture.size, "crop": picture.crop, "interpolation": picture.interpolation}
    labelled = _tokenised(draw(source, source.options.model_copy(update=scaling), options.limit), brought)
    device = pick_device(options.device)
    if brought.networks:
        device = device_of(next(iter(brought.networks.values())), device)
    recipe = Recipe(brought.architecture, (picture.mean, picture.std), device, options.precision)
    said_by = brought.said_by if picture == brought.preprocessing else "as you said"
    images = used_images(picture, said_by)
    if isinstance(labelled.examples, Tokens):
        images = f"none: texts of at most {labelled.examples.tokens.shape[1]} tokens"
    used = {
        "checkpoints": counted(len(brought.checkpoints), "checkpoint")
        + f", {epochs_in_words([c.epoch for c in brought.checkpoints])}",
        "architecture": brought.architecture.spec,
        "weights": brought.place(),
        "images": images,
        "data": used_data(labelled),
        "run on": f"{device.type}, {options.precision}",
        "skipped": "; ".join(brought.skipped) or "nothing",
    }
    notes = [f"{epochs_in_words(epochs).capitalize()} hold the same weights." for epochs in brought.twins()]
    if options.goal == "ft" and options.budget is not None:
        from ckptbench.ranking.halving import fine_tuned

        return fine_tuned(brought, labelled, recipe, store, options.budget, workers, used, notes, reporter)
    measured = Measured(
        store=store, checkpoints=brought.checkpoints, keys=[], labelled=labelled, used=used, notes=notes,
        untrained=brought.is_own and brought.checkpoints[0].epoch == 0,
    )  # fmt: skip
    if options.goal == "fe":
        measured = _extracted(measured, recipe, brought.networks, options.strict, reporter)
        return probe_all(measured, options.measure, workers, reporter, options.budget, options.plugins)
    advice = for_finetuning(options.task, options.plugins)
    pick, screen = len(brought.checkpoints) - 1, None
    if advice.procedure is not take_last:
        measured = _extracted(measured, recipe, brought.networks, options.strict, reporter)
        pick, screen = _driven(measured, advice.procedure, options, workers, reporter)
    return untried(measured.checkpoints, labelled, measured.used, notes, advice, pick, screen)


def _driven(
    measured: Measured, procedure: Procedure, options: Options, workers: int | None, reporter: Reporter
) -> tuple[int, Screen]:
    """A procedure's pick, and the numbers that decided."""
    known: list[Screen] = []

    def answer(request: Request) -> Float:
        if isinstance(request, Scores):
            known.append(_scored(measured, request.selector, options.plugins, reporter))
            return known[-1].scores
        places, values = list(request.checkpoints), np.full(len(measured.checkpoints), np.nan)
        cells = probe_cells(measured.only(places), options.measure, workers, reporter)
        values[places] = [cell.value for cell in cells]
        known.append(Screen(PROBED, measured.checkpoints, values))
        return values[places, None]

    return drive(procedure, len(measured.checkpoints), answer), known[-1]


def _tokenised(labelled: Labelled, brought: Brought) -> Labelled:
    """Texts as the rows of numbers that the architecture takes."""
    architecture = brought.architecture
    tokenise = getattr(architecture.extractor, "tokenise", None)
    if labelled.texts is None and tokenise is None:
        return labelled
    if labelled.texts is None or tokenise is None:
        has, takes = ("texts", "images") if tokenise is None else ("images", "texts")
        raise InputError(f"the data are {has}, and {architecture.spec} takes {takes}")
    name, options = architecture.name_and_options
    tokens = np.asarray(tokenise(name, labelled.texts, **options), np.int64)
    own = digest([labelled.digest, tokens.tolist()])
    return replace(labelled, examples=Tokens(tokens, labelled.labels, own), digest=own)


def _count(checkpoints: Any) -> int:
    from ckptbench.networks.folders import is_checkpoint

    if is_path(checkpoints):
        folder = Path(checkpoints).expanduser()
        return sum(1 for path in folder.iterdir() if is_checkpoint(path)) if folder.is_dir() else 1
    return len(checkpoints) if hasattr(checkpoints, "__len__") else 1


def _extracted(
    measured: Measured, recipe: Recipe, networks: dict[str, Any], strict: bool, reporter: Reporter
) -> Measured:
    """The features of every checkpoint in the store; those that are not finite are left out."""
    from ckptbench.networks.extract import extract
    from ckptbench.networks.training import evaluating

    store, examples = measured.store, measured.labelled.examples
    assert examples is not None
    keys = {c.digest: recipe.key(c, examples) for c in measured.checkpoints}
    missing = [c for c in measured.checkpoints if not store.has_features(keys[c.digest])]
    with reporter.stage("extract", len(missing) * len(examples)) as advance:
        try:
            with evaluating(networks.values()):
                extract(
                    measured.checkpoints, examples, recipe, store, lambda done: advance(done),
                    networks=networks,
                )  # fmt: skip
        except InputError:
            left = [c for c in measured.checkpoints if store.has_features(keys[c.digest])]
            if strict or not left:
                raise
        else:
            left = measured.checkpoints
    reporter.damaged(store.damaged)
    used = measured.used
    if len(left) < len(measured.checkpoints):
        lost = [c.epoch for c in measured.checkpoints if c not in left]
        line = f"the features of {epochs_in_words(lost)} are not finite: skipped"
        reporter.say(line)
        used = {**used, "skipped": line if used["skipped"] == "nothing" else f"{used['skipped']}; {line}"}
    return replace(measured, checkpoints=left, keys=[keys[c.digest] for c in left], used=used)


def probe_all(
    measured: Measured,
    metric: Metric,
    workers: int | None,
    reporter: Reporter,
    budget: str | float | None = None,
    plugins: Sequence[str] = (),
) -> Ranking:
    """Measure every checkpoint, or as many as the budget allows, and say what follows."""
    labelled = measured.labelled
    some, screen = measured, None
    if budget is not None:
        some, screen = _screened(measured, metric, budget, plugins, reporter)
    cells = probe_cells(some, metric, workers, reporter)
    each = np.array([read_contributions(cell) for cell in cells])
    found = differences(each, labelled.groups)
    p = _guessing(measured, reporter)
    notes = [*measured.notes, *_warnings(labelled)]
    reporter.damaged(measured.store.damaged)
    untrained = measured.untrained and some.checkpoints[0] is measured.checkpoints[0]
    return probed(some.checkpoints, found, each, labelled, metric, p, measured.used, notes, untrained, screen)


def _screened(
    measured: Measured, metric: Metric, budget: str | float, plugins: Sequence[str], reporter: Reporter
) -> tuple[Measured, Screen | None]:
    """As many checkpoints as can be probed in the time, those of the highest cheap score and the last.

    The last is probed first, which says how long one takes.
    """
    seconds = parse_budget(budget)[0] or 0.0
    count = len(measured.checkpoints)
    (cell,) = probe_cells(measured.only([count - 1]), metric, 1, reporter)
    fit = max(2, int(seconds / max(cell.seconds, 1e-3)))
    if fit >= count:
        return measured, None
    screen = _scored(measured, cheap_score(measured.labelled.task, plugins), plugins, reporter)
    places = np.union1d(np.argsort(-screen.scores[:-1], kind="stable")[: fit - 1], [count - 1])
    return measured.only(places.tolist()), screen


def _scored(measured: Measured, selector: str, plugins: Sequence[str], reporter: Reporter) -> Screen:
    from ckptbench.scores.score import score

    scores = np.empty(len(measured.keys))
    with reporter.stage("score", len(scores)) as advance:
        for place, key in enumerate(measured.keys):
            features = measured.store.read_features(key, verify=False)
            assert features is not None
            scores[place] = score(selector, features, measured.labelled.labels, plugins=plugins)
            advance(1)
    return Screen(selector, measured.checkpoints, scores)


def probe_cells(measured: Measured, metric: Metric, workers: int | None, reporter: Reporter) -> list[Cell]:
    """The cross-validated probe of every checkpoint."""
    labelled, store = measured.labelled, measured.store
    folds = make_folds(labelled.labels, labelled.groups, labelled.digest)
    tasks = [
        ProbeTask(
            store=store.root, label=f"epoch {checkpoint.epoch}", features=key, labels=labelled.labels,
            task=labelled.task, n_classes=len(labelled.classes), folds=folds, metric=metric,
        )
        for checkpoint, key in zip(measured.checkpoints, measured.keys, strict=True)
    ]  # fmt: skip
    first = store.read_features(measured.keys[0], verify=False)
    work = 0.0 if first is None else float(first.size) * len(labelled.classes) * len(tasks)
    run_here(tasks, store, "probe", workers or (1 if work < SMALL else None), reporter)
    return [cell_of(store, task) for task in tasks]


def run_here(
    tasks: Sequence[CellTask],
    store: Store,
    name: str,
    workers: int | None,
    reporter: Reporter,
    device: str = "cpu",
) -> None:
    """Run what the store lacks; the first failure is the user's to know."""
    from ckptbench.pipeline.executor import Task, default_workers, run_tasks

    todo = [task for task in tasks if task.missing(store)]
    with reporter.stage(name, len(todo)) as advance:

        def done(task: Task, cells: list[Cell]) -> None:
            advance(1, task.name)

        if todo:
            run_tasks(todo, done, min(len(todo), workers or default_workers(device)), device)


def cell_of(store: Store, task: CellTask) -> Cell:
    cell = store.read_cell(task.cell_keys()[0])
    if cell is None or cell.status != "ok":
        raise InputError(f"{task.name} failed: {cell.message if cell else 'nothing was stored'}")
    return cell


def _guessing(measured: Measured, reporter: Reporter) -> float:
    """The permutation p of guessing, from a first look at 99 permutations where that is plain, else 999."""
    labelled, store = measured.labelled, measured.store
    base = {
        "what": "guessing/1",
        "features": [digest(key) for key in measured.keys],
        "labels": digest(labelled.labels.tolist()),
        "groups": None if labelled.groups is None else digest(labelled.groups.tolist()),
    }
    cell = store.read_cell(base)
    if cell is None:
        with reporter.stage("permute", 2) as advance:
            matrices = [store.read_features(key, verify=False) for key in measured.keys]
            features = [matrix for matrix in matrices if matrix is not None]
            p = guessing_p(features, labelled.labels, labelled.groups, permutations=99)
            advance(1)
            if p > FIRST_LOOK:
                p = guessing_p(features, labelled.labels, labelled.groups, permutations=999, seed=1)
            advance(1)
        cell = Cell(base, "ok", p)
        store.write_cell(cell)
    return float(cell.value or 0.0)


def _warnings(labelled: Labelled) -> list[str]:
    notes = [f"{note[0].upper()}{note[1:]}." for note in labelled.notes]
    if labelled.task != "classification":
        return notes
    counts = labelled.counts
    few = [f"{labelled.classes[c]!r} ({counts[c]})" for c in np.flatnonzero(counts < TINY)]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        notes.append(f"Classes with fewer than {TINY} examples are measured badly: {listed(few[:5])}{more}.")
    return notes
