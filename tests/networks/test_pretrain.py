"""Source runs: killed and started again they end with the same bytes; a diverging one says so."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import forked, wait_exit
from safetensors.torch import load, load_file

from ckptbench.base.errors import InputError
from ckptbench.base.files import read_json, write_json
from ckptbench.base.store import Store
from ckptbench.data.targets import load_target
from ckptbench.networks.pretrain import pretrain
from ckptbench.networks.runs import Run, find_run, last_epoch, read_record, read_run, soundness, trajectory
from ckptbench.suites import Source

CPU = torch.device("cpu")
MEAN = (0.5, 0.4, 0.3)


def source(epochs: int = 4, **training: object) -> Source:
    return Source.model_validate(
        {
            "name": "run",
            "architecture": "smallcnn:width=4",
            "epochs": epochs,
            "mean": MEAN,
            "std": (0.25, 0.25, 0.25),
            "data": {"name": "digits", "per_class": 8, "test_per_class": 5, "size": 8},
            "training": {"lr": 0.05, "batch": 16, "augment": "crop-flip", **training},
        }
    )


SGD = source(schedule="step", milestones=(2,))
ADAM = source(optimiser="adam", lr=0.01)


def the_run(spec: Source, **options: bool) -> Run:
    return find_run(spec, load_target(spec.data, spec.name), CPU, **options)


def train(spec: Source, store: Store, progress=lambda epoch, accuracy: None) -> Path:
    return pretrain(the_run(spec), store, progress)


def content(folder: Path) -> dict[str, bytes]:
    """Every checkpoint's bytes, and what the record says of them but the seconds."""
    record = read_json(folder / "run.json")
    for row in record["checkpoints"]:
        del row["seconds"]
    files = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    return files | {"run.json": json.dumps(record).encode()}


@pytest.fixture(scope="module", params=[SGD, ADAM], ids=["sgd", "adam"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Source, dict]:
    spec = request.param
    return spec, content(train(spec, Store(tmp_path_factory.mktemp("undisturbed"))))


def test_a_run_keeps_every_epoch_and_what_it_was(undisturbed: tuple[Source, dict]) -> None:
    _, files = undisturbed
    assert sorted(files) == [f"epoch-00{epoch}.safetensors" for epoch in range(5)] + ["run.json"]
    record = json.loads(files["run.json"])
    assert "resume" not in record  # nothing to go on with
    assert [row["epoch"] for row in record["checkpoints"]] == list(range(5))
    assert all(0 <= row["source_accuracy"] <= 1 for row in record["checkpoints"])
    assert len({row["digest"] for row in record["checkpoints"]}) == 5


@pytest.mark.parametrize("last", [0, 1, 3])
def test_stopped_after_an_epoch_it_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[Source, dict], last: int
) -> None:
    spec, expected = undisturbed
    store = Store(tmp_path)

    def stop(epoch: int, _accuracy: float) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, store, stop)
    epochs: list[int] = []
    folder = train(spec, store, lambda epoch, _: epochs.append(epoch))
    assert epochs == list(range(last + 1, 5))
    assert content(folder) == expected
    assert store.damaged == []


@pytest.mark.parametrize("undisturbed", [ADAM], ids=["adam"], indirect=True)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[Source, dict]
) -> None:
    spec, expected = undisturbed
    store, rng, kills = Store(tmp_path), random.Random(0), 0
    for attempt in range(100):
        with forked(lambda: train(spec, store)) as child:
            time.sleep(rng.uniform(0.01, 0.04) * (1 + attempt / 4))  # longer and longer: it gets somewhere
            os.kill(child, signal.SIGKILL)
            if wait_exit(child) == 0:
                break
            kills += 1
    folder = train(spec, store)
    assert kills >= 3
    assert content(folder) == expected


