"""Write a suite's frozen bundle (`ckptbench.pipeline.bundle`), and measure what freezing does to each tau."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ckptbench.agreement.judge import PERMUTED, REFERENCE
from ckptbench.agreement.statistics import tau_b
from ckptbench.agreement.tables import agreement_table
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.files import checksum, write_text
from ckptbench.base.folders import commit
from ckptbench.base.sampling import stratified
from ckptbench.base.store import Store
from ckptbench.base.text import nearest
from ckptbench.base.types import Array, Key
from ckptbench.pipeline.arrays import Archive, Encoding, encode
from ckptbench.pipeline.bundle import FrozenCheckpoint, FrozenPair, FrozenSource, Manifest, load_frozen
from ckptbench.pipeline.plan import Plan
from ckptbench.results import Results
from ckptbench.scores.tasks import CandidateFiles

SOURCE_SHARE = 0.25  # of a pair's rows, of the source set, which few scores look at

Pairs = dict[tuple[str, str], list[CandidateFiles]]


def freeze(
    plan: Plan,
    folder: str | Path,
    rows: int,
    *,
    encoding: Encoding = "uint8",
    targets: Sequence[str] | None = None,
    checkpoints: int | None = None,
) -> Manifest:
    """Write a suite's bundle to ``folder/frozen`` and measure what the sampling does.

    Examples are sampled by class with a seed, the same for every checkpoint. Source runs without truth are
    left out.

    Parameters
    ----------
    plan : the suite with a store that holds its features
    folder : its results folder
    rows : about so many examples of each pair, and a quarter as many of the source set; two a class at least
    targets : those to freeze; all by default
    checkpoints : at most so many of each source run: first those with truth for every goal, evenly spread

    Raises
    ------
    InputError
        If features are missing, a target is unknown, or the tables are of another digest of the suite.
    """
    folder = Path(folder)
    results = Results.read(folder)
    if results.provenance.suite_digest != plan.suite.digest:
        raise InputError(f"the tables in {folder} are of another version of {plan.suite.name}: run it again")
    known = list(dict.fromkeys(target for _, target in plan.pairs))
    if unknown := [name for name in targets or () if name not in known]:
        raise InputError(f"{plan.suite.name} has no target {unknown[0]!r}: {nearest(unknown[0], known)}")
    measured = set(results.truth["source"][results.truth["status"] == "ok"])
    pairs = {
        (source.name, target): _chosen(plan.candidates(source, target), results, checkpoints)
        for source, target in plan.pairs
        if source.name in measured and (targets is None or target in targets)
    }
    part = folder / ".frozen.part"
    shutil.rmtree(part, ignore_errors=True)  # what a killed run has left
    try:
        manifest = _write_bundle(plan, pairs, results, part, rows, encoding)
        shutil.rmtree(folder / "frozen", ignore_errors=True)
        part.rename(folder / "frozen")
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _chosen(files: list[CandidateFiles], results: Results, most: int | None) -> list[CandidateFiles]:
    """At most so many candidates of a run: first those with truth for every goal, evenly spread."""
    if most is None or len(files) <= most:
        return files
    truth = results.truth
    truth = truth[(truth["source"] == files[0].checkpoint.run) & (truth["status"] == "ok")]
    common = set.intersection(*(set(epochs) for _, epochs in truth.groupby("goal")["epoch"]))
    first = [file for file in files if file.checkpoint.epoch in common]
    others = [file for file in files if file.checkpoint.epoch not in common]
    kept = _spread(first, most) + _spread(others, most - min(most, len(first)))
    return sorted(kept, key=lambda file: file.checkpoint.epoch)


def _spread(files: list[CandidateFiles], number: int) -> list[CandidateFiles]:
    places = np.linspace(0, len(files) - 1, min(number, len(files))).round().astype(int)
    return [files[place] for place in places]


def _write_bundle(
    plan: Plan, pairs: Pairs, results: Results, part: Path, rows: int, encoding: Encoding
) -> Manifest:
    sources, frozen_pairs = _write_arrays(plan.store, pairs, part, rows, encoding)
    sha, dirty = commit()
    manifest = Manifest(
        suite=plan.suite.name,
        suite_digest=plan.suite.digest,
        repeats=plan.suite.repeats,
        encoding=encoding,
        commit=sha + "-dirty" * dirty,
        versions=results.provenance.versions,
        sources=sources,
        pairs=frozen_pairs,
        files={path.name: checksum(path) for path in sorted(part.iterdir())},
    )
    _write_manifest(part, manifest)
    frozen = load_frozen(part)
    scores = frozen.scores(plan.specs, plan.store, plan.options.workers)
    agreement = agreement_table(frozen.tables(scores))
    effect = _effect(agreement_table(frozen.tables(results.scores)), agreement)
    tables = {"scores": scores, "agreement": agreement, "effect": effect.round(4)}
    for name, table in tables.items():
        write_text(part / f"frozen-{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    added = {path.name: checksum(path) for path in sorted(part.glob("frozen-*.csv"))}
    manifest = manifest.model_copy(
        update={"files": {**manifest.files, **added}, "effect": _effect_sentence(effect)}
    )
    _write_manifest(part, manifest)
    return manifest


def _write_manifest(part: Path, manifest: Manifest) -> None:
    write_text(part / "frozen.json", manifest.model_dump_json(indent=1) + "\n")


@dataclass(frozen=True)
class _Split:
    """The features of some examples under every checkpoint of a run."""

    arrays: list[Array]
    labels: Array
    seed: int

    @classmethod
    def of(cls, store: Store, keys: Sequence[Key | None], labels: Array, seed: int) -> _Split:
        arrays = [
            array for key in keys if key is not None and (array := store.read_features(key)) is not None
        ]
        if len(arrays) < len(keys):
            raise InputError("features of some checkpoints are not in the store: extract first")
        return cls(arrays, labels, derive_seed(seed, "frozen"))

    def sample(self, features: str, labels: str, number: float, encoding: Encoding) -> dict[str, Array]:
        """About ``number`` rows, as they are named in a file."""
        share = min(1.0, number / len(self.labels))
        rows = stratified(self.labels, share, self.seed, least=2)
        arrays = {labels: self.labels[rows]}
        for position, array in enumerate(self.arrays):
            arrays |= encode(array[rows], encoding, f"{features}-{position}")
        return arrays


def _write_arrays(
    store: Store, pairs: Pairs, folder: Path, rows: int, encoding: Encoding
) -> tuple[tuple[FrozenSource, ...], tuple[FrozenPair, ...]]:
    sources: dict[str, FrozenSource] = {}
    frozen_pairs: list[FrozenPair] = []
    for (run, target), files in pairs.items():
        first = files[0]
        split = _Split.of(store, [f.features for f in files], first.labels, first.seed)
        arrays = split.sample("features", "labels", rows, encoding)
        pair = FrozenPair(
            source=run,
            target=target,
            seed=first.seed,
            rows=len(arrays["labels"]),
            examples=len(first.labels),
            file=f"pair-{len(frozen_pairs)}.npz",
        )
        Archive(folder / pair.file).write(arrays)
        frozen_pairs.append(pair)
        if run not in sources:
            dimension, file = split.arrays[0].shape[1], folder / f"source-{len(sources)}.npz"
            sources[run] = _write_source(store, files, dimension, file, SOURCE_SHARE * rows, encoding)
    return tuple(sources.values()), tuple(frozen_pairs)


def _write_source(
    store: Store, files: list[CandidateFiles], dimension: int, file: Path, rows: float, encoding: Encoding
) -> FrozenSource:
    """The heads of a run, and rows of its source set where they are known."""
    heads, arrays, labels = _heads(store, files), {}, files[0].source_labels
    if labels is not None:
        split = _Split.of(store, [f.source_features for f in files], labels, files[0].seed)
        arrays = split.sample("rows", "row_labels", rows, encoding)
    Archive(file).write({**heads, **arrays})
    checkpoints = [f.checkpoint for f in files]
    return FrozenSource(
        name=checkpoints[0].run,
        architecture=checkpoints[0].architecture,
        dimension=dimension,
        classes=len(heads["bias-0"]) if heads else None,
        rows=len(arrays["row_labels"]) if arrays else None,
        checkpoints=tuple(
            FrozenCheckpoint(epoch=c.epoch, digest=c.digest, source_accuracy=c.source_accuracy)
            for c in checkpoints
        ),
        file=file.name,
    )


def _heads(store: Store, files: Sequence[CandidateFiles]) -> dict[str, Array]:
    """weight and bias of all checkpoints; nothing for a bare backbone."""
    arrays: dict[str, Array] = {}
    for position, file in enumerate(files):
        head = store.read_head(file.features)
        if head is None:
            return {}
        arrays[f"weight-{position}"], arrays[f"bias-{position}"] = (part.astype(np.float32) for part in head)
    return arrays


def _effect(whole: pd.DataFrame, frozen: pd.DataFrame) -> pd.DataFrame:
    """tau on all rows and on the frozen rows, for every track and score that both have."""
    key = ["goal", "source", "target", "protocol", "selector"]
    both = whole[[*key, "tau"]].merge(frozen[[*key, "tau"]], on=key, suffixes=("", "_frozen"))
    free = both["selector"].isin(REFERENCE) | both["selector"].str.endswith(PERMUTED)
    both = both[~free].dropna()
    return both.assign(difference=both["tau_frozen"] - both["tau"])


def _effect_sentence(effect: pd.DataFrame) -> str:
    tracks = effect["source"] + "/" + effect["target"] + "/" + effect["protocol"]
    size = effect["difference"].abs().to_numpy()
    most = int(np.argmax(size))
    selectors, orders = effect["selector"], []
    for goal, rows in effect.groupby("goal"):
        mean = rows.groupby("selector")[["tau", "tau_frozen"]].mean()
        orders.append(f"{str(goal).upper()} {float(tau_b(mean['tau'], mean['tau_frozen'])[0, 0]):.2f}")
    return (
        f"The frozen rows move tau by {size.mean():.3f} on average over {selectors.nunique()} scores "
        f"and {tracks.nunique()} tracks, {size.max():.2f} at most ({selectors.iloc[most]} on "
        f"{tracks.iloc[most]}); tau-b of the scores' order on these rows and on all: {', '.join(orders)}."
    )
