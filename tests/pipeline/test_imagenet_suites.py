"""The suites imagenet-nine and shrinkage-five, whole, on fake archives of all their targets.

What costs time is shrunk (architecture, image size, lengths of training, the penalty grid, how many seeds and
checkpoints); targets, protocols, methods, rates and where they apply are those of the suite files.
"""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pandas as pd
import pytest
import torch
from helpers.fake_archives import BUILDERS, accept_fakes

from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.data.readers.archives import ARCHIVES
from ckptbench.networks.architectures import find_architecture
from ckptbench.pages import leaderboard
from ckptbench.pages.paper_table import methods_table
from ckptbench.pipeline import stages
from ckptbench.pipeline.plan import Options, resolve
from ckptbench.pipeline.provenance import collect
from ckptbench.plugins import load_plugins
from ckptbench.results import Results
from ckptbench.suites import Suite, load_suite
from ckptbench.truth import finetune

ARCHITECTURE = "smallcnn:width=4"
LENGTH = 3
JUDGED = {"imagenet-nine": (0, 50, 90), "shrinkage-five": (90,)}
SEEDS = {"imagenet-nine": 1, "shrinkage-five": 2}  # a deviation needs two
NINE = {"cifar10", "cifar100", "food101", "aircraft", "cars", "cub", "flowers", "indoor67", "shenzhen"}
FIVE = {"dogs", "cub", "cars", "pets", "aircraft"}
DATA_SETS = {target.data.name for name in JUDGED for target in load_suite(name).targets}


def shrunk(name: str) -> Suite:
    """The suite as its file says, with a small network, small images and short trainings."""
    suite = load_suite(name).model_dump()
    for source in suite["sources"]:
        source["architecture"] = ARCHITECTURE
        source["judge"] = JUDGED[name]
    for target in suite["targets"]:
        target["data"]["size"] = 16
    for protocol in suite["fe"]:
        protocol.update(seeds=SEEDS[name], grid=(1e-3, 1e-1), iterations=protocol["iterations"] and LENGTH)
        protocol["epochs"] = LENGTH
    for protocol in suite["ft"]:
        unit = "epochs" if protocol["epochs"] else "iterations"
        milestones = protocol["training"]["milestones"]
        protocol["training"]["milestones"] = [round(LENGTH * m / protocol[unit]) for m in milestones]
        window = protocol["window"] and 12  # of 16 pixels, where it is 224 of 256
        protocol.update({"seeds": SEEDS[name], unit: LENGTH, "window": window})
    return Suite.model_validate(suite)


def write_checkpoints(folder: Path) -> None:
    """Every tenth epoch, in files as the framework's ImageNet example writes them."""
    folder.mkdir(parents=True)
    architecture = find_architecture(ARCHITECTURE, load_plugins("extractor"))
    for epoch in range(0, 91, 10):
        torch.manual_seed(epoch)
        network = architecture.build(1000)
        opt = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        content = {
            "epoch": epoch,
            "arch": "resnet50",
            "state_dict": {f"module.{key}": value for key, value in network.state_dict().items()},
            "best_acc1": torch.tensor(1.0),
            "optimizer": opt.state_dict(),
        }
        torch.save(content, folder / f"checkpoint-epoch{epoch}.pth.tar")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the data sets and the checkpoints where the suites look for them."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        accept_fakes(patch)
        patch.chdir(folder)
        patch.setenv("CKPTBENCH_DATA", str(folder / "sets"))
        for name in DATA_SETS:
            BUILDERS[name](folder / "sets", 10, 5)
        write_checkpoints(folder / "data" / "resnet50-imagenet-90")
        yield folder


def run(suite: Suite, place: Path, selectors: tuple[str, ...] | None) -> Path:
    options = Options(device="cpu", workers=1, selectors=selectors)
    plan = resolve(suite, options, Store(place / "store"))
    stages.run(plan, upto="truth")
    folder = place / "results" / suite.name
    collect(plan).write(folder)
    leaderboard.write(folder)
    return folder


@pytest.fixture(scope="module")
def nine(place: Path) -> Path:
    # The suite asks for every score there is, which tests of their own try.
    return run(shrunk("imagenet-nine"), place, ("last-epoch", "logme", "ridge-loo", "leep"))


@pytest.fixture(scope="module")
def five(place: Path) -> tuple[Path, dict[str, set[int]]]:
    """The results folder, and on how many images each protocol trained."""
    sizes: dict[str, set[int]] = defaultdict(set)
    train = finetune.train

    def counted(run: Any, protocol: Any, penalties: Any) -> Any:
        sizes[protocol.name].add(len(run.images))
        return train(run, protocol, penalties)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "train", counted)
        folder = run(shrunk("shrinkage-five"), place, None)
    return folder, sizes


def read(folder: Path, name: str) -> pd.DataFrame:
    """A table of which every cell must be ok."""
    table = pd.read_csv(folder / f"{name}.csv")
    assert set(table["status"]) == {"ok"}, table.loc[table["status"] != "ok", "message"].unique()
    return table


