"""Extraction: the penultimate layer of every family, exact rows, bounded memory, and no work done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import forked, wait_exit
from numpy.typing import NDArray
from torch import nn

from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Checkpoint
from ckptbench.networks import extract as module
from ckptbench.networks.architectures import Architecture, find_architecture
from ckptbench.networks.extract import IMAGENET, Recipe, _penultimate, extract
from ckptbench.networks.hardware import pick_device
from ckptbench.networks.runs import read_run
from ckptbench.networks.training import to_input
from ckptbench.plugins import load_plugins

CPU = torch.device("cpu")
ARCH = "smallcnn:width=4"


class Pictures:
    """Random images that count how often they are decoded, and can end the process at one of them."""

    def __init__(self, count: int = 20, size: int = 8) -> None:
        self.count, self.size = count, size
        self.decoded: list[int] = []
        self.fatal: int | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(self.count) % 2

    @property
    def digest(self) -> str:
        return f"pictures-{self.count}-{self.size}"

    def __len__(self) -> int:
        return self.count

    def images(self, indices: slice) -> NDArray[np.uint8]:
        numbers = range(self.count)[indices]
        if self.fatal in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        self.decoded += numbers
        draw = np.random.default_rng(0).integers
        return draw(256, size=(self.count, 3, self.size, self.size), dtype=np.uint8)[indices]


def architecture(spec: str = ARCH, layer: str | None = None) -> Architecture:
    return find_architecture(spec, load_plugins("extractor"), layer)


def run(folder: Path, epochs: int = 3, spec: str = ARCH, classes: int = 3) -> list[Checkpoint]:
    folder.mkdir(exist_ok=True)
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        torch.save(architecture(spec).build(classes).state_dict(), folder / f"epoch{epoch}.pt")
    return read_run(folder, spec)[0]


def recipe(spec: str = ARCH, layer: str | None = None, precision: str = "fp32") -> Recipe:
    return Recipe(architecture(spec, layer), IMAGENET, CPU, precision)


def features(store: Store, checkpoints: list[Checkpoint], pictures: Pictures, how: Recipe) -> list[NDArray]:
    found = [store.read_features(how.key(c, pictures)) for c in checkpoints]
    assert all(each is not None for each in found)
    return found


def feature_bytes(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.root.glob("features/*/*.npy")}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 4)


# Penultimate.

FAMILIES = {
    "resnet18": 32,
    "densenet121": 32,
    "alexnet": 64,
    "mobilenet_v3_small": 32,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
    "vit_b_32": 224,
    "swin_t": 32,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_penultimate_is_the_input_of_the_last_linear_layer(name: str) -> None:
    torch.manual_seed(0)
    chosen = architecture(name)
    model = chosen.build(5).eval()
    x = torch.randn(2, 3, FAMILIES[name], FAMILIES[name])
    layer = chosen.head_name(model)
    head = model.get_submodule(layer)
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    assert head is linear[-1]
    with torch.inference_mode():
        found = _penultimate(model, x, layer)
        assert found.shape == (2, head.in_features)
        assert found.abs().sum() > 0
        torch.testing.assert_close(found @ head.weight.T + head.bias, model(x), rtol=0, atol=1e-5)


def test_stored_features_and_head_give_the_logits_of_the_model(tmp_path: Path) -> None:
    pictures, store = Pictures(size=32), Store(tmp_path)
    checkpoints = run(tmp_path / "run", 1, "resnet18", classes=7)
    how = recipe("resnet18")
    extract(checkpoints, pictures, how, store)
    (found,) = features(store, checkpoints, pictures, how)
    assert found.dtype == np.float16
    weight, bias = store.read_head(how.key(checkpoints[0], pictures))
    assert weight.shape == (7, 512)
    model, _ = how.architecture.load(checkpoints[0].path)
    with torch.inference_mode():
        logits = model(to_input(torch.from_numpy(pictures.images(slice(None))), *IMAGENET)).numpy()
    np.testing.assert_allclose(
        found.astype(float) @ weight.T + bias, logits, rtol=0, atol=2e-3 * np.abs(logits).max()
    )


def test_rows_stand_at_their_sample_index(tmp_path: Path, small_batches: None) -> None:
    pictures, store = Pictures(), Store(tmp_path)
    checkpoints = run(tmp_path / "run")
    extract(checkpoints, pictures, recipe(), store)
    for checkpoint, found in zip(checkpoints, features(store, checkpoints, pictures, recipe()), strict=True):
        model, _ = architecture().load(checkpoint.path)
        for row in range(len(pictures)):
            one = to_input(torch.from_numpy(pictures.images(slice(row, row + 1))), *IMAGENET)
            with torch.inference_mode():
                expected = _penultimate(model, one, architecture().head_name(model))
            np.testing.assert_allclose(found[row], expected[0], rtol=2e-3, atol=1e-4)


def test_a_convolution_named_as_the_layer_gives_its_pooled_input(tmp_path: Path) -> None:
    pictures, store = Pictures(4, 64), Store(tmp_path)
    checkpoints = run(tmp_path / "run", 1, "squeezenet1_1", classes=4)
    how = recipe("squeezenet1_1", "classifier.1")
    extract(checkpoints, pictures, how, store)
    (found,) = features(store, checkpoints, pictures, how)
    assert found.shape == (4, 512)
    assert store.read_head(how.key(checkpoints[0], pictures)) is None
    model, _ = how.architecture.load(checkpoints[0].path)
    x = to_input(torch.from_numpy(pictures.images(slice(None))), *IMAGENET)
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.features(x).mean(dim=(2, 3)), rtol=2e-3, atol=1e-3)


def test_an_earlier_linear_layer_gives_its_input_and_no_logits(tmp_path: Path) -> None:
    pictures, store = Pictures(4, 32), Store(tmp_path)
    checkpoints = run(tmp_path / "run", 1, "mobilenet_v3_small", classes=4)
    how, usual = recipe("mobilenet_v3_small", "classifier.0"), recipe("mobilenet_v3_small")
    for each in (usual, how):
        extract(checkpoints, pictures, each, store)
    (found,) = features(store, checkpoints, pictures, how)
    model, _ = how.architecture.load(checkpoints[0].path)
    x = to_input(torch.from_numpy(pictures.images(slice(None))), *IMAGENET)
    with torch.inference_mode():
        expected = torch.flatten(model.avgpool(model.features(x)), 1)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)
    assert store.read_head(how.key(checkpoints[0], pictures)) is None
    weight, _ = store.read_head(usual.key(checkpoints[0], pictures))
    np.testing.assert_array_equal(weight, model.classifier[3].weight.detach())


def test_a_layer_that_the_network_does_not_use_is_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(InputError, match="does not use its layer 'unused'"):
        _penultimate(Lazy(), torch.ones(1, 2), "unused")


# Precision.


def test_bf16_stays_near_fp32_and_apart_from_it(tmp_path: Path) -> None:
    pictures, store = Pictures(size=32), Store(tmp_path)
    checkpoints = run(tmp_path / "run", 1, "resnet18")
    for precision in ("fp32", "bf16"):
        extract(checkpoints, pictures, recipe("resnet18", precision=precision), store)
    exact, half = (
        features(store, checkpoints, pictures, recipe("resnet18", precision=precision))[0].astype(float)
        for precision in ("fp32", "bf16")
    )
    error = np.linalg.norm(half - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02


@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0.0), (1e-9, 0.0), (1e-4, 1.0)])
def test_features_that_float16_cannot_hold_are_kept_as_float32(
    tmp_path: Path, scale: float, shift: float
) -> None:
    """Too large; too small; and too nearly constant, as of some untrained networks."""
    pictures, store = Pictures(), Store(tmp_path)
    run(tmp_path / "run", 1)
    state = torch.load(tmp_path / "run" / "epoch0.pt")
    state["7.weight"] *= scale  # the last batch norm's
    state["7.bias"] += shift
    torch.save(state, tmp_path / "run" / "epoch0.pt")
    checkpoints = read_run(tmp_path / "run", ARCH)[0]
    extract(checkpoints, pictures, recipe(), store)
    (found,) = features(store, checkpoints, pictures, recipe())
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.ptp(found, axis=0).max() > 0


# Once, and again.


def test_each_image_is_decoded_once_for_all_checkpoints(tmp_path: Path, small_batches: None) -> None:
    pictures, store = Pictures(), Store(tmp_path)
    steps: list[int] = []
    extract(run(tmp_path / "run"), pictures, recipe(), store, steps.append)
    assert sorted(pictures.decoded) == list(range(20))
    assert sum(steps) == 3 * 20
    extract(run(tmp_path / "run"), pictures, recipe(), store, steps.append)
    assert len(pictures.decoded) == 20


def test_grouping_by_memory_gives_the_same_bytes(tmp_path: Path, small_batches: None) -> None:
    checkpoints = run(tmp_path / "run")
    found = []
    size = checkpoints[0].path.stat().st_size
    for number, memory in enumerate((None, 0, 2.5 * size)):
        pictures, store = Pictures(), Store(tmp_path / str(number))
        extract(checkpoints, pictures, recipe(), store, memory=memory)
        found.append(feature_bytes(store))
        assert len(pictures.decoded) == 20 * (1, 3, 2)[number]
    assert len(found[0]) == 3 + 3  # features and heads
    assert found[0] == found[1] == found[2]


def test_one_new_checkpoint_is_extracted_alone(tmp_path: Path) -> None:
    pictures, store = Pictures(), Store(tmp_path)
    extract(run(tmp_path / "run", 2), pictures, recipe(), store)
    before = feature_bytes(store)
    steps: list[int] = []
    extract(run(tmp_path / "run", 3), pictures, recipe(), store, steps.append)
    assert sum(steps) == 20
    assert before.items() < feature_bytes(store).items()


def test_two_files_of_the_same_weights_are_one(tmp_path: Path) -> None:
    pictures, store = Pictures(), Store(tmp_path)
    run(tmp_path / "run", 1)
    (tmp_path / "run" / "epoch1.pt").write_bytes((tmp_path / "run" / "epoch0.pt").read_bytes())
    with forked(lambda: extract(read_run(tmp_path / "run", ARCH)[0], pictures, recipe(), store)) as child:
        assert wait_exit(child, 20) == 0  # and does not wait for its own lock
    assert len(feature_bytes(store)) == 2


@pytest.mark.parametrize("fatal", [0, 9, 19])
def test_a_killed_extraction_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_batches: None, fatal: int
) -> None:
    monkeypatch.setattr(module, "KEEP", 0.0)
    checkpoints = run(tmp_path / "run")
    calm, store = Store(tmp_path / "calm"), Store(tmp_path / "killed")
    extract(checkpoints, Pictures(), recipe(), calm)
    pictures = Pictures()
    pictures.fatal = fatal
    with forked(lambda: extract(checkpoints, pictures, recipe(), store)) as child:
        assert wait_exit(child, 20) == -signal.SIGKILL
    assert not any(store.has_features(recipe().key(c, pictures)) for c in checkpoints)
    pictures.fatal = None
    steps: list[int] = []
    extract(checkpoints, pictures, recipe(), store, steps.append)
    # The batch being decoded, and the one before it that was being worked on, may be lost.
    assert 0 <= pictures.decoded[0] <= fatal
    assert pictures.decoded[0] >= fatal - 2 * 4 - 1
    assert sum(steps) == 3 * 20
    assert feature_bytes(store) == feature_bytes(calm)
    assert list((store.root / "scratch").iterdir()) == []


def test_ctrl_c_loses_nothing(tmp_path: Path, small_batches: None) -> None:
    checkpoints = run(tmp_path / "run")
    pictures, store = Pictures(), Store(tmp_path)

    def interrupt(steps: int) -> None:
        if len(pictures.decoded) >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(checkpoints, pictures, recipe(), store, interrupt)
    again = Pictures()
    extract(checkpoints, again, recipe(), store)
    assert again.decoded == list(range(again.decoded[0], 20))
    assert again.decoded[0] >= 8


@pytest.mark.parametrize("harm", ["flip", "truncate", "sidecar"])
def test_a_damaged_file_is_reported_and_made_again(tmp_path: Path, harm: str) -> None:
    checkpoints, pictures, store = run(tmp_path / "run"), Pictures(), Store(tmp_path)
    extract(checkpoints, pictures, recipe(), store)
    before = feature_bytes(store)
    key = recipe().key(checkpoints[1], pictures)
    path = store._features_path(key)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-3] ^= 16
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[:-7])
    else:
        path.with_suffix(".json").write_text("{")
    steps: list[int] = []
    extract(checkpoints, pictures, recipe(), store, steps.append)
    assert sum(steps) == 20  # that checkpoint alone
    assert len(store.damaged) == 1
    assert path.stem in store.damaged[0]
    assert feature_bytes(store) == before


def test_a_lost_head_is_made_again_without_extraction(tmp_path: Path) -> None:
    checkpoints, pictures, store = run(tmp_path / "run"), Pictures(), Store(tmp_path)
    extract(checkpoints, pictures, recipe(), store)
    before = feature_bytes(store)
    for path in store.root.glob("features/*/*.json"):
        if '"head/1"' in path.read_text():
            path.unlink()
    assert not any(store.has_head(recipe().key(c, pictures)) for c in checkpoints)
    steps: list[int] = []
    extract(checkpoints, pictures, recipe(), store, steps.append)
    assert steps == []
    assert all(store.has_head(recipe().key(c, pictures)) for c in checkpoints)
    assert feature_bytes(store) == before


def test_a_diverged_checkpoint_is_named_and_the_others_are_kept(tmp_path: Path, small_batches: None) -> None:
    run(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "epoch1.pt")
    state["0.weight"][:] = float("nan")
    torch.save(state, tmp_path / "run" / "epoch1.pt")
    checkpoints, pictures, store = read_run(tmp_path / "run", ARCH)[0], Pictures(), Store(tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match=r"epoch1\.pt on examples 0\.\.3 are not finite"):
            extract(checkpoints, pictures, recipe(), store)
    assert [store.has_features(recipe().key(c, pictures)) for c in checkpoints] == [True, False, True]
    assert list((store.root / "scratch").iterdir()) == []


def test_the_key_names_all_that_changes_the_bytes(tmp_path: Path) -> None:
    one, two = run(tmp_path / "run", 2)
    base = recipe().key(one, Pictures())
    others = [
        recipe().key(two, Pictures()),
        recipe().key(one, Pictures(21)),
        recipe(layer="11").key(one, Pictures()),
        recipe(precision="bf16").key(one, Pictures()),
        Recipe(architecture(), ((0.5, 0.5, 0.5), (1, 1, 1)), CPU).key(one, Pictures()),
        Recipe(Architecture(ARCH, architecture().extractor, "another plugin"), IMAGENET, CPU).key(
            one, Pictures()
        ),
    ]
    assert all(other != base for other in others)


def test_memory_does_not_grow_with_the_number_of_examples(tmp_path: Path) -> None:
    """513 and 6,144 examples of 2,048 features: 44 MB of float32 rows and 4 MB of images more."""
    plugin = tmp_path / "wide.py"
    plugin.write_text("""
