"""What a repeated run draws again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.fake_results import write_results

from ckptbench.pipeline import provenance
from ckptbench.pipeline.provenance import is_drawn, note_drawn
from ckptbench.results import Results


def test_only_what_changed_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: ("abc", False))
    write_results(tmp_path)
    results = Results.read(tmp_path)
    assert not is_drawn(results, tmp_path)
    note_drawn(results, tmp_path)
    assert not is_drawn(results, tmp_path)
    (tmp_path / "report.html").write_text("drawn")
    assert is_drawn(results, tmp_path)
    assert not is_drawn(replace(results, scores=results.scores.iloc[1:]), tmp_path)
    for other in (("abd", False), ("abc", True)):
        monkeypatch.setattr(provenance, "commit", lambda other=other: other)
        assert not is_drawn(results, tmp_path)
    monkeypatch.setattr(provenance, "commit", lambda: ("abc", False))
    (tmp_path / "truth.csv").write_text("changed")
    assert not is_drawn(results, tmp_path)
