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
import pandas as pd

from ckptbench.agreement.sanity import EDGE
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
MEASURED = {"balanced_accuracy", "deviation", "penalty", "test_examples"}  # of a truth, beside accuracy
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
        validation = list(self._validation([*probe_folds(plan), *tuning_folds(plan)]))
        spectra, embedding = feature_tables(plan, list(map_tasks(plan, fe, ft)))
        rows: dict[str, pd.DataFrame | Iterable[Row]] = {
            "checkpoints": self._checkpoints(), "extraction": self._extraction(), "scores": self._scores(),
            "truth": self._truth([*fe, *ft]), "spectra": spectra, "embedding": embedding,
        }  # fmt: skip
        tables = {name: make_table(name, found) for name, found in rows.items()}
        computed = tuple(
            Computed(stage=stage, cells=cells, **dict(zip(FACTS, facts, strict=True)))
            for (stage, *facts), cells in sorted(self.computed.items())
        )
        seconds = {stage: round(spent, 1) for stage, spent in self.seconds.items()}
        return Results(
            plan.suite,
            **tables,
            correct={name: np.stack(rows) for name, rows in self.correct.items()},
            provenance=Provenance(plan.suite.name, plan.suite.digest, versions(), computed, seconds),
            validation=make_table("validation", validation) if validation else None,
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
            trained = {row["epoch"]: row for row in record.get("checkpoints", ())}
            about = {name: machine.get(name, "") for name in ("instructions", "precision")}
            about["sound"] = soundness(record, source.spec)
            for c in source.checkpoints:
                row = trained.get(c.epoch, {})
                if row:
                    self._count("pretrain", {**machine, "commit": row["commit"]}, row["seconds"])
                yield about | {
                    "source": source.name, "epoch": c.epoch, "digest": c.digest,
                    "architecture": c.architecture, "source_accuracy": c.source_accuracy,
                    "train_loss": row.get("training_loss"), "train_accuracy": row.get("training_accuracy"),
                }  # fmt: skip

    def _extraction(self) -> Iterator[Row]:
        for source in self.plan.sources:
            for target, split, examples in self.plan.splits(source):
                for c in source.checkpoints:
                    facts = self.plan.store.features_facts(source.recipe.key(c, examples))
                    if facts is not None:
                        where = {**facts["key"], "commit": facts.get("commit", "")}
                        self._count("extract", where, facts["seconds"])
                        yield {
                            "source": source.name, "target": target, "split": split, "epoch": c.epoch,
                            "examples": len(examples), "seconds": facts["seconds"], "bytes": facts["bytes"],
                        }  # fmt: skip

    def _scores(self) -> Iterator[Row]:
        tasks = score_tasks(self.plan)
        yield from score_rows(tasks, self.plan.store)
        for task in tasks:
            for key in task.cell_keys():
                self._read("score", key)
        # A plugin that cannot even be imported has no cells; it is named where they would stand.
        for where, message in self.plan.broken.items():
            about = {"selector": Path(where).stem, "repeat": 0, "status": "failed", "message": message}
            for source, target in self.plan.pairs:
                for c in source.checkpoints:
                    place = {"source": source.name, "target": target, "epoch": c.epoch}
                    yield place | about | {"origin": Path(where).name}

    def _truth(self, tasks: Iterable[FETask | FTTask]) -> Iterator[Row]:
        for task in tasks:
            stage = "FT" if isinstance(task, FTTask) else "FE"
            pair = {"source": task.checkpoint.run, "target": task.target}
            for key, protocol in zip(task.cell_keys(), task.protocols, strict=True):
                row = pair | {
                    "protocol": protocol.name, "goal": protocol.goal, "epoch": task.checkpoint.epoch,
                    "seed": key["seed"], "status": "missing", "row": -1,
                }  # fmt: skip
                cell = self._read(stage, key)
                if cell is not None:
                    row |= _of_cell(cell) | {name: cell.extra[name] for name in MEASURED & cell.extra.keys()}
                    row["message"] = cell.message or EDGE * bool(cell.extra.get("edge"))
                    row["row"] = self._keep("|".join(pair.values()), cell.extra)
                yield row

    def _validation(self, tasks: Iterable[ProbeFold | TuningFold]) -> Iterator[Row]:
        """What is there: a suite need not be validated."""
        for task in tasks:
            cell = self._read("validation", task.cell_keys()[0])
            if cell is not None:
                yield {
                    "source": task.checkpoint.run, "target": task.target, "protocol": task.protocol_name,
                    "goal": task.goal, "epoch": task.checkpoint.epoch, "fold": task.fold,
                } | _of_cell(cell)  # fmt: skip

    def _keep(self, pair: str, extra: Mapping[str, Any]) -> int:
        """Where the correctness of a cell's test examples stands among its pair's; -1 where none was kept."""
        if "correct" not in extra:
            return -1
        self.correct[pair].append(np.packbits(unpack(extra["correct"], extra["test_examples"])))
        return len(self.correct[pair]) - 1


def _of_cell(cell: Cell) -> Row:
    """The columns that every measured accuracy has; a GPU goes by its name."""
    where = cell.computed
    device = where.get("instructions", "") if where.get("device") == "cuda" else "cpu"
    facts = {"accuracy": cell.value, "status": cell.status, "message": cell.message}
    return facts | {"seconds": cell.seconds, "device": device}


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
