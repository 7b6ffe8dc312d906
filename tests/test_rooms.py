"""Who may import whom: one way only, no cycle, no plugin imported by name, no torch where tables are read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = [
    {"base"},
    {"suites", "kinds", "plugins"},
    {"data", "results", "numerics"},
    {"networks", "agreement"},
    {"scores", "truth", "pages"},
    {"pipeline"},
    {"studies"},
    {"ranking"},
    {"monitor"},
    {"cli"},
    {"__main__"},
]
RANK = {room: n for n, rooms in enumerate(LAYERS) for room in rooms}
PLUGIN_FOLDERS = ("data/readers", "truth/penalties", "networks/objectives")


def package() -> Path:
    import ckptbench

    return Path(ckptbench.__file__).parent


def imports(path: Path) -> set[str]:
    """What a file imports of ours, wherever in the file, but for the sake of types alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ckptbench"):
            module = (node.module or "").removeprefix("ckptbench").removeprefix(".")
            found |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("ckptbench.") for a in node.names if a.name.startswith("ckptbench.")
            }
    return found


def room_of(module: str) -> str:
    return module.partition(".")[0]


def own_files() -> list[Path]:
    files = [path for path in package().rglob("*.py") if path != package() / "__init__.py"]
    return [
        path
        for path in files
        if not any(path.parent == package() / folder for folder in PLUGIN_FOLDERS)
        or path.name == "__init__.py"
    ]


def test_rooms_import_only_from_the_layers_below() -> None:
    wrong = []
    for path in own_files():
        relative = path.relative_to(package()).with_suffix("")
        room = relative.parts[0]
        assert room in RANK, f"{room} is in no layer"
        for module in imports(path):
            other = room_of(module)
            if other in RANK and other != room and RANK[other] >= RANK[room]:
                wrong.append(f"{relative} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_modules_of_a_room_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path in own_files():
        name = ".".join(path.relative_to(package()).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        graph[name] = {
            (node.module or "").removeprefix("ckptbench.")
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ckptbench.")
        }
    state: dict[str, int] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert state.get(name) != 1, " -> ".join((*way, name))
        if name in state or name not in graph:
            return
        state[name] = 1
        for other in graph[name]:
            visit(other, (*way, name))
        state[name] = 2

    for name in graph:
        visit(name, ())


def test_nothing_imports_a_plugin_by_name() -> None:
    for path in own_files():
        for module in imports(path):
            for folder in PLUGIN_FOLDERS:
                prefix = folder.replace("/", ".") + "."
                assert not f"{module}.".startswith(prefix) or module == prefix[:-1], (
                    f"{path.name} imports {module}"
                )


@pytest.mark.parametrize("room", ["agreement", "results", "pages", "scores", "numerics"])
def test_rooms_of_tables_load_no_torch(room: str) -> None:
    names = [
        "ckptbench." + ".".join(path.relative_to(package()).with_suffix("").parts).removesuffix(".__init__")
        for path in own_files()
        if path.relative_to(package()).parts[0].removesuffix(".py") == room
    ]
    code = (
        f"import sys, {', '.join(sorted(names))}; assert not {{'torch', 'torchvision'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
