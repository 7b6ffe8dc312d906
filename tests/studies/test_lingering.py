"""Lingering memories: each equation against its definition, and its three studies on a tiny suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.finetuning import small_network
from helpers.tiny import SUITE, run_suite, write_suite
from PIL import Image
from torch import nn

from ckptbench.base.errors import InputError
from ckptbench.networks.pretrain import on_device
from ckptbench.studies.base import Case
from ckptbench.studies.finetuned import benches
from ckptbench.studies.interference import check_folder
from ckptbench.studies.lingering import (
    BETWEEN,
    SHARED,
    SOURCE_ONLY,
    SourceModel,
    composites,
    deepest_map,
    distraction,
    grad_cam,
    interference,
    kinds,
    prevalence,
)
from ckptbench.studies.mitigations import Suppression, firing
from ckptbench.truth.penalty import FineTuning


def test_prevalence_counts_top_k_predictions() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 6)))
    slow = [sum(c in np.argsort(row)[-2:] for row in logits.numpy()) for c in range(6)]
    assert prevalence(logits, 2).tolist() == slow


def test_source_only_classes_have_less_than_a_quarter_of_an_even_share() -> None:
    assert kinds(torch.tensor([0, 4, 5, 19, 20, 52]), images=120, k=1) == [
        SOURCE_ONLY, SOURCE_ONLY, BETWEEN, BETWEEN, SHARED, SHARED,
    ]  # fmt: skip


def test_a_composite_is_its_background_but_for_four_tenths_of_each_side() -> None:
    backgrounds = torch.full((30, 3, 20, 10), 7, dtype=torch.uint8)
    images, inside = composites(backgrounds, torch.full_like(backgrounds, 200), np.random.default_rng(0))
    assert (inside.sum((1, 2)) == 8 * 4).all()
    assert (images == torch.where(inside[:, None], 200, 7)).all()


def test_grad_cam_of_pooled_maps_is_the_head_on_each_pixel() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head, x, classes = nn.Linear(5, 4), torch.randn(2, 3, 6, 6), torch.tensor([3, 1])
    heat = grad_cam(network, head, "0", x, classes)
    slow = torch.einsum("nk,nkhw->nhw", head.weight[classes], network[0](x)).relu() / 36
    torch.testing.assert_close(heat, slow.detach())


def test_grad_cam_takes_the_deepest_map_that_is_large_enough() -> None:
    network, x = small_network().eval(), torch.zeros(1, 3, 16, 16)
    assert deepest_map(network, x) == "5"
    assert deepest_map(network, torch.zeros(1, 3, 8, 8)) == "2"
    with pytest.raises(InputError, match="4 x 4"):
        deepest_map(network, torch.zeros(1, 3, 4, 4))


def test_distraction_is_the_overlap_of_top_fifths_outside_the_overlay() -> None:
    inside = torch.zeros(4, 10, 10, dtype=torch.bool)
    inside[:, :, :5] = True
    ramp = torch.arange(100.0).reshape(10, 10).expand(4, 10, 10).clone()
    other = ramp.clone()
    ramp[:, :, :5] = 1e6  # what lies within the overlay does not count
    other[1] = -other[1]
    other[2] = 0
    other[3] = other[3].roll(1, 0)  # the top two of ten rows become one of them and the first
    assert distraction(ramp, other, inside).tolist() == pytest.approx([1, 0, 0, 1 / 3])


def test_a_feature_fires_for_a_class_where_nearly_all_its_images_are_above_the_threshold() -> None:
    features = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]])
    assert firing(features, torch.full((3,), 0.5)).tolist() == [True, True, False]
    assert firing(features, torch.full((3,), 0.5), share=1.0).tolist() == [True, False, False]


def test_suppressed_features_reach_the_head_neither_in_training_nor_after() -> None:
    run = FineTuning(nn.Identity(), nn.Linear(3, 2), *[torch.zeros(1)] * 2, (0.0,), (1.0,), 1, 1, 0)
    penalty = Suppression(torch.tensor([False, True, False]))
    penalty.start(run)
    assert (run.head.weight[:, 1] == 0).all()
    features = torch.randn(4, 3)
    torch.testing.assert_close(run.head(penalty.features(features)), run.head(features))
    run.head(penalty.features(features)).square().sum().backward()
    assert (run.head.weight.grad[:, 1] == 0).all()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("lingering")
    plan = run_suite(write_suite(folder, SUITE), folder, upto="pretrain")
    return Case(suite=plan.suite, store=plan.store, seeds=1, device="cpu")


def test_equation_5_is_the_source_head_on_the_fine_tuned_backbone(case) -> None:
    (bench,) = benches(case)
    model = SourceModel(bench, case.checkpoint(bench.source))
    images = model.images(2, 5)
    whole = bench.load(model.checkpoint)(model.inputs(images)).softmax(1)
    found = interference(model, model.parts[0], [1, 4], images)
    np.testing.assert_allclose(found, whole[:, [1, 4]].amax(1).detach(), rtol=1e-5)


def test_a_source_head_is_fitted_where_the_run_has_none_for_its_classes(case) -> None:
    (bench,) = benches(case)
    spec = bench.source.spec.model_copy(update={"objective": "rotation"})
    other = replace(bench, source=replace(bench.source, spec=spec))
    model, own = (SourceModel(one, case.checkpoint(one.source)) for one in (other, bench))
    images, labels = on_device(model.data.train, case.plan.device)
    right = [
        float((part.parts[1](part.parts[0](part.inputs(images))).argmax(1) == labels).double().mean())
        for part in (model, own)
    ]
    assert right[0] > right[1]


def test_a_folder_is_checked_image_by_image(case, tmp_path) -> None:
    for name, grey in (("a.png", 0), ("b.png", 255)):
        Image.new("L", (20, 12), grey).save(tmp_path / name)
    table = check_folder(case, tmp_path)
    assert table["image"].tolist() == ["a.png", "b.png"]
    assert table["score"].between(0, 1).all()
    (tmp_path / "c.txt").write_text("no image")
    with pytest.raises(InputError, match=r"c\.txt cannot be read as an image"):
        check_folder(case, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        check_folder(case, tmp_path / "a.png")
