"""Plugins: three ways in, clashes and broken files named, parameters, and a light `import ckptbench`."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ckptbench
from ckptbench import plugins
from ckptbench.base.errors import InputError
from ckptbench.base.folders import plugin_folders
from ckptbench.plugins import load_plugins

SELECTOR = """
class Mine:
    name = "{name}"
    k: int = 5
    share: float = 0.5
    centre: bool = False
    most: int | None = None
    scale: str = "raw"

    def score(self, candidate):
        return float(self.k)
"""
FEATURES, LABELS = np.arange(12.0).reshape(6, 2), np.array([0, 1] * 3)


def write(folder: Path, text: str = SELECTOR, name: str = "mine", file: str = "mine_file.py") -> Path:
    path = folder / file
    path.write_text(text.replace("{name}", name))
    return path


# The layout.


def test_the_plugin_folders_shadow_no_module(root: Path) -> None:
    """A selectors/ package at the root would take the place of the standard library's selectors."""
    assert not list(root.glob("selectors/__init__.py")) + list(root.glob("extractors/__init__.py"))
    code = "import asyncio, subprocess, selectors; selectors.DefaultSelector; asyncio.run(asyncio.sleep(0))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True)


@pytest.mark.parametrize("kind", ["selectors", "extractors"])
def test_no_plugin_file_is_called_like_a_library(root: Path, kind: str) -> None:
    libraries = sys.stdlib_module_names | set(importlib.metadata.packages_distributions())
    names = {path.stem for path in root.glob(f"{kind}/*.py")}
    assert names
    assert not names & libraries


@pytest.mark.parametrize(
    "code",
    [
        "import ckptbench",
        "import ckptbench.plugins, ckptbench.suites, ckptbench.base.store, ckptbench.pipeline.executor",
        "import ckptbench.agreement.track, ckptbench.pages.leaderboard",
        "from ckptbench.plugins import load_plugins; load_plugins('selector').select(['*'])",
    ],
)
def test_importing_loads_no_torch(code: str) -> None:
    check = "import sys; assert not {'torch', 'torchvision'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True)


def test_help_answers_without_heavy_modules() -> None:
    code = """
import sys
sys.argv = ["ckptbench", "--help"]
from ckptbench.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {"torch", "torchvision", "pandas", "scipy", "sklearn", "matplotlib"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "rank" in done.stdout


# Three ways in.


def test_a_file_or_folder_is_enough(tmp_path: Path) -> None:
    path = write(tmp_path)
    write(tmp_path, name="private", file="_not_a_plugin.py")
    for given in (path, tmp_path):
        registry = load_plugins("selector", [given])
        assert "mine" in registry.specs
        assert "logme" in registry.specs
        assert "private" not in registry.specs
    assert registry["mine"].origin == "mine_file.py"
    assert registry["logme"].origin == "ckptbench"
    assert ckptbench.score("mine", FEATURES, LABELS, plugins=[str(path)], k=7) == 7.0


def test_the_environment_is_a_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setenv("CKPTBENCH_PLUGINS", os.pathsep.join([str(tmp_path), ""]))
    assert "mine" in load_plugins("selector").specs
    assert "mine" not in load_plugins("extractor").specs


@pytest.mark.parametrize("target", ["their_scores", "their_scores:Mine"])
def test_an_entry_point_is_a_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    write(tmp_path, file="their_scores.py")
    facts = tmp_path / "their_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[ckptbench.selectors]\nscores = {target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_scores", raising=False)
    spec = load_plugins("selector")["mine:k=3"]
    assert spec.origin == "entry:ckptbench.selectors:scores"
    assert spec.make().score(None) == 3.0
    # A worker has nothing but the spec.
    assert type(spec)(**{**vars(spec), "params": (("k", 4),)}).make().score(None) == 4.0
    monkeypatch.delitem(sys.modules, "their_scores")


def test_two_plugins_of_one_name_are_an_error_that_names_both_places(tmp_path: Path) -> None:
    one, other = write(tmp_path, file="one.py"), write(tmp_path, file="other.py")
    with pytest.raises(InputError, match="two selectors are called 'mine'") as caught:
        load_plugins("selector", [tmp_path])
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)
    with pytest.raises(InputError, match=r"(?s)'logme'.*selectors/logme.py.*third.py"):
        load_plugins("selector", [write(tmp_path, name="logme", file="third.py")])
    twice = write(tmp_path, SELECTOR + SELECTOR.replace("Mine", "Other"), file="twice.py")
    with pytest.raises(InputError, match="two selectors are called 'mine'"):
        load_plugins("selector", [twice])


def test_one_file_given_twice_and_one_class_of_two_names_are_one_plugin(tmp_path: Path) -> None:
    path = write(tmp_path, SELECTOR + "\nAlias = Mine\n")
    assert "mine" in load_plugins("selector", [path, tmp_path, path]).specs


# Broken files.


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit('done')", "SystemExit: done"),
        ("class A:\n    name = 'a'\n    k: 'Nothing' = 1\n    def score(self, c): return 1.0\n", "NameError"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_runs(tmp_path: Path, text: str, why: str) -> None:
    broken, good = write(tmp_path, text, file="broken.py"), write(tmp_path)
    registry = load_plugins("selector", [broken, good])
    assert why in registry.broken[str(broken)]
    assert "mine" in registry.specs
    assert "logme" in registry.specs
    with pytest.raises(InputError, match=r"no selector is called 'a': .*broken.py cannot be loaded"):
        registry["a"]


def test_a_module_that_fails_is_taken_out_again(tmp_path: Path) -> None:
    path = write(tmp_path, "1 / 0", file="half.py")
    assert "ZeroDivisionError" in load_plugins("selector", [path]).broken[str(path)]
    assert not [name for name in sys.modules if name.startswith("ckptbench_plugin_half")]
    write(tmp_path, file="half.py")
    assert "mine" in load_plugins("selector", [path]).specs


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no plugin file or folder"):
        load_plugins("selector", [tmp_path / "nothing.py"])


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, file="notes.txt")
    assert str(path) in load_plugins("selector", [path]).broken


def test_dataclasses_with_postponed_annotations_work(tmp_path: Path) -> None:
    """They look up their own module in sys.modules while it is being executed."""
    text = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class _Part:
    weight: float | None = None

class Mine:
    name = "mine"
    k: int = 5

    def score(self, candidate):
        return _Part(float(self.k)).weight
"""
    registry = load_plugins("selector", [write(tmp_path, text)])
    assert registry.broken == {}
    assert registry["mine:k=2"].make().score(None) == 2.0


