"""What ``ckptbench`` exports: each name is there, typed as imported, and plugins build on nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ckptbench


def test_every_exported_name_is_there_and_is_the_one_that_type_checkers_see() -> None:
    tree = ast.parse(Path(ckptbench.__file__).read_text())
    typed = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ckptbench.")
        for alias in node.names
    }
    typed["judge"] = typed.pop("judge_table")
    assert {name: (f"ckptbench.{home}", there) for name, (home, there) in ckptbench._HOME.items()} == typed
    assert set(ckptbench.__all__) == {*typed, "__version__"} == set(dir(ckptbench))
    for name in ckptbench.__all__:
        assert getattr(ckptbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ckptbench.nothing  # type: ignore[attr-defined]


def test_plugins_import_ckptbench_alone(root: Path) -> None:
    folders = ("selectors", "extractors", "benchmark/ckptbench/truth/penalties")
    files = [path for folder in folders for path in (root / folder).glob("*.py")]
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not (name or "").startswith("ckptbench."), f"{path.name} imports {name}"
