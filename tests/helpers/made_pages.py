"""What the tests of the pages share: a results folder, its features, and a reader of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from helpers.fake_results import fake_suite, write_results

from ckptbench.results import Results, make_table

NASTY = "<script>alert('$x_1$')</script>"
PROTOCOLS = (
    ("fe-tuned", "fe"), ("fe-raw", "fe"), ("fe-main", "fe-main"), ("fe-residual", "fe-residual"),
    ("ft-10", "ft"),
)  # fmt: skip


def write_pages(folder: Path, about: dict[str, Any] | None = None, **made: Any) -> Path:
    """`write_results` for a suite whose title needs escaping; ``about`` changes its fields."""
    protocols = made.setdefault("protocols", PROTOCOLS)
    suite = fake_suite(protocols, made.get("sources", 1), made.get("targets", 2))
    named = {"title": "Runs & targets <made up>", "note": "Simulated: believe nothing."}
    return write_results(folder, suite=suite.model_copy(update=named | (about or {})), **made)


def add_features(folder: Path, pairs: Sequence[tuple[str, str]], epochs: Sequence[int]) -> None:
    """Spectra, and maps of the first and the last epoch, with a class on either side."""
    spectra, maps = [], []
    for source, target in pairs:
        about = {"source": source, "target": target}
        for epoch in epochs:
            sigma = {"index": range(1, 7), "sigma": [6.0, 5, 4, 3, 2, 1.0 / (1 + epoch)]}
            spectra.append(pd.DataFrame({**about, "epoch": epoch, **sigma}))
        for epoch in (epochs[0], epochs[-1]):
            side = np.arange(40) % 2
            places = {"x": 10 * side + 0.1 * np.arange(40), "y": 0.2 * side, "label": side.astype(str)}
            maps.append(pd.DataFrame({**about, "epoch": epoch, "after": "", **places}))
    tables = {"spectra": pd.concat(spectra), "embedding": pd.concat(maps)}
    made = {name: make_table(name, table.reset_index(drop=True)) for name, table in tables.items()}
    replace(Results.read(folder), **made).write(folder)


class Page(HTMLParser):
    """Every element's tag and attributes, and the text outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