@pytest.mark.parametrize("undisturbed", [ADAM], ids=["adam"], indirect=True)
def test_a_compiled_run_is_the_same_run_and_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[Source, dict]
) -> None:
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    spec, expected = undisturbed
    counts: list[int] = []
    run = the_run(spec, compile=True)
    folder = pretrain(run, Store(tmp_path), lambda epoch, accuracy: counts.append(len(compiled)))
    assert run.key != the_run(spec).key
    assert 0 < counts[1] == counts[-1]
    eager = load(expected["epoch-004.safetensors"])
    for name, value in load_file(folder / "epoch-004.safetensors").items():
        torch.testing.assert_close(value, eager[name], rtol=1e-3, atol=1e-4)


def test_momentum_is_part_of_what_is_kept(tmp_path: Path) -> None:
    def stop(epoch: int, _accuracy: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    for spec, names in ((SGD, {"momentum_buffer"}), (ADAM, {"exp_avg", "exp_avg_sq", "step"})):
        with pytest.raises(KeyboardInterrupt):
            train(spec, Store(tmp_path), stop)
        folder = the_run(spec).folder(Store(tmp_path))
        state = load_file(folder / "resume-002.safetensors")
        moments = {key: value for key, value in state.items() if key.startswith("optimiser.")}
        assert {key.rpartition(".")[2] for key in moments} == names
        assert all(value.abs().sum() > 0 for value in moments.values())
        assert [path.name for path in folder.glob("resume*")] == ["resume-002.safetensors"]


@pytest.mark.parametrize("harm", ["flip", "gone", "record"])
def test_a_damaged_state_is_reported_and_the_run_made_again(
    tmp_path: Path, undisturbed: tuple[Source, dict], harm: str
) -> None:
    spec, expected = undisturbed
    store = Store(tmp_path)

    def stop(epoch: int, _accuracy: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, store, stop)
    folder = the_run(spec).folder(store)
    state = folder / "resume-002.safetensors"
    if harm == "flip":
        damaged = bytearray(state.read_bytes())
        damaged[-5] ^= 4
        state.write_bytes(damaged)
    elif harm == "gone":
        state.unlink()
    else:
        (folder / "run.json").write_text("{")
    train(spec, store)
    assert len(store.damaged) == 1
    assert "run.json" in store.damaged[0]
    assert content(folder) == expected


def test_a_finished_run_is_not_touched(tmp_path: Path) -> None:
    folder = train(source(1), Store(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    train(source(1), Store(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"source run run diverged in epoch \d \(loss nan\): a smaller lr is needed"
    ):
        train(source(lr=1e20), Store(tmp_path))


def test_the_key_names_what_changes_the_weights_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    key = the_run(SGD).key
    same = {"name": "other", "judge": (0, 1), "learnt": 0.9}
    assert the_run(SGD.model_copy(update=same)).key == key
    assert the_run(source(schedule="step", milestones=(2,), precision="fp32")).key == {
        **key,
        "precision": "fp32",
    }
    for update in (
        {"seed": 1}, {"epochs": 5}, {"architecture": "smallcnn:width=5"}, {"mean": (0.0, 0.0, 0.0)},
        {"objective": "rotation"}, {"objective": "supervised:noise=0.1"},
    ):  # fmt: skip
        assert the_run(SGD.model_copy(update=update)).key != key
    assert the_run(ADAM).key != key
    assert the_run(SGD.model_copy(update={"data": SGD.data.model_copy(update={"seed": 1})})).key != key
    assert key["precision"] in ("fp32", "bf16")
    assert {"device", "instructions", "torch", "threads", "extractor"} <= key.keys()
    monkeypatch.setattr(
        "ckptbench.networks.hardware.has_fast_bf16", lambda device: key["precision"] == "fp32"
    )
    assert the_run(SGD).key != key


def test_training_uses_one_thread_whatever_is_set(tmp_path: Path) -> None:
    seen = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(source(1), Store(tmp_path), lambda epoch, _: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


@pytest.mark.parametrize("objective", ["rotation", "contrastive", "supervised:noise=0.5"])
def test_other_objectives_resume_to_the_same_bytes(tmp_path: Path, objective: str) -> None:
    augment = "none" if objective == "contrastive" else "crop-flip"
    spec = source(2, augment=augment).model_copy(update={"objective": objective})
    whole = train(spec, Store(tmp_path / "whole"))

    def stop(epoch: int, _accuracy: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, Store(tmp_path / "cut"), stop)
    assert content(train(spec, Store(tmp_path / "cut"))) == content(whole)
    network, has_head = the_run(spec).architecture.load(whole / "epoch-002.safetensors")
    assert has_head == (objective != "contrastive")
    if objective == "rotation":
        assert network.get_submodule(the_run(spec).architecture.head_name(network)).out_features == 4


def test_a_record_names_every_checkpoint_and_knows_its_bytes(tmp_path: Path) -> None:
    folder = train(source(2), Store(tmp_path))
    rows = read_json(folder / "run.json")["checkpoints"]
    assert rows[0]["training_loss"] is None
    assert all(0 <= row["training_accuracy"] <= 1 and row["training_loss"] > 0 for row in rows[1:])
    (folder / "epoch-001.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"epoch-001\.safetensors is gone, which .*run\.json names"):
        trajectory(source(2), folder)
    (tmp_path / "elsewhere").rename(folder / "epoch-001.safetensors")
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"epoch": 1', '"epoch": 3'))
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        trajectory(source(2), folder)


def test_soundness(tmp_path: Path) -> None:
    spec = source(4).model_copy(update={"learnt": 0.5})

    def said(*curve: tuple[float, float], epochs: int = 4) -> str:
        rows = [{"epoch": 0, "training_loss": None, "training_accuracy": None}]
        rows += [
            {"epoch": epoch, "training_loss": loss, "training_accuracy": accuracy}
            for epoch, (loss, accuracy) in enumerate(curve, 1)
        ]
        write_json(tmp_path / "run.json", {"guess": 2.3, "checkpoints": rows})
        return soundness(read_record(tmp_path), spec.model_copy(update={"epochs": epochs}))

    assert soundness(read_record(tmp_path), spec) == ""  # a folder of somebody's own
    assert said((11.3, 0.1), (2.0, 0.3), (1.5, 0.4), (1.0, 0.5)) == ""
    assert said((2.2, 0.1), (2.0, 0.3), (2.4, 0.4), (1.0, 0.5)).startswith(
        "its training loss is 2.40 in epoch 3"
    )
    assert "falls from 60% to 20% in epoch 3" in said((2, 0.4), (1, 0.6), (2.0, 0.2), (1.0, 0.9))
    assert "ends at 40%, and 50% was expected" in said((2, 0.2), (2, 0.3), (2, 0.3), (2, 0.4))
    assert said((2, 0.6), (1, 0.8)) == "it has 2 of its 4 epochs"
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        read_record(tmp_path)


def test_judged_epochs_are_those_of_the_suite(tmp_path: Path) -> None:
    spec = source(2)
    folder = train(spec, Store(tmp_path))
    assert [c.epoch for c in trajectory(spec, folder)] == [0, 1, 2]
    assert [c.epoch for c in trajectory(spec.model_copy(update={"judge": (0, 2)}), folder)] == [0, 2]
    with pytest.raises(InputError, match="source run has no checkpoint of epoch 7"):
        trajectory(spec.model_copy(update={"judge": (0, 7)}), folder)
    assert last_epoch(folder)[0] == 2
    assert last_epoch(tmp_path)[0] == -1
    assert [c.source_accuracy for c in read_run(folder, spec.architecture)[0]] == [
        row["source_accuracy"] for row in json.loads((folder / "run.json").read_text())["checkpoints"]
    ]


def test_given_checkpoints_are_not_trained(tmp_path: Path) -> None:
    spec = Source(name="theirs", architecture="resnet18", checkpoints=str(tmp_path))
    assert find_run(spec, None, CPU).folder(Store(tmp_path / "store")) == tmp_path
