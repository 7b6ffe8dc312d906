"""rank: from checkpoints and labelled examples to an answer in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ckptbench import InputError, rank
from ckptbench.networks.architectures import find_architecture
from ckptbench.plugins import load_plugins
from ckptbench.ranking.defaults import cheap_score

ARCH = "smallcnn:width=4"
COLOURS = 3


def states():
    architecture = find_architecture(ARCH, load_plugins("extractor"))
    for epoch in (1, 2, 10):
        torch.manual_seed(epoch)
        yield epoch, architecture.build(7).state_dict()


@pytest.fixture(scope="module")
def pictures():
    """3 classes of 12 images that colour tells apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (12 * COLOURS, 16, 16, 3))
    labels = np.repeat(np.arange(COLOURS), 12)
    images[np.arange(len(labels)), ..., labels] += 135
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """Three checkpoints of other initialisations, and the images in a folder per class."""
    root = tmp_path_factory.mktemp("rank")
    (root / "run").mkdir()
    for epoch, state in states():
        torch.save({"state_dict": state}, root / "run" / f"model_{epoch}.pth")
    for number, (image, label) in enumerate(zip(*pictures, strict=True)):
        path = root / "images" / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def ranked(folder, data=None, **options):
    options = {"size": 16, "store": folder / "store", "workers": 1, **options}
    return rank(
        options.pop("run", folder / "run"), ARCH, folder / "images" if data is None else data, **options
    )


def test_the_pick_has_the_highest_cross_validated_accuracy(folder):
    found = ranked(folder)
    table = found.table
    assert sorted(table["epoch"]) == [1, 2, 10]
    assert table["measured"].is_monotonic_decreasing
    assert found.pick.epoch == table["epoch"][0]
    assert found.measured.shape == (3, 36)
    np.testing.assert_allclose(np.sort(found.measured.mean(axis=1)), np.sort(table["measured"]), atol=1e-6)
    assert found.pick in found.tied
    assert "highest accuracy of 3 checkpoints" in found.verdict["Take"]
    assert "36 examples" in found.used["data"]
    assert found.used["skipped"] == "nothing"


def test_a_second_call_reads_no_checkpoint_and_fits_nothing(folder, monkeypatch):
    first = ranked(folder)
    for name in ("networks.extract._network", "networks.runs.file_digest", "networks.layouts.read_file"):
        monkeypatch.setattr(f"ckptbench.{name}", lambda *_: pytest.fail("a checkpoint was read"))
    monkeypatch.setattr("ckptbench.truth.crossval.out_of_fold", lambda *_: pytest.fail("fitted"))
    monkeypatch.setattr("ckptbench.ranking.measure.guessing_p", lambda *_, **__: pytest.fail("permuted"))
    pd.testing.assert_frame_equal(ranked(folder).table, first.table)
    monkeypatch.setattr("ckptbench.ranking.remembered.version", lambda _: "another")
    pd.testing.assert_frame_equal(ranked(folder).table, first.table)


def test_every_way_to_give_data_gives_the_same_accuracies(folder, pictures, tmp_path):
    images, labels = pictures
    paths = sorted((folder / "images").rglob("*.png"))
    table = pd.DataFrame({"path": map(str, paths), "label": [path.parent.name for path in paths]})
    table.to_csv(tmp_path / "data.csv", index=False)
    table.to_csv(tmp_path / "data.tsv", index=False, sep="\t")
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    dataset = torch.utils.data.TensorDataset(tensors, torch.from_numpy(labels))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    given = [table, tmp_path / "data.csv", str(tmp_path / "data.tsv"), tmp_path / "data.npz"]
    for data in [*given, (images, labels.astype(float)), (tensors, list(labels)), dataset, loader]:
        found = ranked(folder, data)
        assert len(found.measured[0]) == 36
        assert found.table["measured"].min() > 0.6  # colour tells the classes apart


def test_networks_and_state_dicts_are_as_good_as_files(folder, pictures):
    states_ = [state for _, state in states()]
    architecture = find_architecture(ARCH, load_plugins("extractor"))
    models = [architecture.fill(state)[0].train() for state in states_]
    normalise = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))  # what the extractor says of files
    files = ranked(folder).table.sort_values("epoch")["measured"].to_numpy()
    for run, arch in ((states_, ARCH), (models, None)):
        found = rank(run, arch, folder / "images", size=16, normalise=normalise, store=folder / "store")
        np.testing.assert_allclose(found.table.sort_values("epoch")["measured"], files, atol=1e-6)
    assert all(module.training for model in models for module in model.modules())


