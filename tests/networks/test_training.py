"""Training pieces: augmentation per example, order, schedule, precision."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ckptbench.networks.hardware import has_fast_bf16
from ckptbench.networks.training import (
    augment,
    autocast,
    batches,
    optimiser,
    order,
    predict,
    schedule,
    seeded,
    set_rate,
    skip_padding,
    steps_per_epoch,
    ten_crops,
    to_input,
)
from ckptbench.suites import Training

CPU = torch.device("cpu")


def pictures(n: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def windows(image: torch.Tensor, kind: str) -> dict[bytes, tuple[bool, int, int]]:
    """Every outcome that the definition allows for one image, and how it came about."""
    pad = image.shape[-1] // 8 if "crop" in kind else 0
    height, width = image.shape[-2:]
    allowed = {}
    for mirrored in (False, True) if "flip" in kind else (False,):
        padded = F.pad(image.flip(-1) if mirrored else image, (pad,) * 4)
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                window = padded[:, top : top + height, left : left + width]
                allowed[window.contiguous().numpy().tobytes()] = (mirrored, top, left)
    return allowed


@pytest.mark.parametrize("kind", ["flip", "crop", "crop-flip"])
def test_augmentation_draws_every_allowed_outcome_equally_often(kind: str) -> None:
    n = 6000
    image = pictures(1)[0]
    batch = augment(image.expand(n, -1, -1, -1), kind, seed=3, epoch=1, indices=torch.arange(n))
    allowed = windows(image, kind)
    counts = dict.fromkeys(allowed.values(), 0)
    for row in batch.contiguous().numpy():
        counts[allowed[row.tobytes()]] += 1  # a KeyError is an outcome that the definition does not allow
    expected = n / len(counts)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    degrees = len(counts) - 1
    assert chi2 < degrees + 4 * math.sqrt(2 * degrees)


@settings(max_examples=30, deadline=None)
@given(
    indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    epoch=st.integers(0, 300),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_examples_augmentation_does_not_depend_on_its_batch(
    indices: list[int], epoch: int, seed: int
) -> None:
    images, rows = pictures(len(indices)), torch.tensor(indices)
    together = augment(images, "crop-flip", seed, epoch, rows)
    alone = [
        augment(images[i : i + 1], "crop-flip", seed, epoch, rows[i : i + 1]) for i in range(len(indices))
    ]
    assert torch.equal(together, torch.cat(alone))


def test_resized_crops_are_boxes_of_the_allowed_sizes_and_shapes() -> None:
    """On ramps across and down, whose slopes and offsets tell each box."""
    n, side, window = 400, 256, 32
    ramp = torch.arange(side, dtype=torch.uint8).expand(side, side)
    images = torch.stack([ramp, ramp.T, ramp]).expand(n, -1, -1, -1)
    crops = augment(images, "resized-crop", 3, 1, torch.arange(n), window).double()
    assert crops.shape == (n, 3, window, window)
    line = torch.arange(window) + 0.5
    boxes = {}
    for name, values in (("wide", crops[:, 0].mean(1)), ("high", crops[:, 1].mean(2))):
        slope = ((line - line.mean()) * values).sum(1) / ((line - line.mean()) ** 2).sum()
        start = values.mean(1) - slope * line.mean() + 0.5
        assert (start > -2).all()
        assert (start + slope * window < side + 2).all()
        boxes[name] = slope * window / side
    area, ratio = boxes["wide"] * boxes["high"], boxes["wide"] / boxes["high"]
    assert 0.07 < area.min() < 0.13 < 0.85 < area.max() < 1.01
    assert 0.72 < ratio.min() < 0.8 < 1.25 < ratio.max() < 1.38
    assert area.mean() == pytest.approx(0.53, abs=0.05)


def test_ten_crops_are_corners_and_middle_and_their_mirrors() -> None:
    images = pictures(2)
    crops = ten_crops(images, 4)
    size = images.shape[2]
    assert len(crops) == 10
    assert torch.equal(crops[0], images[:, :, :4, :4])
    assert torch.equal(crops[3], images[:, :, size - 4 :, size - 4 :])
    middle = (size - 4) // 2
    assert torch.equal(crops[4], images[:, :, middle : middle + 4, middle : middle + 4])
    assert torch.equal(crops[9], crops[4].flip(3))


def test_augmentation_changes_with_epoch_and_seed_alone() -> None:
    images, rows = pictures(64), torch.arange(64)
    first = augment(images, "crop-flip", 1, 1, rows)
    torch.manual_seed(99)
    assert torch.equal(first, augment(images, "crop-flip", 1, 1, rows))
    assert not torch.equal(first, augment(images, "crop-flip", 1, 2, rows))
    assert not torch.equal(first, augment(images, "crop-flip", 2, 1, rows))
    assert augment(images, "none", 1, 1, rows) is images


@given(n=st.integers(1, 200), batch=st.integers(1, 64), epoch=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_batches_are_full_and_disjoint(n: int, batch: int, epoch: int) -> None:
    steps = batches(n, batch, 7, epoch)
    assert len(steps) == steps_per_epoch(n, batch)
    assert {len(step) for step in steps} == {min(batch, n)}
    seen = torch.cat(steps).tolist()
    assert len(set(seen)) == len(seen)
    assert sorted(order(n, 7, epoch).tolist()) == list(range(n))
    assert order(n, 7, epoch).tolist()[: len(seen)] == seen


def test_orders_differ_between_epochs_and_seeds() -> None:
    assert not torch.equal(order(100, 1, 0), order(100, 1, 1))
    assert not torch.equal(order(100, 1, 0), order(100, 2, 0))


def test_input_is_the_normalised_image() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    images = pictures(4)
    expected = (images.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    x = to_input(images, mean, std)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x.numpy(), expected.numpy(), atol=1e-5)


def test_schedules() -> None:
    constant = Training(lr=1, schedule="constant")
    step = Training(lr=1, schedule="step", milestones=(2, 4), gamma=0.1)
    cosine = Training(lr=1, schedule="cosine")
    assert [schedule(constant, i, 50, 10) for i in (0, 49)] == [1, 1]
    at = [schedule(step, i, 50, 10) for i in (0, 19, 20, 39, 40, 49)]
    np.testing.assert_allclose(at, [1, 1, 0.1, 0.1, 0.01, 0.01])
    np.testing.assert_allclose([schedule(step, i, 50, 1) for i in (1, 2, 4)], [1, 0.1, 0.01])
    at = [schedule(cosine, i, 60, 10) for i in (0, 20, 30, 60)]
    np.testing.assert_allclose(at, [1, 0.75, 0.5, 0], atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_rates_of_groups_keep_their_ratio(name: str) -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    opt = optimiser(
        [{"params": one.parameters()}, {"params": two.parameters(), "lr": 0.5}],
        Training(optimiser=name, lr=0.05),
    )
    for factor in (1.0, 0.1, 0.3):
        set_rate(opt, factor)
        np.testing.assert_allclose([group["lr"] for group in opt.param_groups], [0.05 * factor, 0.5 * factor])


def test_seeded_draws_the_same_and_gives_the_old_state_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, CPU):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, CPU):
        assert torch.equal(torch.rand(3), first)


def test_precision_decides_the_type_of_a_product() -> None:
    a = torch.ones(2, 2)
    for precision, dtype in (
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("auto", torch.bfloat16 if has_fast_bf16(CPU) else torch.float32),
    ):
        with autocast(precision, CPU):
            assert (a @ a).dtype == dtype


def test_prediction_is_the_argmax_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    network[1].running_mean.fill_(0.3)
    images = pictures(11)
    network.train()
    found = predict(network, images, (0.5,) * 3, (0.2,) * 3, "fp32", batch=4)
    with torch.no_grad():
        expected = network.eval()(to_input(images, (0.5,) * 3, (0.2,) * 3)).argmax(1)
    assert torch.equal(found, expected)
    assert torch.equal(network[1].running_mean, torch.full((4,), 0.3))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2},
        {"padding": 1, "groups": 2},
        {"padding": 2},
        {"padding": "same"},
    ],
    ids=str,
)
def test_skipping_padding_changes_nothing_but_the_cost(size: int, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    kernel = 5 if options["padding"] == 2 else 3
    usual = nn.Sequential(nn.Conv2d(4, 6, kernel, **options)).double()
    lean = copy.deepcopy(usual)
    skip_padding(lean)
    assert (type(lean[0]) is nn.Conv2d) == (options["padding"] == "same")
    x = torch.randn(5, 4, size, size, dtype=torch.float64)
    found, expected = lean(x), usual(x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((y * weights).sum(), list(net.parameters()))
        for net, y in ((lean, found), (usual, expected))
    ]
    torch.testing.assert_close(*gradients)
