"""The results folder: what is written comes back, and nothing that was changed since is believed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import edit, fake_suite, sign, write_results

from ckptbench.base.errors import InputError
from ckptbench.base.files import read_json, write_json
from ckptbench.results import COLUMNS, MANIFEST, Results, find_results, make_table, read_file, verify

PLACE = {"source": "run0", "target": "target0", "epoch": 3}
OTHERS = {
    "validation": make_table(
        "validation",
        [
            {
                **PLACE,
                "protocol": "probe",
                "goal": "fe",
                "fold": i,
                "accuracy": i / 3,
                "status": "ok",
                "seconds": 1.5,
            }
            for i in range(3)
        ],
    ),
    "spectra": make_table("spectra", [{**PLACE, "index": i, "sigma": 1 / 3**i} for i in range(1, 5)]),
    "embedding": make_table(
        "embedding", [{**PLACE, "after": "", "x": 0.1 * i, "y": -1e-9, "label": str(i)} for i in range(4)]
    ),
}
FILES = [*(f"{name}.csv" for name in COLUMNS), "correct.npz", "suite.json", "provenance.json"]


HOW = ["emptied", "truncated", "a row dropped", "the header alone", "a value changed", "a column renamed"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every table, a leaderboard and a figure."""
    folder = write_results(tmp_path_factory.mktemp("whole") / "fake", targets=1, epochs=5, examples=99)
    results = replace(Results.read(folder), **OTHERS)
    results.write(folder)
    results.attach(folder, "LEADERBOARD.md", "# τ\n")
    results.attach(folder, "figures/tau.svg", b"<svg/>")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """The same, to spoil."""
    copy = tmp_path / "fake"
    for name in (*verify(whole), MANIFEST):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((whole / name).read_bytes())
    return copy


def test_what_is_written_comes_back_to_the_bit(whole: Path, tmp_path: Path) -> None:
    results = Results.read(whole)
    rng = np.random.default_rng(0)
    scores = results.scores.assign(
        score=rng.normal(size=len(results.scores)) * 10.0 ** rng.integers(-300, 300)
    )
    scores.loc[:3, "score"] = [np.inf, -np.inf, np.nan, 5e-324]
    scores.loc[4, "message"] = 'a, "b"\nNA, c'
    replace(results, scores=scores).write(tmp_path / "a" / "b")
    again = Results.read(tmp_path / "a" / "b")
    for name, table in again.tables.items():
        expected = scores if name == "scores" else results.tables[name]
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert again.suite == results.suite
    assert again.provenance == results.provenance
    assert again.correct.keys() == results.correct.keys()
    for name, bits in again.correct.items():
        np.testing.assert_array_equal(bits, results.correct[name])


