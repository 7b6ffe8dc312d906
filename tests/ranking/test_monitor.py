"""Monitor: training is left as it was, what is logged is what rank would say, the best are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ckptbench import InputError, Monitor, rank
from ckptbench.base.types import Array

NORMALISE = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def target() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 200, (45, 8, 8, 3)), np.arange(45) % 3
    images[np.arange(45), ..., labels] += 55
    return images.astype(np.uint8), labels


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def train(model: nn.Module, monitor: Monitor | None, epochs: int = 4) -> dict[str, torch.Tensor]:
    """A plain loop that draws from torch's generator."""
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(1)
    model.train()
    for epoch in range(1, epochs + 1):
        for _ in range(3):
            loss = nn.functional.cross_entropy(model(torch.randn(16, 3, 8, 8)), torch.randint(5, (16,)))
            opt.zero_grad()
            loss.backward()
            opt.step()
        if monitor is not None:
            monitor(model, epoch)
    return model.state_dict()


def test_training_with_it_ends_in_the_same_weights(target: tuple[Array, Array], tmp_path: Path) -> None:
    logged: dict[int, dict[str, float]] = {}
    monitor = Monitor(
        {"colours": target, "other": target}, size=8, normalise=NORMALISE, scores=("ridge-loo", "logme"),
        probe=2, keep=1, folder=tmp_path / "best", store=tmp_path / "store",
        log=lambda values, epoch: logged.update({epoch: values}),
    )  # fmt: skip
    watched = network()
    seen, alone = train(watched, monitor), train(network(), None)
    assert seen.keys() == alone.keys()
    for name in seen:
        assert torch.equal(seen[name], alone[name]), name
    assert all(module.training for module in watched.modules())
    assert all(p.requires_grad and not p.is_inference() for p in watched.parameters())
    assert list(logged) == [1, 2, 3, 4]
    assert "colours/accuracy" in logged[2]
    assert "colours/accuracy" not in logged[3]
    assert {"colours/ridge-loo", "colours/logme", "other/logme"} <= logged[1].keys()
    # The best by the first score, and the last, with its weights.
    best = max(logged, key=lambda epoch: logged[epoch]["colours/ridge-loo"])
    kept = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert kept == sorted({f"epoch-{best:03d}.safetensors", "epoch-004.safetensors"})
    found = monitor.ranking()
    assert sorted(found.table["epoch"]) == [1, 2, 3, 4]
    probe = found.table.set_index("epoch")["measured"]
    assert probe[2] == pytest.approx(logged[2]["colours/accuracy"])
    # rank says the same of the network itself.
    alike = rank([watched], None, target, size=8, normalise=NORMALISE, store=tmp_path / "store2", limit=1000)
    assert alike.table["measured"][0] == pytest.approx(probe[4])


def test_wrapped_networks_and_what_does_not_fit(target: tuple[Array, Array], tmp_path: Path) -> None:
    monitor = Monitor(target, size=8, store=tmp_path, part="inner")
    with pytest.raises(InputError, match="no epoch has ended yet"):
        monitor.ranking()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.loss = network(), nn.CrossEntropyLoss()

    monitor(nn.DataParallel(Outer()), 3)
    with pytest.raises(InputError, match="epoch 3 was measured before"):
        monitor(Outer(), 3)
    with pytest.raises(InputError, match="in which folder"):
        Monitor(target, keep=2)
    odd = (
        ({}, {}, "at least one target"),
        (target, {"keep": -1, "folder": "x"}, "keep is -1"),
        (target, {"log": 5}, "log is a int"),
        (target, {"scores": ["nope"]}, "no selector is called 'nope'"),
        (target, {"scores": ["leep"]}, "leep needs source_probs"),
        (target, {"scores": ["consensus"]}, "consensus needs other checkpoints"),
    )
    for data, options, sentence in odd:
        with pytest.raises(InputError, match=sentence):
            Monitor(data, size=8, store=tmp_path, **options)
    for model, epoch, sentence in (
        (5, 9, "the model is a int"),
        (network(), 9, "there is no part 'inner'"),
        (Outer(), 9.5, "epoch is 9.5"),
    ):
        with pytest.raises(InputError, match=sentence):
            monitor(model, epoch)
    with pytest.raises(InputError, match="no target 'x'"):
        monitor.ranking("x")
    broken = Outer()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.warns(UserWarning, match="epoch 4 is not measured: .*not finite"):
        assert monitor(broken, 4) == {}
    assert len(monitor.ranking().table) == 1


def test_targets_of_several_labels_and_of_numbers(target: tuple[Array, Array], tmp_path: Path) -> None:
    images, labels = target
    for task, values, metric in (
        ("multilabel", np.eye(3)[labels][:, :2], "map"),
        ("regression", images[:, ..., 0].mean(axis=(1, 2)), "r2"),
    ):
        monitor = Monitor((images, values), size=8, task=task, probe=1, store=tmp_path)
        logged = monitor(network(), 1)
        assert set(logged) == {"target/ridge-loo-error", f"target/{metric}"}
        assert monitor.ranking().table["measured"][0] == pytest.approx(logged[f"target/{metric}"])