from torch import nn

class Wide:
    name = "wide"

    def architectures(self):
        return ["wide"]

    def build(self, architecture, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2048), nn.ReLU(), nn.Linear(2048, classes))

    def head(self, model):
        return "3"
""")
    code = f"""
import resource, sys, tempfile
import torch
from pathlib import Path
from ckptbench.networks.architectures import find_architecture
from ckptbench.networks.runs import read_run
from ckptbench.networks.extract import IMAGENET, Recipe, extract
from ckptbench.plugins import load_plugins
from ckptbench.base.store import Store
import numpy as np

class Pictures:
    def __init__(self, count):
        self.count, self.digest = count, str(count)
    def __len__(self):
        return self.count
    def images(self, indices):
        return np.full((len(range(self.count)[indices]), 3, 16, 16), 7, np.uint8)

torch.set_num_threads(1)
torch.manual_seed(0)
wide = find_architecture("wide", load_plugins("extractor", [{str(plugin)!r}]))
root = Path({str(tmp_path)!r})
(root / "run").mkdir()
for epoch in (0, 1):
    torch.save(wide.build(3).state_dict(), root / "run" / f"epoch{{epoch}}.pt")
run, store = read_run(root / "run", "wide")[0], Store(root)
recipe = Recipe(wide, IMAGENET, torch.device("cpu"))
peaks = []
for count in (513, 2561):
    extract(run, Pictures(count), recipe, store)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 20


def test_devices_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(InputError, match="device 'gpu' is not known: auto, cpu or cuda"):
        pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(InputError, match="no CUDA device is available"):
        pick_device("cuda")
