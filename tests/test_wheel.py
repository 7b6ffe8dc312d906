"""The wheel, built, installed and used outside the clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

MINE = '''"""A score of mine."""


class Mine:
    """The trace of the features' second moments."""

    name = "mine"
    needs = ("features",)
    published = "higher"
    paper = ""

    def score(self, candidate):
        return float((candidate.matrix**2).mean())
'''


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the clone with an environment that has the wheel, and this one's dependencies."""
    place = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "capture_output": True}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place], cwd=root, **quiet
    )
    (wheel,) = place.glob("*.whl")
    assert wheel.stat().st_size < 5e6
    venv.create(place / "env", with_pip=False)
    (site,) = (place / "env").glob("lib/python*/site-packages")
    # A path, and not a site folder: an editable install of this environment's is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    install = ["install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", place / "env", *install], **quiet)
    (place / "work").mkdir()
    return place


@pytest.fixture(scope="module")
def ckptbench(installed: Path):
    def run(*arguments: object, code: int = 0) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CKPTBENCH_STORE")}
        done = subprocess.run(
            [installed / "env" / "bin" / "ckptbench", *map(str, arguments)],
            cwd=installed / "work", env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    ("what", "among"),
    [("suites", "zoo"), ("selectors", "logme"), ("extractors", "smallcnn")],
)
def test_what_is_shipped_is_listed(ckptbench, what, among):
    assert among in ckptbench("list", what)


def test_published_boards_are_read_and_left_alone(ckptbench, installed):
    (shipped,) = installed.glob("env/lib/python*/site-packages/ckptbench/_results/demo")
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    text = ckptbench("leaderboard", "demo", "--json")
    content, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    assert [row["selector"] for row in content["fe"]].count("logme") == 1
    assert "published results of demo" in text
    assert "logme" in ckptbench("compare", "logme", "last-epoch", "--suite", "demo")
    ckptbench("report", "demo")
    assert "<svg" in (installed / "work" / ".ckptbench" / "reports" / "demo" / "report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == before


def test_a_new_score_is_judged_on_the_shipped_bundle(ckptbench, installed):
    (installed / "work" / "mine.py").write_text(MINE)
    assert "mine, FE: place " in ckptbench("judge-selector", "mine.py", "--suite", "demo")
    assert "known: demo" in ckptbench("judge-selector", "mine.py", "--suite", "zo", code=2)


def test_checkpoints_are_ranked(ckptbench, installed):
    import torch

    from ckptbench.networks.architectures import find_architecture
    from ckptbench.plugins import load_plugins

    architecture = find_architecture("smallcnn:width=4", load_plugins("extractor"))
    folder = installed / "work" / "run"
    folder.mkdir()
    for epoch in range(3):
        torch.manual_seed(epoch)
        torch.save(architecture.build(5).state_dict(), folder / f"epoch-{epoch:04d}.pt")
    data = "digits?per_class=10&size=8"
    text = ckptbench("rank", "run", "--arch", "smallcnn:width=4", "--data", data)
    assert "epoch" in text
