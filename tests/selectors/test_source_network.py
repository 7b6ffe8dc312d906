"""Scores of the network on its source images: against loops, closed forms and weighted samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.made_up import SELECTORS
from helpers.tiny import SUITE, run_suite, write_suite
from torch import nn

from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Array
from ckptbench.scores.candidate import Candidate, Images
from ckptbench.scores.score import score as library_score

MEAN = STD = (0.5, 0.5, 0.5)


def network(classes: int = 3, side: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 6), nn.ReLU(), nn.Linear(6, classes))


def on_images(make: Callable[[], nn.Module], n: int = 20, side: int = 8, classes: int = 3) -> Candidate:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, 3, side, side)).astype(np.uint8)
    images = Images(pixels, np.arange(n) % classes, MEAN, STD)
    return Candidate(np.zeros((3, 2)), np.arange(3), make_model=make, read_source_images=lambda: images)


def source_loss(model: nn.Module, candidate: Candidate) -> float:
    images = candidate.source_images()
    inputs = (torch.tensor(images.pixels).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(inputs), torch.tensor(images.labels)))


def slow_lidar(embeddings: Array, delta: float = 1e-4) -> float:
    n, q, d = embeddings.shape
    means = [np.mean(views, axis=0) for views in embeddings]
    between = sum(np.outer(m - np.mean(means, axis=0), m - np.mean(means, axis=0)) for m in means) / n
    within = sum(np.outer(e - m, e - m) for views, m in zip(embeddings, means, strict=True) for e in views)
    values, vectors = np.linalg.eigh(within / (n * q) + delta * np.eye(d))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    p = np.maximum(np.linalg.eigvalsh(root @ between @ root), 0)
    p = p / p.sum() + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def test_lidar_is_its_definition() -> None:
    import sys

    lidar = sys.modules[SELECTORS["lidar"].plugin.__module__].lidar
    embeddings = np.random.default_rng(0).normal(size=(30, 4, 5)) * np.geomspace(1, 0.1, 5)
    embeddings += np.random.default_rng(1).normal(size=(30, 1, 5))
    assert lidar(embeddings) == pytest.approx(slow_lidar(embeddings), rel=1e-9)
    # Images that differ alike in k directions, whose views do not differ: rank k.
    corners = np.repeat(np.vstack([np.eye(3, 5), -np.eye(3, 5)])[:, None], 2, axis=1)
    assert lidar(corners) == pytest.approx(3.0, rel=1e-4)


def test_lidar_takes_the_heads_input_for_views_that_are_the_same_at_every_call() -> None:
    plugin = SELECTORS["lidar:images=12,views=3"].make()
    first, again = (plugin.score(on_images(network)) for _ in range(2))
    assert first == again
    assert 1.0 <= first <= 6.0 + 1e-3  # features of the head's input


def test_noise_in_the_weights_raises_the_loss_by_what_the_draws_say() -> None:
    candidate, gamma, draws = on_images(network), 0.5, 3
    generator = torch.Generator().manual_seed(7)
    rises = []
    for _ in range(draws):
        moved = network()
        with torch.no_grad():
            for weight in (moved[1].weight, moved[3].weight):
                weight += gamma / math.sqrt(weight.shape[1]) * torch.randn(weight.shape, generator=generator)
        rises.append(source_loss(moved, candidate) - source_loss(network(), candidate))
    plugin = SELECTORS[f"perturbation-sensitivity:gamma={gamma},draws={draws},seed=7"].make()
    assert plugin.score(candidate) == pytest.approx(-np.mean(rises), rel=1e-4)


def test_free_energy_is_the_mean_loss_of_the_localised_posterior() -> None:
    """Against importance sampling from the prior, in a network of eight weights."""

    def small() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 2))

    candidate, gamma = on_images(small, n=30, side=1, classes=2), 2.0
    images = candidate.source_images()
    x = np.column_stack([(images.pixels.reshape(30, 3) / 255 - 0.5) / 0.5, np.ones(30)])
    with torch.no_grad():
        start = torch.cat([small()[1].weight, small()[1].bias[:, None]], 1).double().numpy()
    draws = start + np.random.default_rng(0).normal(size=(20_000, 2, 4)) / math.sqrt(gamma)
    logits = np.einsum("nd,scd->snc", x, draws)
    log_p = logits - np.logaddexp(logits[..., :1], logits[..., 1:])
    losses = -log_p[:, np.arange(30), images.labels].mean(axis=1)
    weight = np.exp(-30 / math.log(30) * (losses - losses.min()))
    expected = (weight * losses).sum() / weight.sum()
    plugin = SELECTORS[f"free-energy:gamma={gamma},steps=1500,batch=60"].make()
    assert plugin.score(candidate) == pytest.approx(-expected, rel=0.05)


@pytest.mark.parametrize("name", ["perturbation-sensitivity", "free-energy"])
def test_labels_that_the_head_does_not_know_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="labels up to 2, the network's head knows 2"):
        SELECTORS[name].make().score(on_images(lambda: network(2)))


def test_a_suite_hands_over_the_images_behind_the_source_rows(tmp_path: Path) -> None:
    text = SUITE.replace('"ncti"', '"perturbation-sensitivity:images=10,draws=1"')
    plan = run_suite(write_suite(tmp_path, text), tmp_path, upto="score")
    (source,) = plan.sources
    file = plan.candidates(source, "digits")[-1]
    candidate = file.load(Store(tmp_path / "store"))
    images = candidate.source_images()
    assert images.pixels.dtype == np.uint8
    assert images.mean == (0.5, 0.5, 0.5)
    assert source.rows is not None
    np.testing.assert_array_equal(images.pixels, source.rows.images(slice(None)))
    np.testing.assert_array_equal(images.labels, source.rows.labels)
    with pytest.raises(InputError, match="no source images"):
        candidate.only(("features",)).source_images()
    spec = plan.specs[3]
    assert spec.is_dear
    assert not spec.is_cheap
    cell = Store(tmp_path / "store").read_cell(file.key(spec))
    assert cell is not None
    assert cell.status == "ok", cell.message
    # It sees nothing of the target, so that all targets of a run share the cell.
    other = Store(tmp_path / "store").read_cell(file.key(plan.specs[0]))
    assert other is not None
    assert "examples" not in file.key(spec)["features"]
    assert "examples" in file.key(plan.specs[0])["features"]


def test_a_star_leaves_out_the_dear() -> None:
    chosen = {spec.name for spec in SELECTORS.select(["*"])}
    assert "lidar" not in chosen
    assert {spec.name for spec in SELECTORS.select(["*", "lidar"])} == chosen | {"lidar"}


def test_images_that_nobody_has_are_asked_for_by_name() -> None:
    with pytest.raises(InputError, match="lidar needs images of the source set"):
        library_score("lidar", np.eye(4), np.arange(4) % 2)
