"""``rank``: which checkpoint to take to labelled data, measured on those data, and how surely.

For frozen features every checkpoint is measured by a repeated cross-validated linear probe; for fine-tuning
the last one is taken, or with a budget real fine-tunings decide (``halving``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ckptbench.agreement.certainty import differences, guessing_p
from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask
from ckptbench.base.text import counted, listed
from ckptbench.base.types import Array, Cell, Checkpoint, Key, Preprocessing
from ckptbench.pipeline.progress import Reporter
from ckptbench.ranking.answer import FIRST_LOOK, TINY, Ranking, epochs_in_words, probed
from ckptbench.ranking.examples import Labelled, draw, of_labels, read_source
from ckptbench.truth.crossval import Metric, ProbeTask, make_folds, read_contributions

LIMIT = 2000
SMALL = 2e9  # rows x features x classes x checkpoints below which no worker is started
Normalisation = tuple[Sequence[float], Sequence[float]]


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


def rank(
    checkpoints: Any,
    arch: str | None = None,
    data: Any = None,
    *,
    goal: str = "fe",
    budget: str | float | None = None,
    metric: Metric = "accuracy",
    groups: str | Path | Sequence[Any] | None = None,
    plugins: Sequence[str] | str = (),
    layer: str | None = None,
    size: int | None = None,
    normalise: Normalisation | None = None,
    key: str | None = None,
    prefix: str | None = None,
    pattern: str | None = None,
    strict: bool = False,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    store: str | Path | None = None,
    workers: int | None = None,
    limit: int = LIMIT,
    reporter: Reporter | None = None,
) -> Ranking:
    """Say which checkpoint to take to your data.

    Parameters
    ----------
    checkpoints : a folder, a list of files, modules or state dicts, or (with ``data`` the labels) a list of
        feature matrices N x D; lists are in the order of time
    arch : the architecture's name, with options as in ``resnet18:stem=small``
    data : a path (a folder of images per class, .csv or .tsv with path and label, .npz), a set's name,
        (images, labels), a torch Dataset or DataLoader, or a DataFrame with columns path and label
    goal : ``fe`` for a classifier on frozen features, ``ft`` for fine-tuning
    budget : for fine-tuning: seconds or ``"10m"`` to spend on real fine-tunings, or ``"30 runs"``
    metric : what is measured: accuracy, balanced accuracy or AUROC
    groups : examples that belong together (patients, speakers): folds never split a group. A column of the
        table, a CSV file with path and group, or a group for each example
    size, normalise : of the images, in pixels, and (mean, deviation) of each channel; by default those of the
        run's own record, else those that the architecture's library uses
    key, prefix : where in a file the weights are, where that is not found by fitting
    pattern : a regular expression whose group finds the epoch in a file's name
    strict : stop at a checkpoint that cannot be used, where it would be skipped
    limit : use at most so many examples

    Raises
    ------
    InputError
        If anything given is not there or does not fit.
    """
    goal, metric = _one_of("goal", goal, ("fe", "ft")), _one_of("metric", metric, get_args(Metric))
    if budget is not None and goal == "fe":
        raise InputError("a budget is for fine-tuning: goal='ft'")
    plugins = (plugins,) if isinstance(plugins, str) else tuple(plugins)
    if data is None:
        raise InputError("say on which labelled data, as in data='path/to/images'")
    if limit < 10:
        raise InputError(f"limit is {limit}: at least 10 examples are needed")
    reporter, kept = reporter or Reporter(quiet=True), Store(store)
    matrices = _matrices(checkpoints)
    if matrices is not None:
        if goal == "ft":
            raise InputError("fine-tuning needs networks, and these are features")
        measured = _given_features(matrices, data, groups, kept)
        return probe_all(measured, metric, workers, reporter)

    from ckptbench.networks.extract import Recipe
    from ckptbench.networks.hardware import pick_device
    from ckptbench.ranking.checkpoints import bring

    with reporter.stage("read", _count(checkpoints)) as advance:
        brought = bring(
            checkpoints, arch, kept, plugins=plugins, layer=layer, key=key, prefix=prefix, pattern=pattern,
            strict=strict, advance=advance,
        )  # fmt: skip
    for line in brought.skipped:
        reporter.say(line)
    source = read_source(data, groups, plugins)
    picture = prepared(brought.preprocessing, size, normalise, source.options)
    scaling = {"size": picture.size, "crop": picture.crop, "interpolation": picture.interpolation}
    labelled = draw(source, source.options.model_copy(update=scaling), limit)
    where = pick_device(device)
    if brought.networks:
        where = next(next(iter(brought.networks.values())).parameters()).device
    recipe = Recipe(brought.architecture, (picture.mean, picture.std), where, precision)
    said_by = brought.said_by if picture == brought.preprocessing else "as you said"
    used = {
        "checkpoints": counted(len(brought.checkpoints), "checkpoint")
        + f", {epochs_in_words([c.epoch for c in brought.checkpoints])}",
        "architecture": brought.architecture.spec,
        "weights": brought.place(),
        "images": used_images(picture, said_by),
        "data": used_data(labelled),
        "run on": f"{where.type}, {precision}",
        "skipped": "; ".join(brought.skipped) or "nothing",
    }
    notes = [f"{epochs_in_words(epochs).capitalize()} hold the same weights." for epochs in brought.twins()]
    if goal == "ft":
        from ckptbench.ranking.halving import fine_tuned

        return fine_tuned(brought, labelled, recipe, kept, budget, workers, used, notes, reporter)
    measured = Measured(
        store=kept, checkpoints=brought.checkpoints, keys=[], labelled=labelled, used=used, notes=notes,
        untrained=brought.is_own and brought.checkpoints[0].epoch == 0,
    )  # fmt: skip
    measured = _extracted(measured, recipe, brought.networks, strict, reporter)
    return probe_all(measured, metric, workers, reporter)


def _extracted(
    measured: Measured, recipe: Any, networks: dict[str, Any], strict: bool, reporter: Reporter
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


def probe_all(measured: Measured, metric: Metric, workers: int | None, reporter: Reporter) -> Ranking:
    """Measure every checkpoint and say what follows."""
    labelled = measured.labelled
    cells = probe_cells(measured, metric, workers, reporter)
    each = np.array([read_contributions(cell) for cell in cells])
    found = differences(each, labelled.groups)
    p = _guessing(measured, reporter)
    notes = [*measured.notes, *_warnings(labelled)]
    reporter.damaged(measured.store.damaged)
    used, untrained = measured.used, measured.untrained
    return probed(measured.checkpoints, found, each, labelled, metric, p, used, notes, untrained)


def probe_cells(measured: Measured, metric: Metric, workers: int | None, reporter: Reporter) -> list[Cell]:
    """The cross-validated probe of every checkpoint."""
    labelled, store = measured.labelled, measured.store
    folds = make_folds(labelled.labels, labelled.groups, labelled.digest)
    tasks = [
        ProbeTask(
            store=store.root, label=f"epoch {checkpoint.epoch}", features=key, labels=labelled.labels,
            n_classes=len(labelled.classes), folds=folds, metric=metric,
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
    counts = labelled.counts
    few = [f"{labelled.classes[c]!r} ({counts[c]})" for c in np.flatnonzero(counts < TINY)]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        notes.append(f"Classes with fewer than {TINY} examples are measured badly: {listed(few[:5])}{more}.")
    return notes


# ------------------------------------------------------------------------------------ what was given


def _one_of(name: str, value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, str) and value.lower() in known:
        return value.lower()
    raise InputError(f"{name} is {value!r}: it should be {' or '.join(repr(one) for one in known)}")


def _count(checkpoints: Any) -> int:
    from ckptbench.networks.folders import is_checkpoint

    if isinstance(checkpoints, str | Path):
        folder = Path(checkpoints).expanduser()
        return sum(1 for path in folder.iterdir() if is_checkpoint(path)) if folder.is_dir() else 1
    return len(checkpoints) if hasattr(checkpoints, "__len__") else 1


def _matrices(checkpoints: Any) -> list[Array] | None:
    """Feature matrices, where that is what was given."""
    if not isinstance(checkpoints, list | tuple) or not checkpoints:
        return None
    first = checkpoints[0]
    if not hasattr(first, "shape") or not hasattr(first, "__array__"):
        return None
    matrices: list[Array] = []
    for i, one in enumerate(checkpoints):
        if hasattr(one, "detach"):
            one = one.detach().cpu().float()
        matrix = np.asarray(one)
        if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number):
            raise InputError(f"features {i} should be N x D numbers, not {matrix.dtype} of {matrix.shape}")
        if len(matrix) != len(matrices[0] if matrices else matrix):
            raise InputError(f"features {i} have {len(matrix)} rows, features 0 have {len(matrices[0])}")
        bad = np.argwhere(~np.isfinite(matrix))
        if len(bad):
            row, column = bad[0]
            raise InputError(f"features {i} hold {matrix[row, column]} in row {row}, column {column}")
        matrices.append(matrix)
    return matrices


def _given_features(matrices: list[Array], labels: Any, groups: Any, store: Store) -> Measured:
    labelled = of_labels(labels, groups)
    if len(labelled.labels) != len(matrices[0]):
        raise InputError(f"there are {len(labelled.labels)} labels for {len(matrices[0])} rows of features")
    checkpoints, keys = [], []
    for epoch, matrix in enumerate(matrices):
        values = np.ascontiguousarray(matrix, dtype=np.float32)
        own = digest([values.shape, values.tobytes().hex()])
        key: Key = {"what": "features/given", "features": own}
        if not store.has_features(key):
            store.write_features(key, [values], values.shape, np.float32, 0.0)
        checkpoints.append(Checkpoint("run", epoch, "features", own))
        keys.append(key)
    used = {
        "checkpoints": f"{len(matrices)} feature matrices, {matrices[0].shape[1]} features",
        "data": used_data(labelled),
    }
    return Measured(store=store, checkpoints=checkpoints, keys=keys, labelled=labelled, used=used, notes=[])


def prepared(
    picture: Preprocessing, size: int | None, normalise: Normalisation | None, options: Any
) -> Preprocessing:
    """The preprocessing, with what the user said in its place."""
    if size is None and "size" in options.model_fields_set:
        size = options.size
    if size is not None:
        if not 8 <= size <= 1024:
            raise InputError(f"size is {size}: between 8 and 1024 pixels is possible")
        picture = replace(picture, size=size, crop=options.crop if size != picture.size else picture.crop)
    if normalise is not None:
        mean, std = (tuple(float(one) for one in part) for part in normalise)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise InputError(
                "normalise should be three means and three positive deviations, of red, green, blue"
            )
        picture = replace(picture, mean=mean, std=std)
    return picture


def used_images(picture: Preprocessing, said_by: str) -> str:
    crop = "the centre square" if picture.crop == 1 else f"the centre square of {100 * picture.crop:.3g} %"
    mean, std = (", ".join(f"{one:.4g}" for one in part) for part in (picture.mean, picture.std))
    return (
        f"{crop} scaled to {picture.size} px ({picture.interpolation}), "
        f"mean {mean}, deviation {std}: {said_by}"
    )


def used_data(labelled: Labelled) -> str:
    counts = labelled.counts
    shown = [f"{name} {count}" for name, count in zip(labelled.classes, counts, strict=True)][:10]
    rest = f", and {len(counts) - 10} more classes" if len(counts) > 10 else ""
    of = f" of {labelled.total:,}" if labelled.total > len(labelled.labels) else ""
    groups = "" if labelled.groups is None else f" in {len(np.unique(labelled.groups))} groups"
    return f"{labelled.name}: {len(labelled.labels):,}{of} examples{groups}, {', '.join(shown)}{rest}"
