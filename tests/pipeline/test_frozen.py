"""The frozen benchmark: what is written, what is refused, and that a new score is placed as it should be."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import DIGEST, edit, sign, write_results
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from typer.testing import CliRunner

from ckptbench.agreement.tables import agreement_table
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Checkpoint
from ckptbench.cli.app import app
from ckptbench.pipeline.arrays import Archive, decode, encode
from ckptbench.pipeline.bundle import load_frozen
from ckptbench.pipeline.executor import run_tasks
from ckptbench.pipeline.freeze import freeze
from ckptbench.pipeline.judge_selector import judge_selector
from ckptbench.plugins import load_plugins
from ckptbench.results import Results, make_table
from ckptbench.scores.made_up import made_up
from ckptbench.scores.tasks import CandidateFiles, pair_tasks, score_rows

N, D, C, EPOCHS = 60, 12, 3, 7
ROWS = 20
SELECTORS = ("logme", "ridge-loo:scale=std", "leep", "gram-transfer", "ncti", "bss", "last-epoch", "chance")
MINE = '''"""A score of mine."""


class Mine:
    """The epoch, squared."""

    name = "mine"
    needs = ()

    def score(self, candidate):
        return float(candidate.checkpoint.epoch**2)
'''


def _key(weights, examples: str) -> dict[str, object]:
    """What extraction keys features with."""
    parts = {"architecture": "resnet18", "layer": None, "extractor": "0" * 16}
    return {"weights": str(weights), **parts, "examples": examples}


def _whole(seed: int, epoch: int):
    return made_up(N, D, C, apart=0.1 + 0.1 * epoch, seed=seed)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A suite of two targets as the stages leave it: a store with features, and tables beside it.

    Stands in for a Plan, whose source run would take a minute to train.
    """
    root = tmp_path_factory.mktemp("bench")
    store = Store(root / "store")
    files: dict[str, list[CandidateFiles]] = {}
    for t in range(2):
        for epoch in range(EPOCHS):
            whole, source = _whole(t, epoch), _whole(9, epoch).source
            key, source_key = _key(epoch, f"target{t}"), _key(epoch, "source")
            for where, array in ((key, whole.features), (source_key, source.features)):
                store.write_features(where, [array], array.shape, np.float16, 0.1)
            weight = np.random.default_rng(epoch).normal(size=(C + 2, D)).astype(np.float32)
            store.write_head(key, (weight, np.arange(C + 2.0)))
            checkpoint = Checkpoint("run0", epoch, "resnet18", f"{epoch:016x}", None, 0.1 + 0.1 * epoch)
            files.setdefault(f"target{t}", []).append(
                CandidateFiles(
                    features=key,
                    labels=whole.labels,
                    checkpoint=checkpoint,
                    seed=7 + t,
                    source_features=source_key,
                    source_labels=source.labels,
                )
            )
    registry = load_plugins("selector")
    made = SimpleNamespace(
        store=store,
        suite=SimpleNamespace(name="fake", digest=DIGEST, repeats=2),
        specs=[registry[label] for label in SELECTORS],
        options=SimpleNamespace(workers=1),
        pairs=[(SimpleNamespace(name="run0"), target) for target in files],
        candidates=lambda source, target: files[target],
        results=root / "results" / "fake",
    )
    write_results(made.results, epochs=EPOCHS, examples=211, selectors={})
    tasks = [
        task
        for target in files
        for task in pair_tasks(store, files[target], made.specs, target, repeats=2, controls=True)
    ]
    run_tasks(tasks, lambda task, cells: None)
    edit(made.results, "scores", lambda t: make_table("scores", score_rows(tasks, store)))
    return made


@pytest.fixture(scope="module")
def small(bench):
    """A bundle of a part of the rows, in a results folder of its own."""
    folder = bench.results.parent / "small"
    shutil.copytree(bench.results, folder)
    freeze(bench, folder, ROWS, encoding="float16")
    return folder


@pytest.fixture
def copy(small, tmp_path):
    """A bundle to spoil."""
    return Path(shutil.copytree(small, tmp_path / "results" / "small")) / "frozen"


# ------------------------------------------------------------------------------------ what is in a bundle


