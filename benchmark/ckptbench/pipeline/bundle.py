"""The frozen benchmark: a suite's features beside its tables, so that a score is judged in seconds.

``results/<suite>/frozen/`` holds train-split features, labels, source heads, rows of the source set and facts
of some checkpoints, on a sample of the examples; ``frozen.json`` names the files with their digests. The
truth is that of the tables beside it, to which the bundle is tied by the digests of its checkpoints. The
published selectors were scored and judged on the same rows (``frozen-scores.csv``, ``frozen-agreement.csv``),
so that a new one meets them on equal terms; what the sample and the encoding do to every score's tau is in
``frozen-effect.csv``.

Candidates are made of arrays and JSON and nothing else; neither torch nor a data set is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from ckptbench.agreement.tables import agreement_table
from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.files import checksum
from ckptbench.base.folders import results_roots
from ckptbench.base.store import Store
from ckptbench.base.text import counted, nearest
from ckptbench.base.types import Checkpoint, locked
from ckptbench.pages.leaderboard import Leaderboards, build
from ckptbench.pipeline.arrays import Archive, Encoding, decode
from ckptbench.pipeline.executor import default_workers, run_tasks
from ckptbench.plugins import PluginSpec
from ckptbench.results import Results, make_table, table_from_csv
from ckptbench.scores.candidate import Candidate, SourceRows, logits_of
from ckptbench.scores.tasks import CandidateFiles, pair_tasks, score_rows
from ckptbench.suites import explain


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FrozenCheckpoint(_Strict):
    epoch: int
    digest: str
    source_accuracy: float | None


class FrozenSource(_Strict):
    """A source run, D the ``dimension`` of its features.

    For each checkpoint at position e of the trajectory ``file`` holds weight-e (C x D) and bias-e (C) where
    the run has a head of C ``classes``, and rows-e (D x R) where R ``rows`` of the source set are known; of
    the classes row_labels (R).
    """

    name: str
    architecture: str
    dimension: int
    classes: int | None
    rows: int | None
    checkpoints: tuple[FrozenCheckpoint, ...]
    file: str


class FrozenPair(_Strict):
    """A source run on a target, N ``rows`` out of its ``examples``.

    ``file`` holds labels (N) and for each checkpoint at position e features-e (D x N).
    """

    source: str
    target: str
    seed: int
    rows: int
    examples: int
    file: str


class Manifest(_Strict):
    """What ``frozen.json`` says; ``version`` is that of this layout, ``files`` maps names to SHA-256.

    Features are ``float16``, or ``uint8`` beside features-e-range (2 x D: least value, step): least + step x
    number. The same holds for rows-e.
    ``commit`` and ``versions`` are those that computed the scores on the frozen rows.
    """

    version: Literal[2] = 2
    suite: str
    suite_digest: str
    repeats: int
    encoding: Encoding
    commit: str
    versions: dict[str, str]
    effect: str = ""
    sources: tuple[FrozenSource, ...]
    pairs: tuple[FrozenPair, ...]
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FrozenCandidate(CandidateFiles):
    """The candidate at one position of a pair's trajectory, which ``load`` reads from the bundle."""

    folder: Path
    pair: FrozenPair
    run: FrozenSource
    position: int
    encoding: Encoding

    def load(self, store: Store) -> Candidate:
        arrays, of_run = Archive(self.folder / self.pair.file), Archive(self.folder / self.run.file)
        d, at = self.run.dimension, self.position
        features = decode(arrays, f"features-{at}", d, self.pair.rows, self.encoding)
        logits, source = None, None
        if self.run.classes is not None:
            weight = of_run.read(f"weight-{at}", self.run.classes, d)
            logits = locked(logits_of(features, weight, of_run.read(f"bias-{at}", self.run.classes)))
        if self.run.rows is not None:
            rows = decode(of_run, f"rows-{at}", d, self.run.rows, self.encoding)
            source = SourceRows(rows, locked(of_run.read("row_labels", self.run.rows)))
        return self.candidate(features, logits, source)