def test_a_bad_file_is_skipped_with_a_sentence_and_strict_stops(folder, tmp_path):
    for path in (folder / "run").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model_7.pth").write_bytes(b"no checkpoint")
    found = ranked(folder, run=tmp_path)
    assert "model_7.pth is damaged" in found.used["skipped"]
    assert len(found.table) == 3
    with pytest.raises(InputError, match=r"model_7\.pth is damaged"):
        ranked(folder, run=tmp_path, strict=True)


def test_twins_and_tiny_classes_are_said(folder, tmp_path, pictures):
    for path in (folder / "run").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = torch.load(folder / "run" / "model_2.pth", weights_only=True)
    torch.save({**content, "epoch": 9}, tmp_path / "model_11.pth")
    images, labels = pictures
    found = ranked(folder, (images[:30], labels[:30]), run=tmp_path)
    assert "Epochs 2 and 11 hold the same weights." in found.verdict["Note"]
    assert "'2' (6)" in found.verdict["Note"]


def test_all_train_images_are_used_and_no_other_split(folder, tmp_path):
    (tmp_path / "training").symlink_to(folder / "images")
    (tmp_path / "validation").symlink_to(folder / "images")
    found = ranked(folder, tmp_path)
    assert "36 examples" in found.used["data"]
    assert "training/" in found.verdict["Note"]


def test_outputs(folder, tmp_path):
    found = ranked(folder)
    content = json.loads(found.to_json())
    assert content["pick"]["epoch"] == found.pick.epoch
    assert content["verdict"] == found.verdict
    assert len(content["table"]) == 3
    found.to_html(tmp_path / "a.html")
    assert "What it used" in (tmp_path / "a.html").read_text()
    assert found.verdict["Take"] in repr(found)
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"goal": "both"}, "goal is 'both'"),
        ({"metric": "f1"}, "metric is 'f1'"),
        ({"budget": "10 runs"}, "a budget in runs is for fine-tuning"),
        ({"size": 2}, "size is 2"),
        ({"limit": 3}, "limit is 3"),
        ({"size": "16"}, "size is '16'"),
        ({"size": 16.5}, "size is 16.5"),
        ({"limit": "all"}, "limit is 'all'"),
        ({"layer": 3}, "layer is 3: it should be a word"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"workers": 0}, "workers is 0"),
        ({"normalise": ([0.5], [0.2])}, "three means"),
        ({"normalise": 5}, "three means"),
        ({"normalise": ([np.nan] * 3, [1.0] * 3)}, "three means"),
        ({"data": "nowhere/at/all"}, "there is no path nowhere/at/all"),
        ({"data": 5}, "data is a int"),
        ({"data": (np.zeros((4, 2), np.uint8), [0, 1, 0, 1])}, "images should be n x H x W"),
        ({"data": (np.full((4, 8, 8), 3.0), [0, 1, 0, 1])}, r"should be in \[0, 1\]"),
        ({"data": (np.full((4, 8, 8), np.nan), [0, 1, 0, 1])}, "image 0 holds NaN"),
        ({"data": pd.DataFrame({"path": ["a", "b"], "label": ["x", " "]})}, "1 row without a label, row 2"),
        ({"data": (np.zeros((4, 8, 8), np.uint8), [0, 1])}, "4 images and 2 labels"),
        ({"data": (np.zeros((2, 8, 8), np.uint8), [0.5, 1])}, "a label is 0.5"),
        ({"groups": "patient"}, "neither a file nor"),
        ({"run": []}, "list of checkpoints is empty"),
        ({"run": [5]}, "a checkpoint is a int"),
        ({"run": [torch.nn.Sequential(torch.nn.LazyLinear(3))]}, "network 0 has lazy layers"),
        ({"key": "nothing"}, "under the key 'nothing'"),
        ({"goal": "FT", "budget": "soon"}, "a budget of 'soon' cannot be read"),
        ({"goal": "FT", "budget": "3 runs"}, "too small"),
    ],
)
def test_what_does_not_fit_is_a_sentence(folder, options, sentence):
    with pytest.raises(InputError, match=sentence):
        ranked(folder, **options)