def test_all_rows_change_no_score(bench):
    manifest = freeze(bench, bench.results, 4 * N, encoding="float16")
    assert [(pair.rows, pair.examples) for pair in manifest.pairs] == [(N, N), (N, N)]
    key = ["source", "target", "epoch", "selector", "repeat"]
    folder = bench.results / "frozen"
    whole, rows = (
        pd.read_csv(path).set_index(key)["score"]
        for path in (bench.results / "scores.csv", folder / "frozen-scores.csv")
    )
    assert len(whole) == len(rows) == 224  # bss and chance twice, six label controls
    np.testing.assert_allclose(rows, whole.loc[rows.index], rtol=1e-12)
    assert (pd.read_csv(folder / "frozen-effect.csv")["difference"] == 0).all()
    assert "move tau by 0.000 on average over 6 scores and 6 tracks" in manifest.effect


def test_rows_come_evenly_from_all_classes(small):
    bundle = load_frozen(small / "frozen")
    for pair in bundle.manifest.pairs:
        with np.load(small / "frozen" / pair.file) as arrays:
            labels = arrays["labels"]
        assert pair.rows == len(labels)
        assert np.bincount(labels).tolist() == [7] * C
    with np.load(small / "frozen" / "source-0.npz") as arrays:
        # a quarter as many, but two a class at least
        assert np.bincount(arrays["row_labels"]).tolist() == [2] * (C + 2)


def test_candidates_are_the_stored_ones_on_the_same_rows_at_every_epoch(bench, small):
    bundle = load_frozen(small / "frozen")
    for t, pair in enumerate(bundle.manifest.pairs):
        chosen = None
        for epoch, file in enumerate(bundle.candidates(pair)):
            candidate, whole, source = file.load(bench.store), _whole(t, epoch), _whole(9, epoch).source
            rows = [int(np.flatnonzero((whole.features == row).all(axis=1))[0]) for row in candidate.features]
            assert chosen in (None, rows)
            chosen = rows
            assert (candidate.features.dtype, candidate.features.flags.writeable) == (np.float16, False)
            assert np.array_equal(candidate.labels, whole.labels[rows])
            weight, bias = bench.store.read_head(_key(epoch, f"target{t}"))
            logits = candidate.matrix @ weight.T + bias
            np.testing.assert_allclose(candidate.source_logits, logits, rtol=1e-12)
            np.testing.assert_allclose(candidate.source_probs, softmax(logits, axis=1), rtol=1e-12)
            where = [
                np.flatnonzero((source.features == row).all(axis=1)) for row in candidate.source.features
            ]
            assert [source.labels[w[0]] for w in where] == candidate.source.labels.tolist()
            assert candidate.checkpoint == Checkpoint(
                "run0", epoch, "resnet18", f"{epoch:016x}", None, 0.1 + 0.1 * epoch
            )
            assert candidate.seed == 7 + t


def test_the_effect_is_the_difference_of_two_agreements(small):
    effect = pd.read_csv(small / "frozen" / "frozen-effect.csv")
    key = ["source", "target", "protocol", "selector"]
    tables = (Results.read(small), load_frozen(small / "frozen").tables())
    whole, rows = (agreement_table(table).set_index(key)["tau"] for table in tables)
    names = pd.MultiIndex.from_frame(effect[key])
    assert len(effect) == 6 * 6  # tracks x scores but the baselines that are rows of every leaderboard
    np.testing.assert_allclose(
        effect["difference"], rows[names].to_numpy() - whole[names].to_numpy(), atol=1e-4
    )
    sentence = load_frozen(small / "frozen").manifest.effect
    assert f"by {effect['difference'].abs().mean():.3f} on average" in sentence
    assert f"{effect['difference'].abs().max():.2f} at most" in sentence


def test_freezing_twice_gives_the_same_bytes(bench, small):
    before = load_frozen(small / "frozen").manifest
    assert freeze(bench, small, ROWS, encoding="float16").files == before.files


def test_a_checkpoint_without_head_or_source_rows_has_none(bench, tmp_path):
    files = {}
    for target in ("target0", "target1"):
        for file in bench.candidates(None, target):
            key = _key(f"bare {file.checkpoint.epoch}", target)
            array = made_up(N, D, C, seed=file.checkpoint.epoch).features
            bench.store.write_features(key, [array], array.shape, np.float16, 0.1)
            bench.store.write_head(key, None)
            bare = CandidateFiles(
                features=key, labels=file.labels, checkpoint=file.checkpoint, seed=file.seed
            )
            files.setdefault(target, []).append(bare)
    bare = SimpleNamespace(**{**vars(bench), "candidates": lambda source, target: files[target]})
    folder = Path(shutil.copytree(bench.results, tmp_path / "bare"))
    freeze(bare, folder, 4 * N)
    bundle = load_frozen(folder / "frozen")
    candidate = bundle.candidates(bundle.manifest.pairs[0])[0].load(bench.store)
    assert (candidate.source_logits, candidate.source_probs, candidate.source) == (None, None, None)
    scores = bundle.tables().scores.set_index("selector")
    assert set(scores.loc["leep", "status"]) == {"failed"}
    assert "no source head" in scores.loc["leep", "message"].iloc[0]
    assert set(scores.loc["logme", "status"]) == {"ok"}


