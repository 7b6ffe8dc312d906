"""The answer of ``rank``: a table, a pick, what is tied with it, and sentences that say how sure it is."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ckptbench.base.text import listed, printable
from ckptbench.base.types import Checkpoint, Float
from ckptbench.ranking.options import METRIC_NAMES


@dataclass(kw_only=True)
class Ranking:
    """What ``rank`` found.

    Attributes
    ----------
    table : a row a checkpoint, best first: rank, epoch, checkpoint, measured with measured_low and
        measured_high (95 %, fractions), tied, below (how much less than the pick, with below_low and
        below_high, which hold together), source_accuracy, and a column for each selector that was used
    pick : the checkpoint to take
    tied : those that these data cannot tell from the pick, itself among them, in epoch order
    measured : checkpoints x examples: what each example contributes to the metric, in the order of the
        epochs of those that were measured
    verdict : heading -> sentence
    used : what the answer rests on: architecture, images, data, device, what was skipped
    """

    table: pd.DataFrame
    pick: Checkpoint
    tied: tuple[Checkpoint, ...]
    measured: Float
    verdict: dict[str, str]
    used: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.verdict = {heading: printable(sentence) for heading, sentence in self.verdict.items()}
        self.used = {heading: printable(sentence) for heading, sentence in self.used.items()}

    def to_html(self, path: str | Path) -> None:
        """Write a self-contained page with the answer."""
        from ckptbench.pages.rank_page import write_rank_page

        metric = METRIC_NAMES[self.facts.get("metric", "accuracy")]
        write_rank_page(path, self.table, self.verdict, self.used, self.pick.epoch, metric)

    def to_json(self) -> str:
        """Everything but ``measured``."""
        rows = json.loads(self.table.to_json(orient="records"))
        content = {
            "pick": {"epoch": self.pick.epoch, "checkpoint": name_of(self.pick)},
            "tied": [checkpoint.epoch for checkpoint in self.tied],
            "verdict": self.verdict,
            "used": self.used,
            **self.facts,
            "table": rows,
        }
        return json.dumps(content, indent=1)

    def packed(self) -> dict[str, Any]:
        """All of it as what JSON can hold; ``unpacked`` gives it back."""
        return {
            "table": {str(name): column.tolist() for name, column in self.table.items()},
            "pick": _packed(self.pick),
            "tied": [_packed(checkpoint) for checkpoint in self.tied],
            "measured": base64.b64encode(self.measured.astype("<f4").tobytes()).decode(),
            "shape": list(self.measured.shape),
            "verdict": self.verdict,
            "used": self.used,
            "facts": self.facts,
        }

    @classmethod
    def unpacked(cls, content: Mapping[str, Any]) -> Ranking:
        measured = np.frombuffer(base64.b64decode(content["measured"]), "<f4").astype(np.float64)
        return cls(
            table=pd.DataFrame(content["table"]),
            pick=_unpacked(content["pick"]),
            tied=tuple(map(_unpacked, content["tied"])),
            measured=measured.reshape(content["shape"]),
            verdict=content["verdict"],
            used=content["used"],
            facts=content["facts"],
        )

    def __repr__(self) -> str:
        said = "\n".join(f"{heading}: {sentence}" for heading, sentence in self.verdict.items())
        return f"{said}\n\n{self.table.head(5).round(4).to_string(index=False)}"

    def _repr_html_(self) -> str:
        from markupsafe import escape

        said = "".join(f"<p><b>{escape(h)}:</b> {escape(s)}</p>" for h, s in self.verdict.items())
        return said + self.table.head(10).to_html(index=False, float_format="{:.4f}".format)


def _packed(checkpoint: Checkpoint) -> dict[str, Any]:
    return {**asdict(checkpoint), "path": checkpoint.path and str(checkpoint.path)}


def _unpacked(content: dict[str, Any]) -> Checkpoint:
    return Checkpoint(**{**content, "path": content["path"] and Path(content["path"])})


def name_of(checkpoint: Checkpoint) -> str:
    return printable(checkpoint.path.name) if checkpoint.path else f"#{checkpoint.epoch}"


def epochs_in_words(epochs: Sequence[int]) -> str:
    """'epoch 4', 'epochs 4 and 5', 'epochs 4 to 9', 'epochs 4, 6 and 9'."""
    if len(epochs) == 1:
        return f"epoch {epochs[0]}"
    steps = {b - a for a, b in itertools.pairwise(epochs)}
    if len(epochs) > 3 and steps == {1}:
        return f"epochs {epochs[0]} to {epochs[-1]}"
    shown = [str(epoch) for epoch in epochs]
    if len(shown) > 12:
        return f"epochs {', '.join(shown[:10])} and {len(shown) - 10} more"
    return "epochs " + listed(shown)


def percent_of(share: float, least: float = 0.0) -> str:
    return f"{100 * min(1.0, max(least, share)):.1f} %"