def test_the_shrunk_suites_are_the_suites() -> None:
    for name in JUDGED:
        suite, small = load_suite(name), shrunk(name)
        assert set(JUDGED[name]) <= set(suite.sources[0].judge or ())
        assert [t.name for t in small.targets] == [t.name for t in suite.targets]
        assert [t.data.name for t in small.targets] == [t.data.name for t in suite.targets]
        assert [(p.name, p.targets) for p in small.protocols] == [
            (p.name, p.targets) for p in suite.protocols
        ]
        assert [(p.method, p.rate, p.training.lr) for p in small.ft] == [
            (p.method, p.rate, p.training.lr) for p in suite.ft
        ]
    assert {t.name for t in load_suite("imagenet-nine").targets} == NINE
    assert {t.name for t in load_suite("shrinkage-five").targets} == FIVE


def test_nine_targets_have_both_truths_and_all_scores(nine: Path) -> None:
    truth = read(nine, "truth")
    for kind in ("fe", "ft"):
        cells = truth[truth["goal"] == kind]
        assert set(cells["target"]) == NINE
        assert set(cells["epoch"]) == set(JUDGED["imagenet-nine"])
    assert truth["accuracy"].between(0, 1).all()
    assert truth["accuracy"].nunique() > 10
    scores = read(nine, "scores")
    assert set(scores["selector"]) >= {"last-epoch", "logme", "ridge-loo", "leep"}
    counts = scores.groupby("selector")["target"].value_counts()
    assert (counts.unstack("target") == len(JUDGED["imagenet-nine"])).all(axis=None)
    assert len(counts.unstack("target").columns) == len(NINE)


def test_protocols_have_cells_for_their_targets_only(nine: Path) -> None:
    truth = read(nine, "truth")
    cifar, natural = {"cifar10", "cifar100"}, NINE - {"cifar10", "cifar100", "shenzhen"}
    assert truth.groupby("protocol")["target"].agg(set).to_dict() == {
        "fe-tuned": NINE,
        "fe-fixed": NINE,
        "fe-raw": NINE,
        "fe-paper-cifar": cifar,
        "fe-paper-natural": natural,
        "fe-paper-shenzhen": {"shenzhen"},
        "ft-paper-cifar": cifar,
        "ft-paper-natural": natural,
        "ft-paper-shenzhen": {"shenzhen"},
        "ft-short": NINE,
    }
    assert (truth.groupby(["protocol", "target"]).size() == len(JUDGED["imagenet-nine"])).all()


def test_leaderboards_name_all_nine_pairs(nine: Path) -> None:
    agreement = pd.read_csv(nine / "agreement.csv")
    tracks = agreement[["target", "protocol"]].drop_duplicates()
    assert set(tracks["target"]) == NINE
    assert len(tracks) == 5 * 9 + 9  # four FE and two FT protocols a target
    judged = agreement[agreement["selector"] == "logme"].dropna(subset=["tau"])
    assert set(judged["target"]) == NINE
    board = pd.read_csv(nine / "leaderboard.csv").set_index(["goal", "selector"])
    for kind in ("fe", "ft"):
        assert board.loc[(kind, "logme"), "pairs"] == 9
    text = (nine / "LEADERBOARD.md").read_text()
    assert "## Feature extraction (FE, linear probe)" in text
    assert "## Fine-tuning (FT, " in text
    assert "9 source-target pairs" in text
    assert "No verdict" in text


def test_six_methods_at_four_rates_on_five_targets(five: tuple[Path, dict[str, set[int]]]) -> None:
    folder, sizes = five
    truth = read(folder, "truth")
    for kind in ("fe", "ft"):
        assert set(truth.loc[truth["goal"] == kind, "target"]) == FIVE
    assert set(read(folder, "scores")["selector"]) >= set(load_suite("shrinkage-five").selectors)
    table = methods_table(Results.read(folder))
    rates = ["15 %", "30 %", "50 %", "100 %"]
    assert [name for name in table.columns if name in rates] == rates
    methods = {"l2", "l2+bss", "l2-sp", "l2-sp+bss", "delta", "delta+bss"}
    assert table.groupby("target")["method"].agg(set).to_dict() == dict.fromkeys(FIVE, methods)
    assert len(table) == len(FIVE) * len(methods)
    for column in rates:
        assert table[column].str.fullmatch(r"\d+\.\d\d±\d+\.\d\d").all()
    # Of 10 images of each of two classes.
    expected = {"15%": {4}, "30%": {6}, "50%": {10}, "100%": {20}}
    assert sizes == {f"ft-{method}-{rate}": n for method in methods for rate, n in expected.items()}
    # Too few checkpoints to judge a score by: the leaderboards say so, and have no row.
    text = (folder / "LEADERBOARD.md").read_text()
    assert "5 source-target pairs" in text
    assert "at least 3 are needed" in text
    assert pd.read_csv(folder / "leaderboard.csv").empty


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_without_an_archive_one_sentence_says_what_to_fetch(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("CKPTBENCH_DATA", str(tmp_path))
    for other in DATA_SETS - {name}:
        BUILDERS[other](tmp_path, 2, 2)
    suite = next(shrunk(s) for s in JUDGED if name in {t.data.name for t in load_suite(s).targets})
    with pytest.raises(InputError) as caught:
        resolve(suite, Options(device="cpu", workers=1), Store(tmp_path / "store"))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(tmp_path) in sentence
    assert not (tmp_path / "store").exists(), "nothing should be computed before all is there"
    kind, _, short = name.partition(":")
    if kind == "archive":
        assert ARCHIVES[short]["files"][0] in sentence
    else:
        assert re.search(r"cannot be downloaded from https?://\S+: .*no network", sentence)