@given(
    features=arrays(np.float16, (5, 3), elements=st.floats(-1e3, 1e3, width=16)),
)
def test_eight_bits_are_at_most_half_a_step_off(features):
    stored = encode(features, "uint8", "features-0")
    assert stored["features-0"].dtype == np.uint8
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "a.npz")
        archive.write(stored)
        decoded = decode(archive, "features-0", 3, 5, "uint8")
    step = np.ptp(features.astype(np.float64), axis=0) / 255
    assert (np.abs(decoded - features.astype(np.float64)) <= 0.5 * step + 1e-6 * np.abs(features).max()).all()
    assert (decoded[:, step == 0] == features[:, step == 0]).all()


def test_zeros_after_a_relu_stay_zeros_in_eight_bits(tmp_path):
    features = np.maximum(np.random.default_rng(0).normal(size=(50, 8)), 0).astype(np.float16)
    Archive(tmp_path / "a.npz").write(encode(features, "uint8", "features-0"))
    decoded = decode(Archive(tmp_path / "a.npz"), "features-0", 8, 50, "uint8")
    np.testing.assert_array_equal(decoded == 0, features == 0)


def test_eight_bits_take_less_room_for_nearly_the_same_scores(bench, tmp_path):
    sizes, scores = {}, {}
    for encoding in ("float16", "uint8"):
        folder = Path(shutil.copytree(bench.results, tmp_path / encoding))
        manifest = freeze(bench, folder, 4 * N, encoding=encoding)
        assert manifest.pairs[0].rows == N
        sizes[encoding] = sum(path.stat().st_size for path in (folder / "frozen").glob("pair-*.npz"))
        table = load_frozen(folder / "frozen").tables().scores
        scores[encoding] = table.loc[table["selector"] == "logme", "score"]
    assert sizes["uint8"] < sizes["float16"]  # far less where there are more than twelve features
    np.testing.assert_allclose(scores["uint8"], scores["float16"], atol=0.01)


def test_some_targets_and_checkpoints_of_a_suite(bench, tmp_path):
    folder = Path(shutil.copytree(bench.results, tmp_path / "some"))
    edit(folder, "truth", lambda t: t[(t["goal"] == "fe") | t["epoch"].isin([0, 1, 2, 4, 6])])
    manifest = freeze(bench, folder, 4 * N, targets=["target1"], checkpoints=3)
    assert [c.epoch for c in manifest.sources[0].checkpoints] == [0, 2, 6]
    assert [pair.target for pair in manifest.pairs] == ["target1"]
    boards = load_frozen(folder / "frozen").leaderboards()
    assert set(boards.agreement["target"]) == {"target1"}
    assert set(boards.agreement["checkpoints"]) == {3}
    manifest = freeze(bench, folder, 4 * N, targets=["target1"], checkpoints=6)
    assert [c.epoch for c in manifest.sources[0].checkpoints] == [0, 1, 2, 3, 4, 6]  # those of FT, and one


# --------------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_not_frozen(bench, small):
    before = load_frozen(small / "frozen").manifest
    with pytest.raises(InputError, match="no target 'target9'"):
        freeze(bench, small, ROWS, targets=["target9"])
    other = SimpleNamespace(**{**vars(bench), "suite": SimpleNamespace(name="fake", digest="f" * 16)})
    with pytest.raises(InputError, match="another version of fake"):
        freeze(other, small, ROWS)
    assert load_frozen(small / "frozen").manifest == before  # what was there stays
    assert not (small / ".frozen.part").exists()


