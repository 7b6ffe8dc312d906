"""A plan: a suite and options with everything that they name found and read.

``resolve`` makes it once. It is frozen and computes nothing: the stages (``pipeline.stages``), the forecast,
the freezer and ``ckptbench rank`` are functions of a plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ckptbench.base.digests import derive_seed, digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.text import nearest
from ckptbench.base.types import Checkpoint, Examples, Target
from ckptbench.data.names import read_set
from ckptbench.data.raw import RawSet
from ckptbench.data.targets import check_disjoint, sample
from ckptbench.networks.architectures import find_architecture
from ckptbench.networks.extract import Recipe
from ckptbench.networks.hardware import pick_device
from ckptbench.networks.runs import find_run, last_epoch, normalisation, trajectory
from ckptbench.plugins import PluginSpec, load_plugins
from ckptbench.scores.tasks import SOURCE_ROWS, CandidateFiles
from ckptbench.suites import FE, FT, Data, Source, Suite


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compute. None of it changes what a suite asks for; what changes bits is in the keys."""

    device: str = "auto"
    workers: int | None = None
    cluster: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    plugins: tuple[str, ...] = ()
    selectors: tuple[str, ...] | None = None
    sources: tuple[str, ...] | None = None
    layer: str | None = None
    compile: bool = False