@dataclass(frozen=True)
class Frozen:
    """A bundle whose files fit their digests; the tables lie in the folder above."""

    folder: Path
    manifest: Manifest

    def candidates(self, pair: FrozenPair) -> list[FrozenCandidate]:
        """The trajectory of a pair."""
        run = next(source for source in self.manifest.sources if source.name == pair.source)
        key = {"frozen": [self.manifest.files[name] for name in (pair.file, run.file)]}
        labels = Archive(self.folder / pair.file).read("labels", pair.rows)
        return [
            FrozenCandidate(
                features={**key, "position": position},
                labels=labels,
                checkpoint=Checkpoint(run.name, c.epoch, run.architecture, c.digest, None, c.source_accuracy),
                seed=pair.seed,
                source_features=key,
                folder=self.folder,
                pair=pair,
                run=run,
                position=position,
                encoding=self.manifest.encoding,
            )
            for position, c in enumerate(run.checkpoints)
        ]

    def scores(self, specs: Iterable[PluginSpec], store: Store, workers: int | None = None) -> pd.DataFrame:
        """Score every candidate with some selectors, in a pool of processes: rows of ``scores.csv``."""
        specs, repeats = list(specs), self.manifest.repeats
        tasks = [
            task
            for pair in self.manifest.pairs
            for task in pair_tasks(
                store, self.candidates(pair), specs, pair.target, repeats=repeats, controls=True
            )
        ]
        todo = [task for task in tasks if not store.has_all(task.cell_keys())]
        run_tasks(todo, lambda task, cells: None, workers or default_workers("cpu"))
        return make_table("scores", score_rows(tasks, store))

    def tables(self, scores: pd.DataFrame | None = None) -> Results:
        """The suite's tables, of the frozen checkpoints and pairs alone.

        Parameters
        ----------
        scores : in place of those of the tables; by default the published selectors' on the frozen rows

        Raises
        ------
        InputError
            If the tables cannot be read, are of another digest of the suite, or of other checkpoints.
        """
        results = Results.read(self.folder.parent)
        if self.manifest.suite_digest != results.provenance.suite_digest:
            raise InputError(
                f"{self.folder} is of suite digest {self.manifest.suite_digest}, the tables beside it are of "
                f"{results.provenance.suite_digest}: freeze the suite again"
            )
        known = results.checkpoints.set_index(["source", "epoch"])["digest"].to_dict()
        for run in self.manifest.sources:
            for c in run.checkpoints:
                if known.get((run.name, c.epoch)) != c.digest:
                    others = known.get((run.name, c.epoch), "that are not there")
                    raise InputError(
                        f"{self.folder} has features of {run.name} epoch {c.epoch} under weights {c.digest}, "
                        f"the truth beside it is of weights {others}: freeze the suite again"
                    )
        if scores is None:
            path = self.folder / "frozen-scores.csv"
            scores = table_from_csv("scores", path.read_bytes(), path)
        return self._only_frozen(replace(results, scores=scores))

    def _only_frozen(self, results: Results) -> Results:
        """Without the checkpoints and pairs that were left out of the bundle."""
        epochs = {run.name: [c.epoch for c in run.checkpoints] for run in self.manifest.sources}
        places = {(p.source, p.target, e) for p in self.manifest.pairs for e in epochs[p.source]}
        runs = {(source, epoch) for source, _, epoch in places}

        def kept(table: pd.DataFrame, *key: str, among: set[Any]) -> pd.DataFrame:
            rows = zip(*(table[name] for name in key), strict=True)
            return table[[row in among for row in rows]].reset_index(drop=True)

        key = ("source", "target", "epoch")
        return replace(
            results,
            scores=kept(results.scores, *key, among=places),
            truth=kept(results.truth, *key, among=places),
            checkpoints=kept(results.checkpoints, "source", "epoch", among=runs),
        )

    def sampling_error(self) -> dict[str, float]:
        """Goal -> how far the frozen rows move a score's mean tau over runs: root mean square over scores."""
        path = self.folder / "frozen-effect.csv"
        effect = table_from_csv("effect", path.read_bytes(), path)
        levels = ["goal", "selector", "source"]
        runs = effect.groupby(levels)["difference"].mean().groupby(levels[:2]).mean()
        return {str(goal): float(np.sqrt((moved**2).mean())) for goal, moved in runs.groupby("goal")}

    def leaderboards(self, scores: pd.DataFrame | None = None) -> Leaderboards:
        """The published boards, with the sample and what it does in the footer.

        Parameters
        ----------
        scores : of new selectors, as ``scores`` gives them, to be judged among the published ones. A
            selector's statistics do not depend on which others there are, so only these are computed.
        """
        results, path = self.tables(), self.folder / "frozen-agreement.csv"
        agreement = table_from_csv("agreement", path.read_bytes(), path)
        if scores is not None:
            names = set(scores["selector"])
            own = agreement_table(replace(results, scores=scores))
            published = agreement[~agreement["selector"].isin(names)]
            agreement = pd.concat([own[own["selector"].isin(names)], published], ignore_index=True)
        boards = build(results, agreement)
        sizes = Counter(f"{pair.rows} of {pair.examples} examples" for pair in self.manifest.pairs)
        samples = ", ".join(f"{size} ({counted(n, 'source-target pair')})" for size, n in sizes.items())
        bits = {"float16": "16-bit", "uint8": "8-bit"}[self.manifest.encoding]
        bundle = f"bundle {digest(self.manifest.files)}, scored by commit {self.manifest.commit[:12]}"
        boards.footer.append(f"Scores are those on the frozen {bits} rows: {samples}; {bundle}.")
        boards.footer.append(self.manifest.effect)
        return boards


def load_frozen(folder: str | Path) -> Frozen:
    """Read a bundle and check every file against its digest.

    Raises
    ------
    InputError
        If ``frozen.json`` is missing or of another version, a file is missing, was changed or is no array
        of numbers, or arrays do not fit together.
    """
    path = Path(folder) / "frozen.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no frozen bundle {path}") from None
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from None
    for name, sha256 in manifest.files.items():
        file = path.with_name(Path(name).name)
        if file.name != name or not file.is_file():
            raise InputError(f"{path} names {name!r}, which is no file beside it")
        if checksum(file) != sha256:
            raise InputError(f"{file} was changed: its digest is not the one in frozen.json")
    runs = {source.name for source in manifest.sources}
    for pair in manifest.pairs:
        if pair.source not in runs:
            raise InputError(f"{path} has no source run {pair.source!r}, which a pair names")
    for name in [run.file for run in manifest.sources] + [pair.file for pair in manifest.pairs]:
        if name not in manifest.files:
            raise InputError(f"{path} gives no digest of {name}")
    return Frozen(path.parent, manifest)


def frozen_folder(suite: str) -> Path:
    """The published bundle of a suite, in the tree or the wheel.

    Raises
    ------
    InputError
        If there is none.
    """
    bundles = {path.parent.name: path for root in reversed(results_roots()) for path in root.glob("*/frozen")}
    if suite not in bundles:
        raise InputError(f"no frozen bundle of a suite called {suite!r}: {nearest(suite, bundles)}")
    return bundles[suite]