# Parameters.


def test_parameters_take_the_types_they_declare(tmp_path: Path) -> None:
    mine = load_plugins("selector", [write(tmp_path)])["mine:k=3,share=0.25,centre=true,most=9,scale=std"]
    assert dict(mine.params) == {"k": 3, "share": 0.25, "centre": True, "most": 9, "scale": "std"}
    assert mine.label == "mine:centre=True,k=3,most=9,scale=std,share=0.25"
    assert {type(value) for _, value in mine.params} == {int, float, bool, str}
    made = mine.make()
    assert (made.k, made.share, made.centre, made.most, made.scale) == (3, 0.25, True, 9, "std")
    assert mine.with_params("most=none,k=5").label == "mine:centre=True,scale=std,share=0.25"


def test_a_default_value_is_no_other_selector(tmp_path: Path) -> None:
    registry = load_plugins("selector", [write(tmp_path)])
    assert registry["mine:k=5"] == registry["mine"]
    assert [spec.label for spec in registry.select(["mine", "mine:k=5", "mine:k=6"])] == ["mine", "mine:k=6"]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("mine:k=many", "mine: k='many' is no int"),
        ("mine:centre=perhaps", "mine: centre='perhaps' is no bool"),
        ("mine:share=", "mine: share='' is no float"),
        ("mine:most=x", r"mine: most='x' is no int \| None"),
        ("mine:shares=1", "mine has no parameter 'shares': did you mean 'share'?"),
        ("mine:k", "parameter 'k' should read name=value"),
        ("mime", "no selector is called 'mime': did you mean 'mine'?"),
    ],
)
def test_wrong_parameters_are_one_sentence(tmp_path: Path, label: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_plugins("selector", [write(tmp_path)])[label]


def test_a_star_means_all_in_all_their_readings(tmp_path: Path) -> None:
    labels = [spec.label for spec in load_plugins("selector", [write(tmp_path)]).select(["*"])]
    assert {"mine", "mine:scale=std", "logme", "logme:scale=std", "last-epoch"} <= set(labels)
    assert {"logme:reading=code", "fm-logme:batch=128"} <= set(labels)
    assert "last-epoch:scale=std" not in labels


def test_another_source_is_another_plugin(tmp_path: Path) -> None:
    first = load_plugins("selector", [write(tmp_path)])["mine"]
    (tmp_path / "sub").mkdir()
    same = load_plugins("selector", [write(tmp_path / "sub")])["mine"]
    changed = load_plugins("selector", [write(tmp_path / "sub", SELECTOR + "\n# changed\n", file="c.py")])
    assert first.digest == same.digest
    assert first.digest != changed["mine"].digest


FUSION = (
    "class A:\n    name = 'fusion'\n    members = ('mine:k=2', 'logme')\n    def score(self, c): return 1.0\n"
)


def test_a_fusion_is_another_plugin_when_a_member_is(tmp_path: Path) -> None:
    fusion, member = write(tmp_path, FUSION, file="fusion.py"), write(tmp_path)
    (tmp_path / "sub").mkdir()
    changed = write(tmp_path / "sub", SELECTOR + "\n# changed\n")
    digests = {load_plugins("selector", [fusion, one])["fusion"].digest for one in (member, changed)}
    assert len(digests) == 2
    assert "no selector is called 'mine'" in load_plugins("selector", [fusion]).broken[str(fusion)]


def test_extractors_of_the_tree_are_known_without_being_executed() -> None:
    files = [str(path) for folder in plugin_folders("extractors") for path in sorted(folder.glob("*.py"))]
    assert files
    for file in files:
        read = [name for name, _ in plugins._names("extractor", file)]
        assert read == [plugin.name for plugin in plugins._classes("extractor", file)]
    code = (
        "import sys; from ckptbench.networks.architectures import find_architecture\n"
        "from ckptbench.plugins import load_plugins\n"
        "find_architecture('smallcnn', load_plugins('extractor')); sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
