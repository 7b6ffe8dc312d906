"""The score stage: one selector's number for one candidate, and all of them for a trajectory.

A candidate's spectra are computed once and shared by all its selectors. Each cell's seconds are what
the selector would have taken alone: its own time and that of the spectra it looked at.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ckptbench import numerics
from ckptbench.base import guard
from ckptbench.base.digests import derive_seed, digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.tasks import CellTask, sentence
from ckptbench.base.types import Array, Cell, Checkpoint, Float, Key, locked
from ckptbench.data.targets import load_target
from ckptbench.plugins import PluginSpec, load_plugins
from ckptbench.scores.candidate import Candidate, Images, Ledger, SourceRows, logits_of
from ckptbench.scores.score import check_needs, outside_bounds, view
from ckptbench.suites import Data

if TYPE_CHECKING:
    from torch import nn

SOURCE_ROWS = 1000
Pixel = tuple[float, float, float]
_OF_TARGET = {"features", "labels", "source_probs", "source_logits", "target_images"}


@lru_cache(maxsize=2)
def _pixels(data: Data, rows: tuple[int, ...], plugins: tuple[str, ...]) -> NDArray[np.uint8]:
    """Some training images of a set, decoded once per worker."""
    pixels = load_target(data, download=False, plugins=plugins).train.images(np.array(rows))
    return locked(pixels)


@dataclass(frozen=True, kw_only=True)
class CandidateFiles:
    """Where a worker finds one candidate: keys into the store, never a live object."""

    features: Key
    labels: Array
    checkpoint: Checkpoint
    seed: int
    source_features: Key | None = None
    source_labels: Array | None = None
    source_data: Data | None = None
    target_data: Data | None = None
    normalisation: tuple[Pixel, Pixel] | None = None
    architecture: str | None = None
    plugins: tuple[str, ...] = ()

    def load(self, store: Store) -> Candidate:
        """Read the candidate; features stay a memory map.

        Raises
        ------
        InputError
            If the features are gone or damaged: extraction makes them again.
        """
        features = store.read_features(self.features, verify=False)
        if features is None:
            raise InputError(
                f"features of {self.checkpoint.run} epoch {self.checkpoint.epoch} are not in the store: "
                "extract first"
            )
        logits = None
        head = store.read_head(self.features)
        if head is not None and head[0].shape[1] == features.shape[1]:
            logits = locked(logits_of(features, *head))
        source = None
        if self.source_features is not None and self.source_labels is not None:
            rows = store.read_features(self.source_features, verify=False)
            source = None if rows is None else SourceRows(rows, locked(self.source_labels.copy()))
        return replace(
            self.candidate(features, logits, source),
            make_model=self._make_model if self.architecture else None,
            read_source_images=self._source_images if self.source_data is not None else None,
            read_target_images=self._target_images if self.target_data is not None else None,
        )

    def candidate(self, features: Array, logits: Float | None, source: SourceRows | None) -> Candidate:
        """The candidate with what was read; N x C_s logits of the source head where there is one."""
        return Candidate(
            features,
            locked(self.labels.copy()),
            source_probs=None if logits is None else locked(softmax(logits, axis=1)),
            source_logits=logits,
            source=source,
            checkpoint=self.checkpoint,
            seed=self.seed,
        )

    def _make_model(self) -> nn.Module:
        from ckptbench.networks.architectures import find_architecture

        assert self.architecture is not None
        assert self.checkpoint.path is not None
        architecture = find_architecture(self.architecture, load_plugins("extractor", self.plugins))
        return architecture.load(self.checkpoint.path)[0]

    def _source_images(self) -> Images:
        assert self.source_data is not None
        assert self.source_labels is not None
        assert self.normalisation is not None
        pixels = _pixels(self.source_data, tuple(range(len(self.source_labels))), self.plugins)
        return Images(pixels, locked(self.source_labels.copy()), *self.normalisation)

    def _target_images(self, rows: Array) -> Images:
        assert self.target_data is not None
        assert self.normalisation is not None
        pixels = _pixels(self.target_data, tuple(rows.tolist()), self.plugins)
        return Images(pixels, locked(self.labels[rows]), *self.normalisation)

    def key(self, spec: PluginSpec, repeat: int = 0, *, control: bool = False) -> Key:
        """All that changes a score; one that sees nothing of the target has the same key on all targets."""
        target = bool(_OF_TARGET & set(spec.needs)) or spec.random
        features = {name: part for name, part in self.features.items() if target or name != "examples"}
        source = {"source", "source_images"} & set(spec.needs)
        key: Key = {
            "what": "score/1",
            "selector": spec.name,
            "params": dict(spec.params),
            "plugin": spec.digest,
            "numerics": numerics.VERSION,
            "features": features,
            "labels": hashlib.sha256(self.labels.tobytes()).hexdigest()[:16] if target else None,
            "source": self.source_features if source else None,
            "epoch": self.checkpoint.epoch,
            "source_accuracy": self.checkpoint.source_accuracy,
            "seed": self.seed if target else None,
            "repeat": repeat,
        }
        # The permutation is the pair's.
        return {**key, "control": True, "run": self.checkpoint.run} if control else key


@dataclass(frozen=True)
class _Job:
    """One call of a selector: a key for each candidate that it scores."""

    spec: PluginSpec
    repeat: int
    control: bool
    keys: list[Key]

    @property
    def label(self) -> str:
        return self.spec.label + ("@permuted" if self.control else "")


@dataclass(frozen=True, kw_only=True)
class ScoreTask(CellTask):
    """Some selectors on one candidate, or pool selectors on the candidates of a trajectory.

    With ``controls`` each selector that has one is computed once more on permuted labels: one permutation
    for all checkpoints of a source-target pair. A selector whose order of the checkpoints stays the same
    then did not look at the labels. ``limit`` is the time in seconds that a worker gives to one score.
    """

    files: tuple[CandidateFiles, ...]
    specs: tuple[PluginSpec, ...]
    repeats: int
    target: str
    controls: bool = False
    limit: float = 1200.0

    @property
    def name(self) -> str:
        first = self.files[0].checkpoint
        what = "pool" if self._pool else f"epoch {first.epoch}"
        who = f" {self.specs[0].label}" if len(self.specs) == 1 else ""
        return f"score {self.target} {first.run} {what}{who}"

    @property
    def _pool(self) -> bool:
        return any(spec.pool for spec in self.specs)

    def jobs(self) -> Iterator[_Job]:
        """Every call of a selector, with the cells it gives."""
        for spec in self.specs:
            members = [file.key(spec)["features"] for file in self.files] if spec.pool else None
            pool = {"pool": digest(members)} if members else {}
            repeats = [(repeat, False) for repeat in range(self.repeats if spec.random else 1)]
            for repeat, control in [*repeats, (0, True)] if self.controls and spec.has_control else repeats:
                keys = [{**file.key(spec, repeat, control=control), **pool} for file in self.files]
                yield _Job(spec, repeat, control, keys)

    def cell_keys(self) -> list[Key]:
        return [key for job in self.jobs() for key in job.keys]

    def lock_key(self) -> Key:
        return {"scores": [file.features for file in self.files]}

    def parts(self) -> list[ScoreTask]:
        return [replace(self, specs=(spec,)) for spec in self.specs]

    @property
    def place(self) -> Literal["any", "here", "apart"]:
        return _place(self.specs)

    def compute(self, store: Store, missing: Sequence[Key]) -> Iterator[Cell]:
        ledger = Ledger()
        wanted = {digest(key) for key in missing}
        whole = [file.load(store).kept_in(ledger, at) for at, file in enumerate(self.files)]
        permuted: list[Candidate] = []
        for job in self.jobs():
            if not any(digest(key) in wanted for key in job.keys):
                continue
            if job.control and not permuted:
                permuted = [self._permuted(candidate) for candidate in whole]
            candidates = permuted if job.control else whole
            seeds = [derive_seed(c.seed, "repeat", job.repeat) if job.repeat else c.seed for c in candidates]
            seeded = [c.with_seed(seed) for c, seed in zip(candidates, seeds, strict=True)]
            cells = score_cells(job.keys, job.spec, seeded, ledger, self.limit)
            # A pool is scored as a whole, also where one of its cells is missing.
            yield from (cell for cell in cells if digest(cell.key) in wanted)

    def _permuted(self, candidate: Candidate) -> Candidate:
        seed = derive_seed(candidate.seed, self.files[0].checkpoint.run, "permuted labels")
        order = np.random.default_rng(seed).permutation(len(candidate.labels))
        return candidate.with_labels(locked(candidate.labels[order]))


def _place(specs: Iterable[PluginSpec]) -> Literal["any", "here", "apart"]:
    """Foreign code may do anything, and never does it in the user's own process."""
    if any(spec.origin != "ckptbench" for spec in specs):
        return "apart"
    return "here" if all(spec.is_cheap for spec in specs) else "any"