def test_architectures_that_cannot_be_had(folder, monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("class Broken(:\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for arch, plugins, sentence in (
        ("smallcnn:depth=1", (), "unexpected keyword argument 'depth'"),
        ("timm/resnet18", (), r"needs an extra: pip install 'ckptbench\[timm\]'"),
        (ARCH, tmp_path / "broken.py", r"broken\.py cannot be loaded: SyntaxError"),
        (ARCH, [str(tmp_path)], r"broken\.py cannot be loaded: SyntaxError"),
    ):
        with pytest.raises(InputError, match=sentence):
            rank(folder / "run", arch, folder / "images", plugins=plugins, store=tmp_path / "store")


def test_a_size_that_the_network_does_not_take_is_a_sentence(pictures, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4), torch.nn.Linear(4, 2))
    assert len(rank([network], None, pictures, size=8, store=tmp_path).table) == 1
    with pytest.raises(InputError, match=r"does not take inputs of 3 x 16 x 16 \(.*images of another size"):
        rank([network], None, pictures, size=16, store=tmp_path)


def test_features_are_checked():
    good = np.random.default_rng(0).normal(size=(20, 3))
    labels = np.arange(20) % 2
    bad = good.copy()
    bad[3, 1] = np.nan
    with pytest.raises(InputError, match="features 1 hold nan in row 3, column 1"):
        rank([good, bad], data=labels)
    for odd in (good + 1j, good[:, :0], good[0]):
        with pytest.raises(InputError, match="features 0 should be N x D real numbers"):
            rank([odd], data=labels)
    with pytest.raises(InputError, match="label of example 2 is nan"):
        rank([good], data=np.where(labels == 0, np.nan, labels)[[1, 3, 0, *range(3, 20)]], task="regression")
    with pytest.raises(InputError, match="features 1 have 10 rows"):
        rank([good, good[:10]], data=labels)
    with pytest.raises(InputError, match="19 labels for 20 rows"):
        rank([good], data=labels[:19])
    with pytest.raises(InputError, match="one class"):
        rank([good], data=np.zeros(20))


def test_for_fine_tuning_the_last_is_taken_unless_a_budget_is_spent(folder):
    found = ranked(folder, goal="ft")
    assert found.pick.epoch == 10
    assert "no fine-tuning was measured" in found.verdict["Take"]
    found = ranked(folder, goal="ft", budget="14 runs")
    assert found.facts["fine_tunings"] <= 14
    assert "nothing is claimed of the 0 that were dropped" in found.verdict["Measured"]
    assert found.table["measured"].notna().any()


def published(monkeypatch, favourite: str, gain: float = 1.5):
    """A published record whose favourite for both goals is a score or procedure."""
    row = {"suite": "zoo", "truth": "10 epochs", "seconds": 1.0, "harmed": 1, "helped": 5, "runs": 10}
    scores = ("logme", "lda-loo", "knn", "sfda", "leep")
    rows = [
        {**row, "goal": goal, "name": name, "what": "score" if name in scores else "procedure",
         "gain_median": gain, "chosen": chosen}
        for goal in ("fe", "ft")
        for name, chosen in ((favourite, 8), ("lda-loo", 2), ("winner", 10))
    ]  # fmt: skip
    monkeypatch.setattr("ckptbench.ranking.defaults.published_record", lambda: pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("favourite", "said", "column"),
    [
        ("logme", "the first choice of logme", "logme"),
        ("cross-validated probe", "the best by cross-validated probe", "cross-validated probe"),
        ("cross-validated probe, of the 3 best by knn", "3 best by knn", "cross-validated probe"),
        ("50 iterations on 3 folds", "the last", None),
        ("leep", "the last", None),  # needs the head's classes
    ],
)
def test_for_fine_tuning_the_record_is_followed(folder, tmp_path, monkeypatch, favourite, said, column):
    published(monkeypatch, favourite)
    found = ranked(folder, goal="ft", store=tmp_path)
    assert f"{said}, for fine-tuning" in found.verdict["Take"]
    assert "won 1.5 points" in found.verdict["Why"]
    if column is None:
        assert "That " in found.verdict["Why"]
        assert found.pick.epoch == 10
    else:
        assert found.pick.epoch == found.table.set_index("epoch")[column].idxmax()
        assert found.table["epoch"][0] == found.pick.epoch