def test_equal_tables_give_equal_bytes(whole: Path, tmp_path: Path) -> None:
    Results.read(whole).write(tmp_path)
    for name in verify(tmp_path):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def damage(content: bytes, how: str) -> bytes:
    lines = content.split(b"\n")
    if how == "emptied":
        return b""
    if how == "truncated":
        return content[: len(content) * 2 // 3]
    if how == "a row dropped":
        return b"\n".join(lines[:1] + lines[2:])
    if how == "the header alone":
        return lines[0] + b"\n"
    if how == "a value changed":
        place = max(i for i, byte in enumerate(content) if chr(byte).isalnum())
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    assert how == "a column renamed"
    return content.replace(b"e", b"w", 1)


@pytest.mark.parametrize(
    ("name", "how"),
    [*product(FILES, HOW), *product([MANIFEST], ["emptied", "truncated", "a value changed"])],
)
def test_a_damaged_file_is_named(folder: Path, name: str, how: str) -> None:
    path = folder / name
    before = path.read_bytes()
    spoilt = damage(before, how)
    assert spoilt != before
    path.write_bytes(spoilt)
    with pytest.raises(InputError, match=re.escape(path.stem if name == MANIFEST else name)):
        Results.read(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"the results folder .* lacks {name}"):
        Results.read(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results folder"):
        Results.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("truth", lambda t: t.drop(columns="seed"), "lacks the column 'seed'"),
        ("truth", lambda t: t.assign(sed=1), "has a column 'sed': did you mean 'seed'"),
        ("truth", lambda t: pd.concat([t, t[:1]]), "holds a cell twice: source run0, target target0"),
        ("spectra", lambda t: pd.concat([t, t[:1]]), "holds a cell twice: source run0, target target0"),
        ("scores", lambda t: t.assign(score="high"), "column 'score'"),
        ("scores", lambda t: t.assign(epoch=1.5), "column 'epoch'"),
        ("truth", lambda t: t.assign(seed=np.nan), "column 'seed'"),
        ("truth", lambda t: t.assign(row=t["row"] + 1000), "asks for row"),
        ("checkpoints", lambda t: t[1:], "run0 epoch 0 is not in checkpoints.csv"),
    ],
)
def test_tables_that_cannot_be_right_are_refused(folder: Path, name: str, change: object, said: str) -> None:
    edit(folder, name, change)  # the manifest fits: somebody has written it so
    with pytest.raises(InputError, match=said):
        Results.read(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("suite.json", '{"name": "x"}', r"suite\.json: title: Field required"),
        ("suite.json", "what", r"suite\.json: Invalid JSON"),
        ("provenance.json", '{"suite": "x"}', r"provenance\.json: suite_digest: Field required"),
        ("correct.npz", "what", r"correct\.npz cannot be read"),
    ],
)
def test_files_of_something_else_are_refused(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content)
    sign(folder, name)
    with pytest.raises(InputError, match=said):
        Results.read(folder)


def test_correctness_is_never_unpickled(folder: Path) -> None:
    np.savez(folder / "correct.npz", **{"run0|target0": np.array([{}], dtype=object)})
    sign(folder, "correct.npz")
    with pytest.raises(InputError, match=r"correct\.npz cannot be read"):
        Results.read(folder)


def test_tables_that_contradict_each_other_are_not_written(folder: Path) -> None:
    results = Results.read(folder)
    with pytest.raises(InputError, match="holds a cell twice"):
        replace(results, truth=pd.concat([results.truth, results.truth[:1]])).write(folder)
    verify(folder)


def test_new_tables_leave_nothing_that_was_derived_from_the_old(folder: Path) -> None:
    (folder / "frozen").mkdir()
    (folder / "frozen" / "frozen.json").write_text("{}")
    replace(Results.read(folder), **dict.fromkeys(OTHERS)).write(folder)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "scores.csv", "truth.csv", "checkpoints.csv", "extraction.csv", "correct.npz", "suite.json",
        "provenance.json", MANIFEST, "frozen.json",
    }  # fmt: skip
    assert Results.read(folder).spectra is None


def test_a_write_that_fails_leaves_the_old_tables_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results.read(folder)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        replace(results, spectra=None).write(folder)
    monkeypatch.undo()
    assert len(verify(folder)) == len(FILES) + 2
    assert not list(folder.glob(".*"))