def _rewrite(folder: Path, name: str, data: bytes) -> None:
    """Another content of a file, with the digest that goes with it."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "frozen.json").read_text())
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "frozen.json").write_text(json.dumps(manifest))


def _load_candidates(folder: Path) -> None:
    bundle = load_frozen(folder)
    for candidate in bundle.candidates(bundle.manifest.pairs[0]):
        candidate.load(Store(folder))


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz", "text", "bytes", "shape", "damaged"])
@pytest.mark.parametrize("array", ["labels", "features-3"])
def test_anything_but_arrays_of_numbers_is_refused_and_never_run(copy, tmp_path, kind, array):
    trap, path, spoilt = tmp_path / "trap", copy / "pair-0.npz", tmp_path / "spoilt.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    objects = np.array([_Payload(trap)] * 20, dtype=object)
    if kind == "pickle":
        spoilt.write_bytes(pickle.dumps(_Payload(trap)))
    elif kind == "npy":
        np.save(tmp_path / "spoilt.npy", objects, allow_pickle=True)
        spoilt.write_bytes((tmp_path / "spoilt.npy").read_bytes())
    elif kind == "bytes":
        np.savez(spoilt, **{name: a for name, a in arrays.items() if name != array})
        with zipfile.ZipFile(spoilt, "a") as archive:
            archive.writestr(array, pickle.dumps(_Payload(trap)))
    elif kind == "damaged":
        spoilt.write_bytes(path.read_bytes()[:-100])
    else:
        other = {"npz": objects, "text": np.array(["a"] * 20), "shape": arrays[array][1:]}[kind]
        np.savez(spoilt, **{**arrays, array: other})
    _rewrite(copy, path.name, spoilt.read_bytes())
    with pytest.raises(InputError, match=r"pair-0\.npz.* no array of numbers"):
        _load_candidates(copy)
    assert not trap.exists()


def test_changed_and_missing_files_are_named(copy):
    data = bytearray((copy / "pair-1.npz").read_bytes())
    data[-1] ^= 1
    (copy / "pair-1.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"pair-1\.npz was changed"):
        load_frozen(copy)
    (copy / "pair-1.npz").unlink()
    with pytest.raises(InputError, match="which is no file beside it"):
        load_frozen(copy)
    (copy / "frozen.json").unlink()
    with pytest.raises(InputError, match="no frozen bundle"):
        load_frozen(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(version=1), "version"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["files"].update({"../correct.npz": "0" * 64}), "which is no file beside it"),
        (lambda m: m["files"].pop("pair-0.npz"), "no digest of pair-0.npz"),
        (lambda m: m["pairs"][0].update(source="run9"), "no source run 'run9'"),
        (lambda m: m["pairs"][0].update(rows=5), "no array of numbers of shape"),
        (
            lambda m: m["sources"][0]["checkpoints"].append(m["sources"][0]["checkpoints"][0]),
            "no array of numbers",
        ),
    ],
)
def test_manifests_that_say_otherwise_are_refused(copy, change, words):
    manifest = json.loads((copy / "frozen.json").read_text())
    change(manifest)
    (copy / "frozen.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=words):
        _load_candidates(copy)


def test_truth_of_other_weights_is_refused(copy):
    def other(t: pd.DataFrame) -> pd.DataFrame:
        return t.assign(digest=t["digest"].where(t["epoch"] != 3, "f" * 16))

    edit(copy.parent, "checkpoints", other)
    with pytest.raises(InputError, match=r"run0 epoch 3 under weights 0{15}3, .* is of weights f{16}"):
        load_frozen(copy).leaderboards()


def test_tables_of_another_suite_digest_are_not_mixed_in(copy):
    path = copy.parent / "provenance.json"
    path.write_text(path.read_text().replace(DIGEST, "f" * 16))
    sign(copy.parent, path.name)
    with pytest.raises(InputError, match="freeze the suite again"):
        load_frozen(copy).tables()


# --------------------------------------------------------------------------------------------- judging


def _judge(copy: Path, source: str, **options):
    path = copy.parent / "mine.py"
    path.write_text(source)
    return judge_selector(path, copy, store=copy.parent / "store", workers=1, **options)


def test_a_new_score_is_judged_like_the_published_ones_and_moves_none(copy):
    found = _judge(copy, MINE)
    assert found.selectors == ["mine"]
    key, figures = (
        ["source", "target", "protocol"],
        ["tau", "tau_low", "tau_resolved", "regret", "gain", "rho"],
    )
    rows = found.boards.agreement.set_index("selector")
    # The epoch squared orders as the epoch does, which is a row of every leaderboard.
    pd.testing.assert_frame_equal(
        rows.loc["mine", key + figures].reset_index(drop=True),
        rows.loc["last-epoch", key + figures].reset_index(drop=True),
    )
    published = load_frozen(copy).leaderboards().agreement
    # Written and read back, and computed without the others: nothing has moved.
    pd.testing.assert_frame_equal(
        published, agreement_table(load_frozen(copy).tables()), check_dtype=False, rtol=1e-12
    )
    others = found.boards.agreement.query("selector != 'mine'").reset_index(drop=True)
    pd.testing.assert_frame_equal(others, published)
    board = found.boards.boards["fe"].set_index("selector")
    assert board.loc["mine", "origin"] == "mine.py"
    assert board["rank"].notna().sum() == 7
    line = found.sentences()[0]
    assert "No verdict: too few runs (1 source run, 8 sound ones are needed)" in line
    assert f"the frozen rows alone move a score's tau by {found.sampling['fe']:.2f}" in line
    assert f"mine, FE: place {board.loc['mine', 'rank']} of 7, tau {board.loc['mine', 'tau']:.2f}" in line


def test_a_published_score_is_judged_anew_and_stands_once(copy, root):
    judged = judge_selector(root / "selectors" / "logme.py", copy, store=copy.parent / "store", workers=1)
    assert judged.selectors == ["logme", "logme:scale=std", "logme:reading=code"]
    published = load_frozen(copy).leaderboards().agreement
    both = [
        table[table["selector"] == "logme"].drop(columns="seconds")
        for table in (judged.boards.agreement, published)
    ]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in both))


def test_scores_that_fail_are_named_with_their_message(copy):
    weights = MINE.replace("needs = ()", 'needs = ("weights",)')
    lines = _judge(copy, weights).sentences()
    assert "needs the network's weights, and only features are at hand" in lines[0]
    (copy.parent / "mine.py").unlink()
    raising = MINE.replace('"mine"', '"raises"').replace("return float(candidate", "raise KeyError(candidate")
    path = copy.parent / "raising.py"
    path.write_text(raising)
    judged = judge_selector(path, copy, store=copy.parent / "store", workers=1)
    assert "KeyError" in judged.sentences()[0]
    assert "tau 0.00" in judged.sentences()[0]


def test_rows_of_every_leaderboard_cannot_be_judged(copy):
    with pytest.raises(InputError, match="is the name of a row that every leaderboard has"):
        _judge(copy, MINE.replace('"mine"', '"oracle"'))


def test_the_command_runs_without_torch_in_a_pool_of_workers(copy, tmp_path, root):
    """A torch that cannot be imported, in this process and in its workers."""
    (copy.parent / "mine.py").write_text(MINE.replace("return", "assert 'torch' not in sys.modules; return"))
    (copy.parent / "mine.py").write_text("import sys\n" + (copy.parent / "mine.py").read_text())
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("torch", "torchvision"):
        (blocked / f"{name}.py").write_text(f"open({str(blocked / 'imported')!r}, 'w')\nraise ImportError")
    path = os.pathsep.join([str(blocked), str(root / "benchmark")])
    environment = {**os.environ, "PYTHONPATH": path, "CKPTBENCH_STORE": str(tmp_path / "store")}
    command = [sys.executable, "-m", "ckptbench", "judge-selector", "results/small/mine.py"]
    ran = subprocess.run(
        [*command, "--suite", "small", "--workers", "2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "mine, FT: place" in ran.stdout
    assert "AssertionError" not in ran.stdout
    assert not (blocked / "imported").exists()


def test_leaderboards_from_the_bundle(copy, monkeypatch):
    monkeypatch.chdir(copy.parents[2])
    run = CliRunner().invoke(app, ["leaderboard", "small", "--from", "frozen", "--json"])
    assert run.exit_code == 0
    content = json.loads(run.output)
    assert "move tau by" in content["footer"][-1]
    assert len([row for row in content["fe"] if row["rank"] is not None]) == 6
    run = CliRunner().invoke(app, ["leaderboard", "smal", "--from", "frozen"])
    assert run.exit_code == 2
    assert "did you mean 'small'?" in run.stderr


# ---------------------------------------------------------------------------------- the committed bundles


def test_the_published_bundles_are_sound(root, tmp_path):
    for folder in (root / "results").glob("*/frozen"):
        bundle, store = load_frozen(folder), Store(tmp_path)
        assert bundle.leaderboards().footer[-1] == bundle.manifest.effect
        for pair in bundle.manifest.pairs:
            first, *_, last = bundle.candidates(pair)
            assert len(first.load(store).features) == len(last.load(store).features) == pair.rows
