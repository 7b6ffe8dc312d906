"""A paper's table beside ours, and the truth of features after fine-tuning that two of its lines need."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny import SUITE, run_suite, write_suite

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.data.targets import load_target
from ckptbench.networks.architectures import find_architecture
from ckptbench.pages import leaderboard
from ckptbench.pages.paper_table import published_markdown
from ckptbench.pages.report import write_report
from ckptbench.pipeline.stages import ft_tasks
from ckptbench.plugins import load_plugins
from ckptbench.results import Results
from ckptbench.suites import load_suite
from ckptbench.truth.finetune import finetune
from ckptbench.truth.probe import fe_truth
from ckptbench.truth.tasks import unpack

AFTER = """
[[fe]]
name = "after-all"
after = "ft"
grid = [1e-3, 1e-1]

[[fe]]
name = "after-residual"
after = "ft"
part = "residual"
penalty = 1e-3
"""
QUOTED = """
[published]
paper = "A Paper, Table 1"
epochs = [5, 200]
ours = [1, 3]
rows = [
  { what = "source accuracy", values = [70.0, 95.0] },
  { what = "FT", values = [99.0, 99.5], protocols = ["ft"] },
  { what = "F_r after FT", values = [27.0, 54.0], protocols = ["after-residual"] },
]
"""
TITLE = SUITE.index("\n\n")


@pytest.fixture(scope="module")
def quoted() -> str:
    return SUITE[:TITLE] + QUOTED + SUITE[TITLE:] + AFTER


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory, quoted: str):
    folder = tmp_path_factory.mktemp("after")
    return folder / "results" / "tiny", run_suite(write_suite(folder, quoted), folder, upto="maps")


def test_truth_after_fine_tuning_is_that_of_the_fine_tuned_features(after) -> None:
    """Against the same network fine-tuned here, and its features taken from it by hand."""
    folder, plan = after
    table = pd.read_csv(folder / "truth.csv")
    assert table.groupby("goal").size().to_dict() == {"fe": 8, "ft": 8, "ft-all": 8, "ft-residual": 8}
    assert set(table["status"]) == {"ok"}
    task = ft_tasks(plan)[-1]
    assert (task.checkpoint.epoch, task.seed) == (3, 1)
    architecture = find_architecture(task.architecture, load_plugins("extractor", ()))
    network, _ = architecture.load(task.checkpoint.path)
    target = load_target(task.data, task.target)
    splits = [
        (torch.from_numpy(part.images(slice(None))), torch.tensor(part.labels))
        for part in (target.train, target.test)
    ]
    seed = derive_seed("ft", target.name, task.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the task had
    finetune(
        network, architecture.head_name(network), network.state_dict(), *splits[0], *splits[1],
        len(target.classes), task.protocol, [spec.make() for spec in task.penalties], seed,
        *task.normalisation, torch.device("cpu"),
    )  # fmt: skip
    network.eval()
    with torch.no_grad():
        train, test = (network((images / 255 - 0.5) / 0.25).numpy() for images, _ in splits)
    torch.set_num_threads(threads)
    for key, protocol in list(zip(task.cell_keys(), task.protocols, strict=True))[1:]:
        (expected,) = fe_truth(
            train, target.train.labels, test, target.test.labels, len(target.classes), protocol,
            [task.seed], name_parts=(target.name,),
        )  # fmt: skip
        extra = plan.store.read_cell(key).extra
        assert np.mean(unpack(extra["correct"], len(test)) == expected.correct) > 0.98
    # They are not the features before, and the parts are not the whole.
    means = table[table["epoch"] == 3].groupby("protocol")["accuracy"].mean()
    assert means["after-all"] != means["fe"]
    assert means["after-residual"] != means["after-all"]
    kept = plan.store.read_features(replace(task, seed=0).features_key())
    assert kept.shape == (len(target.train), train.shape[1])
    assert task.features_key() is None


def test_nothing_is_left_to_do_and_cells_of_fine_tuning_stay_the_same(after, tmp_path: Path) -> None:
    folder, plan = after
    assert all(plan.store.has_all(task.cell_keys()) for task in ft_tasks(plan))
    alone = run_suite(write_suite(tmp_path), tmp_path)
    truths = [pd.read_csv(path / "truth.csv") for path in (folder, tmp_path / "results" / "tiny")]
    both = [t[t["goal"] == "ft"].drop(columns=["seconds", "row"]) for t in truths]
    pd.testing.assert_frame_equal(*(one.reset_index(drop=True) for one in both))
    assert alone.suite.digest != plan.suite.digest


def test_damaged_features_after_fine_tuning_are_named_and_made_again(after, tmp_path: Path) -> None:
    _, plan = after
    shutil.copytree(plan.store.root, tmp_path / "store")
    task = replace(next(task for task in ft_tasks(plan) if task.seed == 0), store=tmp_path / "store")
    whole = plan.store.read_features(task.features_key())
    path = Store(task.store)._features_path(task.features_key())
    path.write_bytes(path.read_bytes()[:-8] + b"tampered")
    store = Store(task.store)
    assert task.missing(store) == task.cell_keys()
    assert [line for line in store.damaged if path.name in line] == [f"{path}: its checksum does not fit"]
    task.run()
    np.testing.assert_array_equal(Store(task.store).read_features(task.features_key()), whole)
    assert task.missing(Store(task.store)) == []


def test_the_page_is_written_beside_the_leaderboards(after) -> None:
    folder, _ = after
    boards = leaderboard.write(folder)
    assert set(boards.boards) == {"fe", "ft"}  # after is a truth of its own, never ranked with them
    table = pd.read_csv(folder / "published.csv")
    assert table["what"].tolist() == ["source accuracy", "FT", "F_r after FT"]
    page = (folder / "PUBLISHED.md").read_text()
    assert page == published_markdown(Results.read(folder))
    assert "A Paper, Table 1" in page
    assert page.count("\n|") == 5


def test_the_report_shows_both_tables_and_the_maps_after_fine_tuning(after) -> None:
    folder, _ = after
    leaderboard.write(folder)
    page = write_report(folder).read_text()
    assert 'id="published"' in page
    assert "A Paper, Table 1" in page
    maps = pd.read_csv(folder / "embedding.csv", keep_default_na=False)
    stages = maps.groupby(["after", "epoch"]).size()
    assert stages.to_dict() == {("", 1): 60, ("", 3): 60, ("ft", 1): 60, ("ft", 3): 60}
    assert "epoch 3 after fine-tuning (ft " in page
    # The same page from the tables alone.
    assert write_report(folder).read_text() == page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('after = "ft"', 'after = "fr"'), "no FT protocol 'fr', did you mean 'ft'"),
        (('after = "ft"', 'after = "ft"\nseeds = 3'), "has its seeds from 'ft'"),
        (('protocols = ["ft"]', 'protocols = ["fd"]'), "no protocol is called 'fd'"),
        (("ours = [1, 3]", "ours = [1]"), "one entry per epoch"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path: Path, quoted: str, change, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_suite(write_suite(tmp_path, quoted.replace(*change)))