def pair_tasks(
    store: Store,
    files: Sequence[CandidateFiles],
    specs: Iterable[PluginSpec],
    target: str,
    *,
    repeats: int = 1,
    controls: bool = False,
) -> list[ScoreTask]:
    """The tasks of one source-target pair.

    One for each candidate and one for all of them with the tree's own pool selectors; and one for each
    selector from outside the tree, which may do anything: what it does then befalls no other.
    """
    tasks = []
    groups: dict[object, list[PluginSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.pool, "" if spec.origin == "ckptbench" else spec.label), []).append(spec)
    for group in groups.values():
        for part in [tuple(files)] if group[0].pool else [(file,) for file in files]:
            tasks.append(
                ScoreTask(
                    store=store.root,
                    files=part,
                    specs=tuple(group),
                    repeats=repeats,
                    target=target,
                    controls=controls,
                )
            )
    return tasks


def score_rows(tasks: Iterable[ScoreTask], store: Store) -> Iterator[dict[str, Any]]:
    """What the store holds of some tasks' cells, as rows of ``scores.csv``."""
    for task in tasks:
        for job in task.jobs():
            for file, key in zip(task.files, job.keys, strict=True):
                cell = store.read_cell(key)
                yield {
                    "source": file.checkpoint.run,
                    "target": task.target,
                    "epoch": file.checkpoint.epoch,
                    "selector": job.label,
                    "repeat": job.repeat,
                    "score": cell.value if cell else None,
                    "status": cell.status if cell else "missing",
                    "message": cell.message if cell else "",
                    "seconds": cell.seconds if cell else None,
                    "origin": job.spec.origin,
                }


