"""Answers that were given before come back at once, and only while nothing they rest on has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ckptbench import Ranking, rank
from ckptbench.ranking import remembered
from ckptbench.ranking.options import Options


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    run, data = tmp_path / "run", tmp_path / "images"
    for path in (run / "epoch-1.pt", run / "epoch-2.pt", data / "a" / "1.png", data / "b" / "1.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    return run, data


def asked(run: object, data: object, **options: object) -> dict | None:
    return remembered.question(run, str(data), Options(**options))


def test_a_question_changes_with_what_it_rests_on(files: tuple[Path, Path]) -> None:
    run, data = files
    first = asked(run, data)
    assert first is not None
    assert asked(run, data) == first
    assert asked(run, data, metric="auroc") != first
    assert asked([run / "epoch-1.pt"], data) != first
    os.utime(run / "epoch-1.pt", (1, 1))
    second = asked(run, data)
    assert second != first
    (data / "a" / "2.png").write_bytes(b"2")
    assert asked(run, data) != second


def test_a_table_is_asked_about_with_its_images(files: tuple[Path, Path]) -> None:
    run, data = files
    table = data.parent / "a.csv"
    table.write_text("path,label\nimages/a/1.png,x\nimages/b/1.png,y\n")
    first = asked(run, table)
    (data / "a" / "1.png").write_bytes(b"other")
    assert first is not None
    assert asked(run, table) != first


def test_what_is_in_memory_or_not_there_is_not_remembered(files: tuple[Path, Path]) -> None:
    run, data = files
    assert asked([{"weight": 1}], data) is None
    assert asked(run, data, groups=["a", "b"]) is None
    assert asked(run / "no", data) is None
    assert remembered.question(run, (1, 2), Options()) is None


def test_a_folder_that_holds_itself_ends(files: tuple[Path, Path]) -> None:
    run, data = files
    (data / "a" / "loop").symlink_to(data)
    assert len(list(remembered.marks(data))) == 2
    assert asked(run, data) is not None


def test_an_answer_packs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2
    features = [rng.normal(size=(30, 3)) + 3 * labels[:, None] * k for k in (0, 1)]
    found = rank(features, data=labels, store=tmp_path, workers=1)
    again = Ranking.unpacked(json.loads(json.dumps(found.packed())))
    pd.testing.assert_frame_equal(again.table, found.table)
    assert (again.pick, again.tied, again.verdict, again.used, again.facts) == (
        found.pick, found.tied, found.verdict, found.used, found.facts,
    )  # fmt: skip
    np.testing.assert_allclose(again.measured, found.measured, atol=1e-7)


def test_a_second_call_of_the_command_imports_neither_torch_nor_scipy(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run, data = files
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2
    features = [rng.normal(size=(30, 3)) + 3 * labels[:, None] * k for k in (0, 1)]
    answer = rank(features, data=labels, store=tmp_path / "store", workers=1)
    code = (
        "import json, sys\n"
        "from ckptbench.base.store import Store\nfrom ckptbench.base.types import Cell\n"
        "from ckptbench.ranking import remembered\nfrom ckptbench.ranking.run import rank\n"
        f"packed = json.loads({json.dumps(answer.packed())!r})\n"
        "remembered.question = lambda *_: {'asked': 1}\n"
        "import ckptbench.ranking.run as run\nrun.question = remembered.question\n"
        f"Store({str(tmp_path / 'store')!r}).write_cell(Cell({{'asked': 1}}, 'ok', extra=packed))\n"
        f"sys.argv = ['ckptbench', 'rank', {str(run)!r}, '--arch', 'resnet18', '--data', {str(data)!r},\n"
        f"            '--store', {str(tmp_path / 'store')!r}]\n"
        "from ckptbench.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('torch', 'scipy', 'sklearn', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Take: epoch 1")
    assert done.stdout.splitlines()[-1] == "[]"