def test_a_record_of_losses_is_not_followed(folder, tmp_path, monkeypatch):
    published(monkeypatch, "logme", gain=-1.0)
    assert "the last, for fine-tuning" in ranked(folder, goal="ft", store=tmp_path).verdict["Take"]


def test_the_records_first_score_screens(monkeypatch):
    """Of those that features and labels suffice for."""
    for favourite, score in (("logme", "logme"), ("leep", "lda-loo")):
        published(monkeypatch, favourite)
        assert cheap_score("classification") == score
    assert cheap_score("regression") == "ridge-loo-error"
    monkeypatch.setattr("ckptbench.ranking.defaults.published_record", lambda: None)
    assert cheap_score("classification") == "ridge-loo"


def test_folds_never_split_a_group_and_metrics_differ(folder, pictures):
    groups = [str(number % 9) for number in range(36)]
    found = ranked(folder, pictures, groups=groups)
    assert "in 9 groups" in found.used["data"]
    for metric in ("balanced", "auroc"):
        assert ranked(folder, metric=metric).table["measured"].between(0.5, 1).all()


def test_hostile_and_odd_files_are_sentences(folder, tmp_path, pictures):
    """Nothing waits for ever, leaves its folder or ends in a traceback."""
    run = tmp_path / "run"
    run.mkdir()
    for path in (folder / "run").iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    os.mkfifo(run / "model_3.pth")
    (run / "model_4.pth").symlink_to("/dev/zero")
    state = next(state for _, state in states())
    with warnings.catch_warnings():  # deprecated in torch, and still in people's files
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)
    torch.save({**state, "0.weight": quantised}, run / "model_5.pth")
    torch.save({**state, "0.weight": state["0.weight"].to_sparse()}, run / "model_6.pth")
    (run / "model_7.safetensors").write_bytes(b"\xff" * 64)
    (run / os.fsdecode(b"model_8_\xff.pth")).write_bytes((run / "model_1.pth").read_bytes())
    (run / "model_9\n\x1b[m.pth").write_bytes((run / "model_2.pth").read_bytes())
    if os.geteuid():
        (run / "model_2.pth").chmod(0)
    found = ranked(folder, run=run)
    assert sorted(found.table["epoch"]) == ([1, 8, 9, 10] if os.geteuid() else [1, 2, 8, 9, 10])
    assert "model_9\\n\\x1b[m.pth" in found.table["checkpoint"].tolist()
    found.to_html(tmp_path / "a.html")
    assert "model_8_\\udcff.pth" in repr(found)
    for name in ("model_5.pth", "model_6.pth", "model_7.safetensors"):
        assert name in found.used["skipped"]
    os.mkfifo(tmp_path / "pipe.csv")
    for data, sentence in (
        (tmp_path / "pipe.csv", "no file of a data set's size"),
        ("/dev/zero", "no file of a data set's size"),
        (tmp_path / "a\x00b", "no path"),
    ):
        with pytest.raises(InputError, match=sentence):
            ranked(folder, data)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"path,label\n\xff\xfe.png,a\n")
    with pytest.raises(InputError, match="cannot be read as a table"):
        ranked(folder, bad)
    bad.write_text("path,kind\na.png,a\n")
    with pytest.raises(InputError, match="has no column 'label'"):
        ranked(folder, bad)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"bad\.npz cannot be read"):
        ranked(folder, tmp_path / "bad.npz")
    np.savez(tmp_path / "object.npz", images=np.array([{}], object), labels=[0])
    with pytest.raises(InputError, match=r"object\.npz cannot be read"):
        ranked(folder, tmp_path / "object.npz")


def test_a_script_without_a_main_guard_runs_once(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import ckptbench\nprint('started')\n"
        f"print(ckptbench.rank({str(folder / 'run')!r}, {ARCH!r}, {str(folder / 'images')!r}, size=16,"
        f" store={str(tmp_path / 'store')!r}).pick.epoch)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "started"
    assert len(done.stdout.split()) == 2