def test_a_write_that_is_cut_off_half_way_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, rename, done = Results.read(folder), Path.replace, []

    def cut(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        replace(results, scores=results.scores.assign(score=0.0)).write(folder)
    with pytest.raises(InputError, match=r"scores\.csv was changed"):
        Results.read(folder)
    monkeypatch.undo()
    results.write(folder)
    Results.read(folder)


def test_derived_files_are_checked_when_they_are_read(folder: Path) -> None:
    assert read_file(folder, "LEADERBOARD.md").decode() == "# τ\n"
    (folder / "LEADERBOARD.md").write_text("mine is best")
    with pytest.raises(InputError, match=r"LEADERBOARD\.md was changed"):
        read_file(folder, "LEADERBOARD.md")
    with pytest.raises(InputError, match=r"LEADERBOARD\.md was changed"):
        verify(folder)
    with pytest.raises(InputError, match=r"lacks agreement\.csv"):
        read_file(folder, "agreement.csv")
    (folder / "agreement.csv").write_text("tau\n1\n")
    with pytest.raises(InputError, match=r"manifest\.json does not list agreement\.csv"):
        read_file(folder, "agreement.csv")


def test_a_figure_that_is_gone_leaves_the_manifest(folder: Path) -> None:
    (folder / "figures" / "tau.svg").unlink()
    Results.attach(folder, "figures/cost.svg", "<svg/>")
    assert "figures/tau.svg" not in verify(folder)
    (folder / "scores.csv").unlink()
    Results.attach(folder, "figures/cost.svg", "<svg></svg>")
    with pytest.raises(InputError, match=r"lacks scores\.csv"):
        Results.read(folder)


@pytest.mark.parametrize("name", ["../other.md", "/tmp/other.md", "figures/../../other.md"])
def test_names_never_leave_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="not inside the folder"):
        Results.attach(folder, name, "x")
    write_json(folder / MANIFEST, {"files": {**read_json(folder / MANIFEST)["files"], name: "0" * 64}})
    with pytest.raises(InputError, match="not inside the folder"):
        Results.read(folder).write(folder)


def test_local_results_come_before_published_ones(folder: Path, tmp_path: Path, root: Path) -> None:
    store, committed = tmp_path / "store", root / "results" / "demo"
    assert find_results("demo", store) == (committed, "published")
    with pytest.raises(InputError, match=r"no local or published results .* 'dmo': did you mean 'demo'"):
        find_results("dmo", store)
    with pytest.raises(InputError, match="no local results of a suite called 'demo'"):
        find_results("demo", store, "local")
    with pytest.raises(InputError, match="no results of a suite called 'demo' in nowhere"):
        find_results("demo", store, "nowhere")
    Results.read(folder).write(store / "results" / "demo")
    assert find_results("somewhere/demo.toml", store) == (store / "results" / "demo", "local")
    assert find_results("demo", store, "published") == (committed, "published")
    assert find_results("demo", store, root / "results") == (committed, "local")


def test_committed_results_are_whole(root: Path) -> None:
    folders = sorted(path.parent for path in (root / "results").glob("*/truth.csv"))
    assert folders
    for folder in folders:
        Results.read(folder)
        files = {
            path
            for path in folder.rglob("*")
            if path.is_file() and path.name not in ("report.html", ".drawn")
        }
        apart = folder / "frozen", folder / "studies"  # each has digests or provenance of its own
        others = {path for path in files if any(map(path.is_relative_to, apart))} | {folder / MANIFEST}
        assert files - others == {folder / name for name in verify(folder)}


def test_no_other_module_reads_the_tables(root: Path) -> None:
    package = root / "benchmark" / "ckptbench"
    # Anyone's table or list of images, the record, and the components of a simulation are none of these.
    others = {f"agreement/{name}.py" for name in ("outside", "record", "simulate")}
    others |= {"ranking/reading.py", "studies/bert.py"}
    allowed = {"results.py", *others}
    found = [
        f"{path.relative_to(package)}: {word}"
        for path in package.rglob("*.py")
        if path.relative_to(package).as_posix() not in allowed
        for word in ("read_csv(", '"suite.json"', '"provenance.json"', '"correct.npz"')
        if word in path.read_text()
    ]
    assert not found


def test_a_suite_with_a_field_of_another_version_is_a_sentence(folder: Path) -> None:
    suite = {**fake_suite((("tuned", "fe"),)).model_dump(mode="json"), "colour": "red"}
    (folder / "suite.json").write_text(json.dumps(suite))
    sign(folder, "suite.json")
    with pytest.raises(InputError, match=r"suite\.json: unknown key 'colour'"):
        Results.read(folder)
