"""Steepness and curvature where fine-tuning starts: against loops and the full Hessian of a small network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.made_up import SELECTORS
from helpers.tiny import SUITE, run_suite, write_suite
from torch import nn
from torch.nn.functional import cross_entropy

from ckptbench.base.errors import InputError
from ckptbench.scores.candidate import Candidate, Images

N, CLASSES, SEED = 12, 3, 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 7))


def candidate(needs: tuple[str, ...] = ("labels", "weights", "target_images")) -> Candidate:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 2, 2)).astype(np.uint8)
    labels = np.arange(N) % CLASSES

    def read(rows: np.ndarray) -> Images:
        return Images(pixels[rows], labels[rows], (0.5,) * 3, (0.5,) * 3)

    return Candidate(np.zeros((N, 4)), labels, seed=SEED, make_model=network, read_target_images=read).only(
        needs
    )


def start() -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """All weights with the new head as a vector, and the loss there as the selectors have it."""
    model, images = network(), candidate().target_images(N)
    torch.manual_seed(SEED)
    model[3] = nn.Linear(4, CLASSES)
    x, y = torch.tensor(images.pixels) / 255 * 2 - 1, torch.tensor(images.labels)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    return theta, loss


def found(label: str) -> float:
    return SELECTORS[label].make().score(candidate())


def test_scores_are_their_definitions() -> None:
    theta, loss = start()
    gradient = torch.autograd.functional.jacobian(loss, theta)
    length = float(gradient.norm())
    assert found("start-gradient") == pytest.approx(-length, rel=1e-5)
    walk = [abs(float(loss(theta - 0.01 * step / length * gradient) - loss(theta))) for step in range(1, 101)]
    assert found("start-variation:every=1") == pytest.approx(-max(walk), rel=1e-4)
    largest = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta))[-1])
    assert found("start-curvature") == pytest.approx(-largest, rel=2e-2)


def test_the_draw_is_the_candidates() -> None:
    assert found("start-gradient:images=6") == found("start-gradient:images=6")
    images = candidate().target_images(5)
    assert len(images.pixels) == len(images.labels) == 5


def test_images_are_for_those_who_need_them_and_go_with_all_rows() -> None:
    for hidden in (candidate(("labels", "weights")), candidate().rows(np.arange(4))):
        with pytest.raises(InputError, match="no target images"):
            hidden.target_images(3)


def test_a_suite_hands_over_the_targets_own_images(tmp_path: Path) -> None:
    plan = run_suite(write_suite(tmp_path, SUITE), tmp_path, upto="extract")
    (source,), (target,) = plan.sources, plan.targets
    file = plan.candidates(source, target)[-1]
    seen = file.load(plan.store)
    images = seen.target_images(6)
    train = plan.targets[target].train
    rows = np.sort(seen.rng.permutation(len(seen.labels))[:6])
    np.testing.assert_array_equal(images.pixels, train.images(rows))
    np.testing.assert_array_equal(images.labels, train.labels[rows])
    assert SELECTORS["start-gradient:images=6"].make().score(seen) < 0