@dataclass(frozen=True)
class FirstExamples:
    """The first examples of a split, as a split of its own."""

    whole: Examples
    count: int

    @property
    def digest(self) -> str:
        return digest([self.whole.digest, self.count])

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.whole.labels[: self.count]

    def __len__(self) -> int:
        return self.count

    def images(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        return self.whole.images(np.arange(self.count)[indices])


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceRun:
    """A source run of the suite: its data (None for brought checkpoints), folder and extraction recipe."""

    spec: Source
    data: Target | None
    folder: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_trained_here(self) -> bool:
        return self.spec.checkpoints is None

    @property
    def epochs_left(self) -> int:
        """How many epochs training still lacks."""
        if not self.is_trained_here or self.spec.epochs is None:
            return 0
        return self.spec.epochs - last_epoch(self.folder)[0]

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that the suite judges, in epoch order.

        Raises
        ------
        InputError
            If the run is not trained to its end, or a checkpoint is missing.
        """
        if self.epochs_left > 0:
            done, _ = last_epoch(self.folder)
            state = f"trained up to epoch {done} of {self.spec.epochs}" if done >= 0 else "not trained yet"
            raise InputError(f"source run {self.name} is {state}: run ckptbench pretrain first")
        return trajectory(self.spec, self.folder)

    @cached_property
    def rows(self) -> FirstExamples | None:
        """Rows of the source set, which some selectors look at."""
        if self.data is None:
            return None
        return FirstExamples(self.data.train, min(SOURCE_ROWS, len(self.data.train)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A resolved suite.

    ``specs`` are the selectors, ``penalties`` those of each FT protocol. ``broken`` maps plugin files that
    cannot be loaded to why; ``skipped`` maps sources and targets that are not available to why (with
    ``missing="skip"`` only).
    """

    suite: Suite
    options: Options
    store: Store
    device: torch.device
    sources: tuple[SourceRun, ...]
    targets: Mapping[str, Target]
    specs: tuple[PluginSpec, ...]
    penalties: Mapping[str, tuple[PluginSpec, ...]]
    broken: Mapping[str, str]
    skipped: Mapping[str, str]

    @property
    def pairs(self) -> list[tuple[SourceRun, str]]:
        """Every source-target pair."""
        return [(source, target) for source in self.sources for target in self.targets]

    def with_sources(self, sources: Sequence[SourceRun]) -> Plan:
        """The plan of some of its source runs."""
        return replace(self, sources=tuple(sources))

    def splits(self, source: SourceRun) -> Iterator[tuple[str, str, Examples]]:
        """(target, split, examples) of everything to extract under one source run.

        Test and pool splits serve FE alone; a suite without FE extracts none.
        """
        if source.rows is not None:
            yield source.name, "source", source.rows
        for name, target in self.targets.items():
            yield name, "train", target.train
            if self.suite.fe:
                yield name, "test", target.test
                if target.pool is not None:
                    yield name, "pool", target.pool

    def candidates(self, source: SourceRun, target: str) -> list[CandidateFiles]:
        """The trajectory of a pair as selectors see it, in epoch order."""
        data, rows, key = self.targets[target], source.rows, source.recipe.key
        return [
            CandidateFiles(
                features=key(checkpoint, data.train),
                labels=data.train.labels,
                checkpoint=checkpoint,
                seed=derive_seed(self.suite.seed, data.digest),
                source_features=key(checkpoint, rows) if rows else None,
                source_labels=rows.labels if rows else None,
                source_data=source.spec.data if rows else None,
                normalisation=source.recipe.normalisation,
                architecture=source.spec.architecture,
                plugins=self.options.plugins,
            )
            for checkpoint in source.checkpoints
        ]

    def judged(self, protocol: FE | FT, source: SourceRun, target: str) -> list[Checkpoint]:
        """The checkpoints that a protocol measures on a pair."""
        if protocol.targets is not None and target not in protocol.targets:
            return []
        return [c for c in source.checkpoints if is_judged(protocol, c.epoch)]


def is_judged(protocol: FE | FT, epoch: int) -> bool:
    """Whether a protocol measures an epoch; epoch 0 always, so that negative transfer shows."""
    return protocol.epochs_judged is None or epoch == 0 or epoch in protocol.epochs_judged


def resolve(
    suite: Suite,
    options: Options | None = None,
    store: Store | None = None,
    missing: Literal["error", "skip"] = "error",
) -> Plan:
    """Find and read everything that a suite and its options name; compute and download nothing else.

    Parameters
    ----------
    missing : ``skip`` leaves out data sets that are not available, downloads none, and says so in
        ``Plan.skipped``

    Raises
    ------
    InputError
        If a name is unknown or, with ``error``, a data set is not at hand.
    """
    options, store = options or Options(), store or Store()
    device = pick_device(options.device)
    chosen = _chosen_sources(suite, options.sources)
    selectors = load_plugins("selector", options.plugins)
    specs = tuple(selectors.select(options.selectors or suite.selectors))
    penalties = load_plugins("penalty", options.plugins)
    extractors = load_plugins("extractor", options.plugins)
    recipes = {
        source.name: Recipe(
            find_architecture(source.architecture, extractors, options.layer),
            normalisation(source),
            device,
            options.precision,
        )
        for source in chosen
    }
    raw: dict[str, RawSet] = {}
    loaded: dict[Data, Target] = {}
    skipped: dict[str, str] = {}

    def at_hand(data: Data, name: str) -> Target | None:
        try:
            if data.name not in raw:  # listed and hashed once for all runs and targets on it
                raw[data.name] = read_set(data.name, missing == "error", options.plugins)
            if data not in loaded:
                loaded[data] = sample(raw[data.name], data, name)
        except InputError as error:
            if missing == "error":
                raise
            skipped[name] = str(error)
        return replace(loaded[data], name=name) if data in loaded else None

    sources = []
    for source in chosen:
        data = at_hand(source.data, source.name) if source.data is not None else None
        if source.data is None or data is not None:
            run = find_run(source, data, device, options.plugins, options.compile)
            sources.append(
                SourceRun(spec=source, data=data, folder=run.folder(store), recipe=recipes[source.name])
            )
    targets = {spec.name: at_hand(spec.data, spec.name) for spec in suite.targets}
    for source_run, target in itertools.product(sources, targets.values()):
        if source_run.data is not None and target is not None:
            check_disjoint(source_run.name, source_run.data, target)
    return Plan(
        suite=suite,
        options=options,
        store=store,
        device=device,
        sources=tuple(sources),
        targets={name: target for name, target in targets.items() if target is not None},
        specs=specs,
        penalties={ft.name: tuple(penalties[label] for label in ft.penalties) for ft in suite.ft},
        broken=selectors.broken,
        skipped=skipped,
    )


def _chosen_sources(suite: Suite, names: Sequence[str] | None) -> list[Source]:
    known = {source.name: source for source in suite.sources}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InputError(f"suite {suite.name} has no source {unknown[0]!r}: {nearest(unknown[0], known)}")
    return [source for source in suite.sources if names is None or source.name in names]
