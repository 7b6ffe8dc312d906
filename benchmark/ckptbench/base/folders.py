"""Where the shipped files are, in the source tree or the wheel, and at which commit the code is."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATES = PACKAGE / "templates"
TREE = PACKAGE.parents[1]
IN_TREE = (TREE / "benchmark" / "ckptbench").is_dir()  # else what lies beside the package is other people's


def shipped(name: str) -> list[Path]:
    """A folder of the source tree (``benchmark/suites``, ``selectors``, ``results``) or of the wheel."""
    folder = TREE / name if IN_TREE else PACKAGE / f"_{Path(name).name}"
    return [folder] if folder.is_dir() else []


def plugin_folders(plural: str) -> list[Path]:
    """Of the plugins of one kind, a file each: at the top of the tree, or inside the package."""
    inside = {"penalties": "truth/penalties", "readers": "data/readers", "objectives": "networks/objectives"}
    return [PACKAGE / inside[plural]] if plural in inside else shipped(plural)


def results_roots() -> list[Path]:
    """Of published results, a folder for each suite: the shipped ones, then those in the current folder."""
    return list(dict.fromkeys([*shipped("results"), Path("results").absolute()]))


@cache
def commit() -> tuple[str, bool]:
    """(commit, changed since) of the checkout this code runs from; ("", False) for an installed wheel."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Results are what a run writes; they do not make the code that wrote them another.
        changed = git("status", "--porcelain", "--", ":/", ":(exclude,top)results")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "", False
