"""The page of one answer of ``rank``."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
import pytest
from helpers.made_pages import Page

from ckptbench.pages.rank_page import write_rank_page


@pytest.fixture
def ranking() -> pd.DataFrame:
    nan = float("nan")
    return pd.DataFrame(
        {
            "rank": [1, 2, 3], "epoch": [10, 5, 0], "checkpoint": ["<b>10.pt", "5.pt", "0.pt"],
            "measured": [0.71, 0.68, nan], "measured_low": [0.69, 0.65, nan],
            "measured_high": [0.73, 0.71, nan], "tied": [True, True, False],
            "below": [0.0, 0.03, nan], "below_low": [0.0, -0.01, nan], "below_high": [0.0, 0.07, nan],
            "source_accuracy": [0.7, 0.5, nan],
        }
    )  # fmt: skip


def test_rank_page_says_the_pick_how_sure_and_draws(tmp_path: Path, ranking: pd.DataFrame) -> None:
    path = tmp_path / "rank.html"
    write_rank_page(
        path, ranking, {"Take": "<b>10.pt.", "Tied": "these two."}, {"data": "36 <i>"}, 10, "AUROC"
    )
    page = Page(path.read_text())
    assert "Take epoch 10" in page.words
    assert "Tied: these two." in page.words
    assert "3.0±4.0" in page.words
    assert "0.0±0.0" not in page.words
    assert "71.0±2.0" in page.words
    assert "data 36 <i>" in page.words
    assert html.escape("<b>10.pt") in path.read_text()
    assert "AUROC, %" in path.read_text()
    label = next(attributes["aria-label"] for tag, attributes in page.tags if tag == "svg") or ""
    assert "Epoch 10 is the pick, tied with 1 more; 2 of 3 checkpoints were measured." in label
    assert "Measured: epoch 5 68.0" in label


def test_nothing_measured_and_nothing_told(tmp_path: Path, ranking: pd.DataFrame) -> None:
    path = tmp_path / "rank.html"
    bare = ranking.drop(columns=["source_accuracy"]).assign(measured=float("nan"), below=float("nan"))
    write_rank_page(path, bare, {"Nothing here is told from guessing": "p = 0.3."}, {}, 10)
    page = Page(path.read_text())
    assert "Take epoch" not in page.words
    assert "measured, %" not in page.words
    assert not any(tag == "svg" for tag, _ in page.tags)
