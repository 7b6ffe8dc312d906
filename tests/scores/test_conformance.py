"""The conformance suite: every selector of the tree keeps to it, and each way to break it is found."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ckptbench.base.errors import InputError
from ckptbench.cli.app import app
from ckptbench.pipeline.check import check_file
from ckptbench.plugins import load_plugins
from ckptbench.scores.conformance import check
from ckptbench.scores.made_up import made_up
from ckptbench.scores.template import new

TREE = {name: spec for name, spec in load_plugins("selector").specs.items() if not spec.is_dear}


@pytest.mark.parametrize("name", TREE)
def test_every_selector_of_the_tree_passes(name):
    findings = check(TREE[name])
    assert [f"{f.test}: {f.message}" for f in findings if f.passed is False] == []
    assert [f.test for f in findings if f.message.startswith("not run")] == []


def test_what_selectors_of_the_tree_are_exempt_from():
    exempt = {name: spec.plugin.exempt for name, spec in TREE.items() if hasattr(spec.plugin, "exempt")}
    tests = {name: {line.partition(": ")[0] for line in lines} for name, lines in exempt.items()}
    baselines = {name: {"checkpoint facts"} for name in ("last-epoch", "source-accuracy", "chance")}
    assert tests == {"tmi": {"direction"}, "tsvd": {"direction"}, "kite": {"checkpoint facts"}, **baselines}


# What a plugin can do wrong: attributes and body of its class, the tests that fail, words of the message.
WRONG = {
    "nan": ("", "return float('nan')", {"finite"}, "nan"),
    "text": ("", "return 'high'", {"finite"}, "raises ValueError"),
    "unseeded": ("", "return GOOD + np.random.default_rng().random()", {"deterministic"}, "candidate.rng"),
    "undeclared": ("", "return GOOD + candidate.rng.random()", {"deterministic"}, "random = True"),
    "remembers": (
        "seen = []",
        "self.seen.append(1); return GOOD + len(self.seen)",
        {"deterministic"},
        "the second time",
    ),
    "first-row": ("", "return GOOD + 1e-3 * float(candidate.matrix[0, 0])", {"row order"}, "change places"),
    "in-place": ("", "candidate.features.sort(); return GOOD", {"input untouched"}, "writes into its input"),
    "forced": (
        "",
        "f = candidate.features; f.flags.writeable = True; f *= 0.5; return GOOD",
        {"input untouched"},
        "other values",
    ),
    "spectrum": (
        "",
        "candidate.spectrum.sigma2[:] = 0; return GOOD",
        {"input untouched"},
        "writes into its input",
    ),
    "float16": ("", "return GOOD + float(candidate.features.mean(axis=0).var())", {"dtypes"}, "float64"),
    "wide": (
        "",
        "n, d = candidate.features.shape\n        return GOOD if n >= d else math.inf",
        {"N < D"},
        "inf",
    ),
    "counts": (
        "",
        "return GOOD + float(np.exp(np.log(candidate.onehot.mean(axis=0)).mean()))",
        {"class numbers"},
        "with labels 5, 0, 3, 6, 2",
    ),
    "class-numbers": (
        "",
        "return GOOD + 1e-3 * float((candidate.labels * candidate.matrix[:, 0]).mean())",
        {"class numbers"},
        "with labels 5, 0, 3, 6, 2",
    ),
    "reads-truth": (
        "",
        "return GOOD + float(open(TRUTH).read())",
        {"conduct"},
        "truth.csv: a score is a function",
    ),
    "swallows": (
        "",
        "\n        try: return float(np.loadtxt(TRUTH))\n        except OSError: return GOOD",
        {"conduct"},
        "truth.csv: a score is a function",
    ),
    "forks": ("", "import os; os.fork(); return GOOD", {"conduct"}, "forks its process"),
    "moves": ("", "import os; os.chdir('/'); return GOOD", {"conduct"}, "changes the working directory"),
    "exits": ("", "raise SystemExit(2)", {"conduct"}, "raises SystemExit: 2"),
    "epoch": ("", "return float(candidate.checkpoint.epoch)", {"checkpoint facts"}, "under another epoch"),
    "accuracy": (
        "",
        "return GOOD + candidate.checkpoint.source_accuracy",
        {"checkpoint facts"},
        "under another epoch, source accuracy and run",
    ),
    "probs": ("", "return float(candidate.source_probs.max(axis=1).mean())", {"needs"}, "uses source_probs,"),
    "if-there": (
        "",
        "return GOOD if candidate.source is None else float(candidate.source.features.sum())",
        {"needs"},
        "uses source, which its `needs` do not declare",
    ),
    "labels": ("needs = ('features',)", "return GOOD", {"needs"}, "uses labels, which"),
    "constant-wide": (
        "",
        "n, d = candidate.features.shape\n        return GOOD if n >= d else 1.0",
        {"N < D"},
        "1 for every candidate: it cannot tell checkpoints apart",
    ),
    "turns-wide": (
        "",
        "n, d = candidate.features.shape\n        return GOOD if n >= d else -GOOD",
        {"N < D"},
        "higher should be better",
    ),
    "turns": ("", "return GOOD * (-1 if len(candidate.labels) == 90 else 1)", {"direction"}, "90 x 40"),
    "bounded": ("bounds = (0.5, 1)", "return GOOD", {"finite"}, "is outside its bounds [0.5, 1]"),
    "exempt": ("exempt = ('direction',)", "return GOOD", {"declaration"}, "should read 'TEST: REASON'"),
    "excused": ("exempt = ('declaration: no',)", "return GOOD", {"declaration"}, "with a test's name"),
    "divides": (
        "",
        "return GOOD + 1e-4 * float((1 / candidate.matrix.std(axis=0)).mean())",
        {"constant features"},
        "inf",
    ),
    "lonely": (
        "",
        "return GOOD / min(n - 1 for n in np.bincount(candidate.labels) if n)",
        {"one-member class"},
        "inf",
    ),
    "upside-down": ("", "return -GOOD", {"direction"}, "higher should be better"),
    "Upper Case": ("", "return GOOD", {"declaration"}, "lower-case"),
    "oracle": ("", "return GOOD", {"declaration"}, "every leaderboard"),
    "needs": ("needs = ('features', 'label')", "return 1.0", {"declaration"}, "needs 'label'"),
    "published": ("published = 'down'", "return GOOD", {"declaration"}, "'higher' nor 'lower'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_fault_is_found_and_named_and_is_one_failure(tmp_path, name):
    attributes, body, tests, words = WRONG[name]
    (tmp_path / "truth.csv").write_text("0.5")
    body = body.replace("TRUTH", repr(str(tmp_path / "truth.csv")))
    before = os.getcwd()
    (findings,) = check_file(_plugin(tmp_path, name, attributes, body)).values()
    failed = {f.test: f.message for f in findings if f.passed is False}
    assert set(failed) == tests
    assert words in " ".join(failed.values())
    assert os.getcwd() == before


def test_the_place_in_the_pool_is_no_score(tmp_path):
    body = "return np.arange(len(candidate))"
    (findings,) = check_file(_plugin(tmp_path, "arange", "", body, "score_pool")).values()
    (failed,) = [f for f in findings if f.passed is False]
    assert (failed.test, failed.message) == ("pool order", "2 becomes 0 in another pool order")


def test_a_file_that_reads_another_when_imported_is_refused(tmp_path):
    path = _plugin(tmp_path, "early", "", "return GOOD")
    (tmp_path / "truth.csv").write_text("0.5")
    path.write_text(path.read_text() + f"\n\nTRUTH = open({str(tmp_path / 'truth.csv')!r}).read()\n")
    with pytest.raises(InputError, match=r"a selector opens .*truth\.csv, which none may"):
        check_file(path)


def _plugin(folder: Path, name: str, attributes: str, body: str, method: str = "score") -> Path:
    """A score that passes every test, and one change to it."""
    good = "_good(candidate)"
    path = folder / "plugin.py"
    path.write_text(f'''"""A score."""

import math

import numpy as np


def _good(candidate):
    """1 - tr(S_w)/tr(S_t)."""
    f = candidate.matrix - candidate.matrix.mean(axis=0)
    sums = candidate.onehot.T @ f
    total = (f**2).sum()
    between = ((sums**2).sum(axis=1) / np.maximum(candidate.onehot.sum(axis=0), 1)).sum()
    return float(between / max(total, 1e-12))


class Score:
    name = {name!r}
    {attributes}

    def {method}(self, candidate):
        {body.replace("GOOD", good)}
''')
    return path


def test_random_scores_and_scores_without_labels_are_exempt_with_the_reason(tmp_path):
    path = _plugin(tmp_path, "draws", "random = True", "return GOOD + 1e-3 * candidate.rng.random()")
    found = {f.test: f for f in check_file(path)["draws"]}
    for test in ("row order", "class numbers"):
        assert found[test].passed is None
        assert "candidate.rng" in found[test].message
    assert found["direction"].passed


def test_a_score_of_the_weights_is_exempt_from_what_has_no_network(tmp_path):
    path = _plugin(tmp_path, "norms", "needs = ('weights',)", "return candidate.model()")
    assert [f.passed for f in check_file(path)["norms"]] == [True, None]


def test_a_pool_selector_gets_a_pool(tmp_path):
    pool = "return [_good(c) for c in candidate]"
    findings = check_file(_plugin(tmp_path, "pooled", "", pool, "score_pool"))["pooled"]
    assert all(f.passed for f in findings)
    (tmp_path / "b").mkdir()
    short = _plugin(tmp_path / "b", "short", "", "return [0.0]", "score_pool")
    assert "1 scores for 3" in {f.test: f.message for f in check_file(short)["short"]}["finite"]


def test_made_up_candidates_are_the_same_numbers_in_every_dtype():
    half, double = made_up(dtype=np.float16), made_up(dtype=np.float64)
    assert np.array_equal(half.features, double.features)
    assert (half.features.dtype, double.features.dtype) == (np.float16, np.float64)


# ----------------------------------------------------------------------------------- the template, the CLI


def test_other_kinds_have_templates_too(tmp_path):
    path = new("penalty", "my-own", tmp_path)
    assert "my-own" in load_plugins("penalty", [path]).specs
    with pytest.raises(InputError, match="no template of kind 'reader'"):
        new("reader", "my-own", tmp_path)


def test_the_template_passes_and_is_what_its_docstring_says(tmp_path):
    path = new("selector", "class-share", tmp_path)
    assert path == tmp_path / "class_share.py"
    (findings,) = check_file(path).values()
    assert {f.test for f in findings if not f.passed} == {"pool order"}

    candidate = made_up()
    spec = load_plugins("selector", [path])["class-share"]
    f, y = np.asarray(candidate.features, dtype=np.float64), candidate.labels
    m = f.mean(axis=0)
    between = sum((y == c).sum() * ((f[y == c].mean(axis=0) - m) ** 2).sum() for c in range(5))
    assert spec.make().score(candidate) == pytest.approx(between / ((f - m) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("logme", "'logme' is taken"),
        ("oracle", "every leaderboard"),
        ("random", "shadow the library 'random'"),
        ("scipy", "shadow the library 'scipy'"),
        ("timm", "shadow the library 'timm'"),
        ("My Score", "lower-case words"),
        ("../up", "lower-case words"),
    ],
)
def test_names_that_are_taken_are_refused(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        new("selector", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    path = new("selector", "mine", tmp_path)
    path.write_text("precious")
    with pytest.raises(InputError, match="already exists"):
        new("selector", "mine", tmp_path)
    assert path.read_text() == "precious"


def test_exit_codes_and_the_table(tmp_path):
    good, bad = _plugin(tmp_path, "good", "", "return GOOD"), tmp_path / "bad.py"
    run = CliRunner().invoke(app, ["check", str(good)])
    assert run.exit_code == 0
    assert len(re.findall(r"passed", run.output)) == 15

    bad.write_text(good.read_text().replace("'good'", "'bad'").replace("return _good", "return -_good"))
    run = CliRunner().invoke(app, ["check", str(bad), "--json"])
    assert run.exit_code == 1
    assert [f["test"] for f in json.loads(run.output)["bad"] if f["passed"] is False] == ["direction"]


@pytest.mark.parametrize("content", ["import nothing_of_this_name", "x = 1", "def broken(:"])
def test_what_is_no_plugin_ends_in_one_sentence(tmp_path, content):
    path = tmp_path / "odd.py"
    path.write_text(content)
    run = CliRunner().invoke(app, ["check", str(path)])
    assert run.exit_code == 2
    assert "odd.py" in run.stderr
    assert len(run.stderr.splitlines()) == 1
