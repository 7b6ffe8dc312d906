"""Checkpoints of others: found, ordered, loaded without unpickling, fitted, or refused in a sentence."""

from __future__ import annotations

import argparse
import enum
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ckptbench.base.errors import InputError
from ckptbench.base.files import write_json
from ckptbench.networks.architectures import Architecture, find_architecture, split_spec
from ckptbench.networks.layouts import read_file
from ckptbench.networks.runs import read_run
from ckptbench.plugins import load_plugins

ARCH = "smallcnn:width=4"


def architecture(spec: str = ARCH, layer: str | None = None) -> Architecture:
    return find_architecture(spec, load_plugins("extractor"), layer)


def weights(classes: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return architecture().build(classes).state_dict()


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


# What is read.


def content_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of this architecture in a file."""
    return architecture().fit(path).state


def wrapped(state: dict[str, torch.Tensor]) -> dict[str, tuple[object, str]]:
    """Layouts as trainers write them, and where the weights are in each."""
    other = weights(seed=9)

    def under(prefix: str, state: dict[str, torch.Tensor] = state) -> dict[str, torch.Tensor]:
        return {prefix + key: value for key, value in state.items()}

    return {
        "bare": (state, "the whole file"),
        "example": ({"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}, "state_dict"),
        "model": ({"model": state}, "model"),
        "parallel": ({"state_dict": under("module."), "best": 0.9}, "state_dict under 'module.'"),
        "compiled": (under("_orig_mod."), "the whole file"),
        "compiled parallel": ({"model": under("module._orig_mod.")}, "model under 'module.'"),
        "lightning": (
            {"epoch": 4, "state_dict": under("model."), "hyper_parameters": argparse.Namespace(lr=0.1)},
            "state_dict under 'model.'",
        ),
        "timm": (
            {"arch": "x", "args": argparse.Namespace(lr=1), "state_dict": other, "state_dict_ema": state},
            "state_dict_ema",
        ),
        "model_ema": ({"model": other, "model_ema": state, "epoch": 7}, "model_ema"),
        "dino": (
            {"student": under("module.backbone.", other), "teacher": under("backbone.")},
            "teacher under 'backbone.'",
        ),
        "moco": (
            {"state_dict": under("module.encoder_k.", other) | under("module.encoder_q.")},
            "state_dict under 'module.encoder_q.'",
        ),
        "moco v3": (
            {"state_dict": under("module.momentum_encoder.", other) | under("module.base_encoder.")},
            "state_dict under 'module.base_encoder.'",
        ),
        "simclr": (
            {"state_dict": under("backbone.") | {"projector.0.weight": torch.ones(2, 2)}},
            "state_dict under 'backbone.'",
        ),
        "mae": ({"model": state | {"mask_token": torch.ones(1, 1, 8)}}, "model"),
        "open_clip": (under("visual.") | {"logit_scale": torch.ones(())}, "the whole file under 'visual.'"),
        "swa": (under("module.") | {"n_averaged": torch.tensor(3)}, "the whole file under 'module.'"),
        "numpy scalars, paths, enumerations": (
            {"model": state, "best": np.float64(0.9), "where": Path("a"), "kind": ResampleKind.SMOOTH},
            "model",
        ),
    }


class ResampleKind(enum.Enum):
    SMOOTH = 1


@pytest.mark.parametrize("layout", list(wrapped({})))
def test_what_trainers_write_is_read_and_said(tmp_path: Path, layout: str) -> None:
    state = weights()
    content, place = wrapped(state)[layout]
    torch.save(content, tmp_path / "a.pt")
    found = architecture().fit(tmp_path / "a.pt")
    assert_equal(found.state, state)
    assert str(found.place).replace("'", '"') == place.replace("'", '"')


def test_a_key_and_a_prefix_choose_otherwise(tmp_path: Path) -> None:
    state, other = weights(), weights(seed=9)
    torch.save({"model": state, "model_ema": {f"a.{k}": v for k, v in other.items()}}, tmp_path / "a.pt")
    assert_equal(architecture().fit(tmp_path / "a.pt").state, other)
    assert_equal(replace(architecture(), key="model").fit(tmp_path / "a.pt").state, state)
    assert_equal(replace(architecture(), prefix="").fit(tmp_path / "a.pt").state, state)
    assert [str(place) for place in architecture().fit(tmp_path / "a.pt").others] == ["model"]
    with pytest.raises(InputError, match=r"under the key 'teacher' .there are: model, model_ema"):
        replace(architecture(), key="teacher").fit(tmp_path / "a.pt")


def test_shards_and_folders_of_hugging_face_are_read(tmp_path: Path) -> None:
    state = weights()
    names = sorted(state)
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    save = safetensors.torch.save_file
    save(state, folder / "model.safetensors")
    assert_equal(content_of(folder), state)
    (folder / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, own in parts.items():
        save({name: state[name] for name in own}, folder / file)
    assert_equal(content_of(folder), state)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, own in parts.items() for name in own}}))
    assert_equal(content_of(folder), state)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(InputError, match="outside of the folder"):
        content_of(folder)
    (folder / parts.popitem()[0]).unlink()
    index.unlink()
    with pytest.raises(InputError, match="missing"):
        content_of(folder)


def test_a_deeper_network_of_the_family_is_refused(tmp_path: Path) -> None:
    """Every tensor of resnet18 is in resnet34 by name and shape."""
    torch.save(architecture("resnet34").build(2).state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"is not a resnet18: too many: layer1\.2\."):
        architecture("resnet18").fit(tmp_path / "a.pt")


def test_a_head_of_another_kind_is_no_head(tmp_path: Path) -> None:
    chosen = architecture("resnet18")
    state = {k: v for k, v in chosen.build(2).state_dict().items() if not k.startswith("fc.")}
    torch.save(
        state | {"fc.0.weight": torch.ones(8, 512), "fc.2.weight": torch.ones(3, 8)}, tmp_path / "a.pt"
    )
    assert not chosen.load(tmp_path / "a.pt")[1]


def test_quantised_and_sparse_weights_are_a_sentence(tmp_path: Path) -> None:
    state = weights()
    state["0.weight"] = state["0.weight"].to_sparse()
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"quantised or sparse, where dense weights are needed: 0\.weight"):
        content_of(tmp_path / "a.pt")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(BOMBED),)


BOMBED = Path("/nowhere")


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save) -> None:
    monkeypatch.setitem(globals(), "BOMBED", tmp_path / "bombed")
    for content in (Bomb(), {"state_dict": weights(), "more": Bomb()}):
        save(content, tmp_path / "evil.pt")
        with pytest.raises(InputError, match=r"evil\.pt"):
            content_of(tmp_path / "evil.pt")
        assert not (tmp_path / "bombed").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "bombed").exists()  # the bomb was live


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for content in ({}, {"epoch": 3, "state_dict": {"lr": 0.1}}, [torch.ones(2)], torch.ones(2)):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(InputError, match="holds no tensors by name"):
            content_of(tmp_path / "a.pt")
    for name in ("b.pt", "b.safetensors"):
        with pytest.raises(InputError, match="there is no checkpoint"):
            content_of(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_are_one_sentence(tmp_path: Path, kind: str) -> None:
    """Cut anywhere, or with bytes changed anywhere: read, or refused by name, and never anything else."""
    state = {"w": torch.arange(40.0), "b": torch.ones(3)}
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    sentences = []
    for number in range(120):
        content = bytearray(whole)
        if number % 2:
            content = content[: rng.integers(len(whole))]
        else:
            for position in rng.integers(len(whole), size=rng.integers(1, 20)):
                content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_file(path)
        except InputError as error:
            sentences.append(str(error))
    assert len(sentences) >= 60  # whatever is cut
    assert all(str(path) in sentence and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am a text", b"\x89PNG" + bytes(range(256)), b"PK\x03\x04"]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_foreign_files_are_one_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint .*a\.\w+ is damaged"):
        read_file(path)


# What fits.


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 1000])
def test_a_head_of_any_size_fits(tmp_path: Path, classes: int) -> None:
    torch.save(weights(classes), tmp_path / "a.pt")
    model, has_head = architecture().load(tmp_path / "a.pt")
    assert has_head
    assert not model.training
    assert_equal(dict(model.state_dict()), weights(classes))


def test_a_backbone_without_a_head_fits(tmp_path: Path) -> None:
    state = weights()
    head = architecture().head_name(architecture().build(2))
    torch.save({key: value for key, value in state.items() if not key.startswith(head)}, tmp_path / "a.pt")
    model, has_head = architecture().load(tmp_path / "a.pt")
    assert not has_head
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])


def test_old_files_without_batch_counters_fit(tmp_path: Path) -> None:
    state = weights()
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert counters
    torch.save({key: value for key, value in state.items() if key not in counters}, tmp_path / "a.pt")
    assert architecture().load(tmp_path / "a.pt")[1]


def test_half_precision_weights_fit(tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in weights().items()}, tmp_path / "a.pt")
    model, _ = architecture().load(tmp_path / "a.pt")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_y_400mf"])
def test_odd_families_fit(tmp_path: Path, name: str) -> None:
    """One has no linear layer, the other cannot be built without values."""
    chosen = architecture(name, layer="classifier.1" if name.startswith("squeeze") else None)
    torch.save(chosen.build(7).state_dict(), tmp_path / "a.pt")
    model, has_head = chosen.load(tmp_path / "a.pt")
    assert has_head
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_another_architecture_is_refused_with_a_handful_of_keys_and_shapes(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"is not a resnet18: missing .* and \d+ more$") as caught:
        architecture("resnet18").load(tmp_path / "a.pt")
    assert len(str(caught.value)) < len(str(tmp_path)) + 400
    torch.save(architecture("smallcnn:width=5").build(3).state_dict(), tmp_path / "b.pt")
    with pytest.raises(InputError) as caught:
        architecture().load(tmp_path / "b.pt")
    message = str(caught.value)
    assert "shapes differ: 0.weight is (5, 3, 3, 3), should be (4, 3, 3, 3)" in message
    assert message.count("should be") == 4
    assert "missing" not in message
    partly = {key: value for key, value in weights().items() if key != "0.weight"}
    torch.save(partly, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"is not a smallcnn:width=4: missing 0\.weight$"):
        architecture().load(tmp_path / "c.pt")


# Names.


def test_architectures_are_found_by_name_and_option() -> None:
    assert split_spec("resnet18:stem=small,width=4") == ("resnet18", {"stem": "small", "width": 4})
    assert architecture("resnet18:stem=small").build(2).conv1.kernel_size == (3, 3)
    for spec, sentence in (
        ("resnet81", r"no architecture is called 'resnet81': did you mean 'resnet18'\?"),
        ("resnet18:stem", "option 'stem' of 'resnet18:stem' should read name=value"),
        ("smallcnn:depth=3", "architecture 'smallcnn:depth=3': .*depth"),
        ("resnet18:stem=tiny", "stem='tiny' is not known"),
    ):
        with pytest.raises(InputError, match=sentence):
            architecture(spec).build(2)


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"resnet18 has no layer 'fcc': did you mean 'fc'\?"):
        architecture("resnet18", "fcc").head_name(architecture("resnet18").build(2))


def test_a_folder_is_a_trajectory_in_epoch_order(tmp_path: Path) -> None:
    for epoch in (10, 2, 0):
        torch.save(weights(seed=epoch), tmp_path / f"epoch{epoch}.pt")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "epoch7.pt").mkdir()
    (tmp_path / "resume-002.safetensors").write_text("")
    run = read_run(tmp_path, ARCH)[0]
    assert [c.epoch for c in run] == [0, 2, 10]
    assert {c.run for c in run} == {tmp_path.name}
    assert len({c.digest for c in run}) == 3
    assert [c.source_accuracy for c in run] == [None] * 3
    assert [c.epoch for c in read_run(tmp_path / "epoch2.pt", ARCH)[0]] == [2]


def test_files_without_epochs_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.pt", "a.pt"):
        torch.save(weights(), tmp_path / name)
    assert [(c.epoch, c.path.name) for c in read_run(tmp_path, ARCH)[0]] == [(0, "a.pt"), (1, "b.pt")]


def test_a_run_of_ours_knows_its_accuracies_and_its_bytes(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "epoch-000.pt")
    (plain,) = read_run(tmp_path, ARCH)[0]
    row = {"epoch": 0, "file": "epoch-000.pt", "digest": plain.digest, "source_accuracy": 0.5}
    record = tmp_path / "run.json"
    write_json(record, {"checkpoints": [row]})
    assert read_run(tmp_path, ARCH)[0][0].source_accuracy == 0.5
    torch.save(weights(seed=1), tmp_path / "epoch-000.pt")
    with pytest.raises(
        InputError, match=r"epoch-000\.pt is damaged: its bytes are not those that .*run\.json"
    ):
        read_run(tmp_path, ARCH)[0]
    record.write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        read_run(tmp_path, ARCH)[0]
