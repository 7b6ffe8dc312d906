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

import torch

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.text import nearest
from ckptbench.base.types import Checkpoint, Examples, Target
from ckptbench.data.names import read_set
from ckptbench.data.raw import RawSet
from ckptbench.data.targets import Split, check_disjoint, sample
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
    def epochs_left(self) -> int:
        """How many epochs training still lacks; none of checkpoints that are brought."""
        if self.spec.checkpoints is not None or self.spec.epochs is None:
            return 0
        return self.spec.epochs - last_epoch(self.folder)[0]

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that the suite judges, in epoch order."""
        if self.epochs_left > 0:
            done, _ = last_epoch(self.folder)
            state = f"trained up to epoch {done} of {self.spec.epochs}" if done >= 0 else "not trained yet"
            raise InputError(f"source run {self.name} is {state}: run ckptbench pretrain first")
        return trajectory(self.spec, self.folder)

    @cached_property
    def rows(self) -> Split | None:
        """The first examples of the source set, which some selectors look at."""
        if self.data is None:
            return None
        assert isinstance(self.data.train, Split)
        return self.data.train.first(SOURCE_ROWS)


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
        data, rows, key = self.targets[target].train, source.rows, source.recipe.key
        (spec,) = (spec.data for spec in self.suite.targets if spec.name == target)
        return [
            CandidateFiles(
                features=key(checkpoint, data), labels=data.labels, checkpoint=checkpoint,
                seed=derive_seed(self.suite.seed, self.targets[target].digest),
                source_features=key(checkpoint, rows) if rows else None,
                source_labels=rows.labels if rows else None,
                source_data=source.spec.data if rows else None, target_data=spec,
                normalisation=source.recipe.normalisation,
                architecture=source.spec.architecture, plugins=self.options.plugins,
            )
            for checkpoint in source.checkpoints
        ]  # fmt: skip

    def judged(self, protocol: FE | FT, source: SourceRun, target: str) -> list[Checkpoint]:
        """The checkpoints that a protocol measures on a pair."""
        if protocol.targets is not None and target not in protocol.targets:
            return []
        return [c for c in source.checkpoints if protocol.judges(c.epoch)]


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
    selectors, penalties, extractors = (
        load_plugins(kind, options.plugins) for kind in ("selector", "penalty", "extractor")
    )
    specs = tuple(selectors.select(options.selectors or suite.selectors))
    recipes = [
        Recipe(
            find_architecture(source.architecture, extractors, options.layer),
            normalisation(source), device, options.precision,
        )
        for source in chosen
    ]  # fmt: skip
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
    for source, recipe in zip(chosen, recipes, strict=True):
        data = at_hand(source.data, source.name) if source.data is not None else None
        if source.data is None or data is not None:
            run = find_run(source, data, device, options.plugins, options.compile)
            sources.append(SourceRun(spec=source, data=data, folder=run.folder(store), recipe=recipe))
    found = {spec.name: at_hand(spec.data, spec.name) for spec in suite.targets}
    targets = {name: target for name, target in found.items() if target is not None}
    for run_of, target in itertools.product(sources, targets.values()):
        if run_of.data is not None:
            check_disjoint(run_of.name, run_of.data, target)
    return Plan(
        suite=suite, options=options, store=store, device=device, sources=tuple(sources), targets=targets,
        specs=specs, broken=selectors.broken, skipped=skipped,
        penalties={ft.name: tuple(penalties[label] for label in ft.penalties) for ft in suite.ft},
    )  # fmt: skip


def _chosen_sources(suite: Suite, names: Sequence[str] | None) -> list[Source]:
    known = {source.name: source for source in suite.sources}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InputError(f"suite {suite.name} has no source {unknown[0]!r}: {nearest(unknown[0], known)}")
    return [source for source in suite.sources if names is None or source.name in names]