def score_cells(
    keys: Sequence[Key],
    spec: PluginSpec,
    candidates: Sequence[Candidate],
    ledger: Ledger,
    limit: float,
) -> list[Cell]:
    """Run a selector; whatever it raises becomes a failed cell with its message."""
    ledger.start()
    before = time.perf_counter()
    misdeeds: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught, guard.watch(limit) as misdeeds:
            warnings.simplefilter("always")
            for candidate in candidates:
                check_needs(spec, candidate)
            views = [view(spec, candidate) for candidate in candidates]
            plugin = spec.make()
            values = plugin.score_pool(views) if spec.pool else [plugin.score(views[0])]
            numbers = [float(value) for value in values]
        if len(numbers) != len(keys):
            raise ValueError(f"score_pool returned {len(numbers)} scores for {len(keys)} candidates")
        failure = ""
    except BaseException as error:  # a plugin may raise anything; it is named and the rest goes on
        if isinstance(error, KeyboardInterrupt) and not guard.expendable:
            raise
        failure = sentence(error)
    failure = "; ".join(misdeeds) or failure
    seconds = ledger.seconds(time.perf_counter() - before) / len(keys)
    if failure:
        return [Cell(key, "failed", None, failure, seconds) for key in keys]
    cells = []
    for key, number, seen in zip(keys, numbers, views, strict=True):
        notes = [outside_bounds(plugin, seen, number), *(str(warning.message) for warning in caught)]
        if not math.isfinite(number):
            notes.insert(0, f"score is {number}")
        cells.append(Cell(key, "ok", number, "; ".join(dict.fromkeys(filter(None, notes))), seconds))
    return cells
