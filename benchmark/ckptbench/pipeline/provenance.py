"""From the store to the results folder: the tables of a plan, and who computed their cells.

Provenance lists every commit and machine that computed a cell of the tables, not the run that wrote them;
never a path or the name of a machine.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.files import write_text
from ckptbench.base.folders import commit
from ckptbench.base.types import Array, Cell, Computed, Key, Provenance
from ckptbench.networks.runs import read_record, soundness
from ckptbench.pipeline.feature_maps import feature_tables, map_tasks
from ckptbench.pipeline.plan import Plan
from ckptbench.pipeline.stages import fe_tasks, ft_tasks, probe_folds, score_tasks, tuning_folds
from ckptbench.results import Results, make_table, verify
from ckptbench.scores.tasks import score_rows
from ckptbench.truth.tasks import FETask, FTTask, unpack
from ckptbench.truth.validation import ProbeFold, TuningFold

PACKAGES = ("ckptbench", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "pillow")
FACTS = ("commit", "device", "instructions", "precision", "torch")
Row = dict[str, Any]


def collect(plan: Plan) -> Results:
    """What the store holds of a plan; cells that are not there yet are rows of status missing."""
    return _Collector(plan).results()


class _Collector:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.computed: Counter[tuple[str, ...]] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.correct: dict[str, list[Array]] = defaultdict(list)

    def results(self) -> Results:
        plan = self.plan
        fe, ft = fe_tasks(plan), ft_tasks(plan)
        tables = {
            "checkpoints": self._checkpoints(),
            "extraction": self._extraction(),
            "scores": self._scores(),
            "truth": self._truth([*fe, *ft]),
        }
        made = {name: make_table(name, rows) for name, rows in tables.items()}
        validation = list(self._validation([*probe_folds(plan), *tuning_folds(plan)]))
        spectra, embedding = feature_tables(plan, list(map_tasks(plan, fe, ft)))
        return Results(
            plan.suite,
            **made,
            correct={name: np.stack(rows) for name, rows in self.correct.items()},
            provenance=self._provenance(),
            validation=make_table("validation", validation) if validation else None,
            spectra=make_table("spectra", spectra),
            embedding=make_table("embedding", embedding),
        )

    def _count(self, stage: str, facts: Mapping[str, str], seconds: float) -> None:
        self.computed[(stage, *(str(facts.get(name) or "unknown") for name in FACTS))] += 1
        self.seconds[stage] += seconds

    def _read(self, stage: str, key: Key) -> Cell | None:
        cell = self.plan.store.read_cell(key)
        if cell is not None:
            self._count(stage, cell.computed, cell.seconds)
        return cell

    def _checkpoints(self) -> Iterator[Row]:
        for source in self.plan.sources:
            record = read_record(source.folder)
            machine = record.get("key", {})
            rows = {row["epoch"]: row for row in record.get("checkpoints", ())}
            sound = soundness(record, source.spec)
            for c in source.checkpoints:
                row = rows.get(c.epoch, {})
                if row:
                    self._count("pretrain", {**machine, "commit": row["commit"]}, row["seconds"])
                yield {
                    "source": source.name,
                    "epoch": c.epoch,
                    "digest": c.digest,
                    "architecture": c.architecture,
                    "source_accuracy": c.source_accuracy,
                    "train_loss": row.get("training_loss"),
                    "train_accuracy": row.get("training_accuracy"),
                    "sound": sound,
                    "instructions": machine.get("instructions", ""),
                    "precision": machine.get("precision", ""),
                }

    def _extraction(self) -> Iterator[Row]:
        for source in self.plan.sources:
            for target, split, examples in self.plan.splits(source):
                for c in source.checkpoints:
                    facts = self.plan.store.features_facts(source.recipe.key(c, examples))
                    if facts is not None:
                        where = {**facts["key"], "commit": facts.get("commit", "")}
                        self._count("extract", where, facts["seconds"])
                        yield {
                            "source": source.name,
                            "target": target,
                            "split": split,
                            "epoch": c.epoch,
                            "examples": len(examples),
                            "seconds": facts["seconds"],
                            "bytes": facts["bytes"],
                        }

    def _scores(self) -> Iterator[Row]:
        tasks = score_tasks(self.plan)
        yield from score_rows(tasks, self.plan.store)
        for task in tasks:
            for key in task.cell_keys():
                self._read("score", key)
        # A plugin that cannot even be imported has no cells; it is named where they would stand.
        for where, message in self.plan.broken.items():
            for source, target in self.plan.pairs:
                for c in source.checkpoints:
                    yield {
                        "source": source.name,
                        "target": target,
                        "epoch": c.epoch,
                        "selector": Path(where).stem,
                        "repeat": 0,
                        "status": "failed",
                        "message": message,
                        "origin": Path(where).name,
                    }

    def _truth(self, tasks: Iterable[FETask | FTTask]) -> Iterator[Row]:
        for task in tasks:
            stage = "FT" if isinstance(task, FTTask) else "FE"
            for key, protocol in zip(task.cell_keys(), task.protocols, strict=True):
                cell = self._read(stage, key)
                extra = cell.extra if cell else {}
                yield {
                    "source": task.checkpoint.run,
                    "target": task.target,
                    "protocol": protocol.name,
                    "goal": protocol.goal,
                    "epoch": task.checkpoint.epoch,
                    "seed": key["seed"],
                    "accuracy": cell.value if cell else None,
                    "balanced_accuracy": extra.get("balanced_accuracy"),
                    "status": cell.status if cell else "missing",
                    "message": cell.message if cell else "",
                    "seconds": cell.seconds if cell else None,
                    "device": _device(cell.computed) if cell else "",
                    "deviation": extra.get("deviation"),
                    "penalty": extra.get("penalty"),
                    "test_examples": extra.get("test_examples"),
                    "row": self._row(f"{task.checkpoint.run}|{task.target}", extra),
                }

    def _validation(self, tasks: Iterable[ProbeFold | TuningFold]) -> Iterator[Row]:
        """What is there: a suite need not be validated."""
        for task in tasks:
            cell = self._read("validation", task.cell_keys()[0])
            if cell is not None:
                yield {
                    "source": task.checkpoint.run,
                    "target": task.target,
                    "protocol": task.protocol_name,
                    "goal": task.goal,
                    "epoch": task.checkpoint.epoch,
                    "fold": task.fold,
                    "accuracy": cell.value,
                    "status": cell.status,
                    "message": cell.message,
                    "seconds": cell.seconds,
                    "device": _device(cell.computed),
                }

    def _row(self, pair: str, extra: Mapping[str, Any]) -> int:
        """Where the correctness of a cell's test examples stands among its pair's; -1 where none was kept."""
        if "correct" not in extra:
            return -1
        self.correct[pair].append(np.packbits(unpack(extra["correct"], extra["test_examples"])))
        return len(self.correct[pair]) - 1

    def _provenance(self) -> Provenance:
        computed = tuple(
            Computed(stage=stage, cells=cells, **dict(zip(FACTS, facts, strict=True)))
            for (stage, *facts), cells in sorted(self.computed.items())
        )
        seconds = {stage: round(spent, 1) for stage, spent in self.seconds.items()}
        return Provenance(self.plan.suite.name, self.plan.suite.digest, versions(), computed, seconds)


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers hang on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


DRAWN = ".drawn"


def is_drawn(results: Results, folder: Path) -> bool:
    """Whether the boards and figures in the folder are those of these results, drawn by the code that runs.

    Code with uncommitted changes always draws again.
    """
    try:
        if commit()[1] or not (folder / "report.html").is_file():
            return False
        return (folder / DRAWN).read_text() == _drawn(results, folder)
    except (OSError, InputError):
        return False


def note_drawn(results: Results, folder: Path) -> None:
    """Say that they are."""
    write_text(folder / DRAWN, _drawn(results, folder))


def _drawn(results: Results, folder: Path) -> str:
    """The code, the content of the results, and every file of the folder, whole."""
    tables = [table.to_csv(index=False) for table in results.tables.values()]
    correct = [(name, hashlib.sha256(rows.tobytes()).hexdigest()) for name, rows in results.correct.items()]
    about = [results.suite.model_dump_json(), repr(results.provenance)]
    return digest([commit(), *tables, *correct, *about, verify(folder)])


def _device(computed: Mapping[str, str]) -> str:
    """What a table calls it: the GPU's name, or cpu."""
    return computed.get("instructions", "") if computed.get("device") == "cuda" else "cpu"
