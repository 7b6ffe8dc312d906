"""The fine-tuning engine against slow references written from the papers' equations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.finetuning import (
    CLASSES,
    CPU,
    DEVICES,
    MEAN,
    STD,
    TEST,
    TRAIN,
    examples,
    recipe,
    run,
    small_network,
    weights_of,
)
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.sampling import stratified
from ckptbench.networks.hardware import has_fast_bf16
from ckptbench.networks.training import batches, schedule, seeded, ten_crops, to_input
from ckptbench.suites import FT
from ckptbench.truth.finetune import predict

# --- the training loop against a plain one -------------------------------------------------------


def plain_loop(network: nn.Module, protocol: FT, seed: int, penalty: Callable[..., Tensor]) -> nn.Module:
    """SGD with momentum written from its definition, every penalty as a term of the loss."""
    images, labels = TRAIN
    training = protocol.training
    network = copy.deepcopy(network)
    with seeded(seed, CPU):
        network[-1] = nn.Linear(16, CLASSES)
    start = copy.deepcopy(network)
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    epochs = protocol.epochs or 0
    per_epoch = len(images) // training.batch
    network.train()
    for epoch in range(epochs):
        for step, rows in enumerate(batches(len(images), training.batch, seed, epoch)):
            x = to_input(images[rows], MEAN, STD)
            features = network[:-1](x)
            if protocol.penalties[0].startswith("tsvd"):
                u = torch.linalg.svd(features.detach(), full_matrices=False).U[:, :-8]
                features = u @ (u.T @ features)
            loss = F.cross_entropy(network[-1](features), labels[rows])
            loss = loss + penalty(network, start, features)
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            factor = schedule(training, epoch * per_epoch + step, epochs * per_epoch, per_epoch)
            with torch.no_grad():
                for p, g, v in zip(network.parameters(), gradients, velocity, strict=True):
                    v.mul_(training.momentum).add_(g)
                    in_head = p.shape[0] == CLASSES
                    p.sub_(training.lr * factor * (protocol.head_multiplier if in_head else 1) * v)
    return network.eval()


def half_square(network: nn.Module, other: nn.Module | None = None) -> Tensor:
    origin = other.parameters() if other else (torch.zeros_like(p) for p in network.parameters())
    pairs = zip(network.parameters(), origin, strict=True)
    return torch.stack([(p - q.detach()).square().sum() / 2 for p, q in pairs]).sum()


def equation_2(alpha: float, network: nn.Module, start: nn.Module, features: Tensor) -> Tensor:
    return alpha * half_square(network)


def equation_3(beta: float, alpha: float, network: Any, start: Any, features: Tensor) -> Tensor:
    return beta * half_square(network[:-1], start[:-1]) + alpha * half_square(network[-1])


def equation_9(alpha: float, eta: float, k: int, network: Any, start: Any, features: Tensor) -> Tensor:
    sigma = torch.linalg.svdvals(features)
    return equation_2(alpha, network, start, features) + eta * sigma[-k:].square().sum()


PENALTIES = {
    "l2": (recipe(training={"augment": "none", "weight_decay": 0.05}), partial(equation_2, 0.05)),
    "step": (
        recipe(training={"augment": "none", "weight_decay": 0.0, "schedule": "step", "milestones": (1, 2)}),
        partial(equation_2, 0.0),
    ),
    "l2-sp": (
        recipe(training={"augment": "none"}, penalties=("l2-sp:strength=0.5,head_decay=0.1",)),
        partial(equation_3, 0.5, 0.1),
    ),
    "bss": (
        recipe(training={"augment": "none", "weight_decay": 0.01}, penalties=("bss:eta=0.5,k=2",)),
        partial(equation_9, 0.01, 0.5, 2),
    ),
    "tsvd": (
        recipe(training={"augment": "none", "weight_decay": 0.01}, penalties=("tsvd:stop_gradient=true",)),
        partial(equation_2, 0.01),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PENALTIES)
def test_training_against_a_plain_loop(name: str) -> None:
    protocol, penalty = PENALTIES[name]
    network = small_network()
    weights = weights_of(network)
    reference = plain_loop(network, protocol, 11, penalty)
    result = run(network, protocol, weights=weights)
    for (key, value), expected in zip(network.named_parameters(), reference.parameters(), strict=False):
        np.testing.assert_allclose(value.detach(), expected.detach(), atol=2e-4, err_msg=key)
    with torch.no_grad():
        predicted = reference(to_input(TEST[0], MEAN, STD)).argmax(1)
    assert (result.correct == (predicted == TEST[1]).numpy()).mean() > 0.98
    first = ("0.weight", "3.weight")
    moved = [np.linalg.norm((reference.state_dict()[key] - weights[key]).numpy()) for key in first]
    assert result.deviation == pytest.approx(sum(moved) / np.sqrt(len(TRAIN[0])), rel=1e-3)


def test_result_is_what_the_test_split_says() -> None:
    unequal = torch.cat([torch.arange(120), torch.arange(120, 200, 4)])
    test = TEST[0][unequal], TEST[1][unequal]
    network = small_network()
    result = run(network, recipe(epochs=6), test=test)
    truth = test[1].numpy()
    assert result.correct.shape == truth.shape
    assert result.accuracy == result.correct.mean() > 0.5
    recall = np.mean([result.correct[truth == label].mean() for label in range(CLASSES)])
    assert result.balanced_accuracy == pytest.approx(recall)
    # Any prediction that agrees with ``correct`` has the same recall.
    wrong = np.where(result.correct, truth, (truth + 1) % CLASSES)
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, wrong))
    assert result.note == ""


def test_a_window_is_trained_on_by_crops_and_tested_on_ten() -> None:
    protocol = recipe(epochs=6, window=12, training={"augment": "resized-crop-flip"})
    network = small_network()
    assert run(network, protocol).accuracy > 1.2 / CLASSES
    model = small_network().eval()
    with torch.no_grad():
        crops = [model(to_input(crop, MEAN, STD)) for crop in ten_crops(TEST[0], 12)]
    slow = torch.stack(crops).mean(0).argmax(1)
    assert torch.equal(predict(model, TEST[0], MEAN, STD, protocol).argmax(1), slow)
    with pytest.raises(InputError, match="a window of 64 pixels does not fit into images of"):
        run(network, recipe(epochs=1, window=64, training={"augment": "resized-crop"}))
    with pytest.raises(ValueError, match="window needs augment"):
        recipe(epochs=1, window=12)


def test_iterations_count_steps_and_milestones_are_theirs() -> None:
    network = small_network()
    weights = weights_of(network)
    by_epochs = run(network, recipe(epochs=3), weights=weights)
    by_steps = run(network, recipe(epochs=None, iterations=12), weights=weights)
    assert by_steps.deviation == by_epochs.deviation
    shorter = run(network, recipe(epochs=None, iterations=11), weights=weights)
    assert shorter.deviation != by_epochs.deviation
    step = {"schedule": "step", "gamma": 1e-9}
    at_epoch_1 = recipe(epochs=3, training=step | {"milestones": (1,)})
    at_step_4 = recipe(epochs=None, iterations=12, training=step | {"milestones": (4,)})
    one, other = (run(network, protocol, weights=weights).deviation for protocol in (at_epoch_1, at_step_4))
    assert one == other


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("penalty", ["l2", "l2-sp", "delta", "tsvd:r=2", "prune", "feature-l1"])
def test_a_cell_alone_equals_the_same_cell_among_others(penalty: str, device: torch.device) -> None:
    method = (penalty, "bss:eta=0.01")
    options = {"penalties": method, "rate": 0.5, "training": {"precision": "auto"}}
    protocol = recipe(epochs=2, **options)
    dropout = small_network()
    dropout[-2] = nn.Sequential(nn.Flatten(), nn.Dropout(0.2))
    weights = weights_of(dropout)
    other = small_network(seed=5).state_dict()

    alone_network = copy.deepcopy(dropout)
    alone = run(alone_network, protocol, weights=weights, device=device)
    torch.manual_seed(77)
    run(dropout, recipe(epochs=1), seed=3, weights=other, device=device)
    among = run(dropout, protocol, weights=weights, device=device)
    assert (among.deviation, among.final_loss) == (alone.deviation, alone.final_loss)
    np.testing.assert_array_equal(among.correct, alone.correct)
    for key, value in dropout.state_dict().items():
        assert torch.equal(value, alone_network.state_dict()[key]), key
    assert run(dropout, protocol, seed=12, weights=weights, device=device).deviation != alone.deviation


def test_the_sample_is_stratified_and_the_seeds_own() -> None:
    """A protocol of half the data is one of all data on that half."""
    protocol = recipe(epochs=1, rate=0.5)
    rows = torch.from_numpy(stratified(TRAIN[1].numpy(), 0.5, derive_seed("sample", 11)))
    weights = weights_of(small_network())
    half = run(small_network(), protocol, weights=weights)
    own = run(small_network(), recipe(epochs=1), weights=weights, train=(TRAIN[0][rows], TRAIN[1][rows]))
    assert half.deviation == own.deviation
    assert len(rows) == 32


def test_bf16_agrees_with_fp32_within_seed_noise() -> None:
    train, test = examples(96, 5), examples(600, 6)
    network = small_network()
    weights = weights_of(network)
    single, half = (
        np.array([
            run(
                network, recipe(epochs=6, training={"precision": precision, "schedule": "cosine"}),
                seed=seed, weights=weights, train=train, test=test,
            ).accuracy
            for seed in range(4)
        ])
        for precision in ("fp32", "bf16")
    )  # fmt: skip
    assert not np.array_equal(single, half)  # bf16 was really used
    assert 0.4 < single.mean() < 0.99  # neither hopeless nor too easy to differ
    assert np.abs(half - single).mean() < 0.5 * single.std(ddof=1)


# --- what can go wrong ---------------------------------------------------------------------------


class Limited(nn.Sequential):
    """A device with room for so many training examples at a time."""

    room = 6

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return super().forward(x)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_that_does_not_fit_is_halved_and_accumulated(device: torch.device) -> None:
    # Without batch norm the parts of a batch add up to the same gradient.
    network = small_network(norm=False)
    limited = Limited(*copy.deepcopy(network))
    weights = weights_of(network)
    whole = run(network, recipe(), weights=weights, device=device)
    pieces = run(limited, recipe(), weights=weights, device=device)
    assert "accumulated over 4 parts" in pieces.note
    assert pieces.deviation == pytest.approx(whole.deviation, rel=1e-3)
    assert pieces.final_loss == pytest.approx(whole.final_loss, rel=1e-3)


@pytest.mark.parametrize(("penalty", "room"), [("l2", 1), ("tsvd:r=4", 4)])
def test_memory_that_does_not_suffice_is_an_error(penalty: str, room: int) -> None:
    limited = Limited(*small_network())
    limited.room = room
    with pytest.raises(torch.OutOfMemoryError):
        run(limited, recipe(penalties=(penalty,)))


def test_divergence_is_named() -> None:
    with pytest.raises(FloatingPointError, match="fine-tuning by test diverged: the loss of epoch"):
        run(small_network(norm=False), recipe(epochs=8, training={"lr": 1e8}))


def test_weights_that_blow_up_in_the_last_step_are_a_divergence() -> None:
    protocol = recipe(epochs=None, iterations=1, training={"lr": 3e38})
    with pytest.raises(FloatingPointError, match="weights are not finite"):
        run(small_network(norm=False), protocol)


def test_a_head_must_come_last() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(14, 14), nn.Flatten())
    with pytest.raises(InputError, match="does not end in its linear head"):
        run(network, recipe(), head="1")


def test_one_compilation_serves_all_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    network = small_network()
    weights = [small_network(seed=seed).state_dict() for seed in (0, 1)]
    first = run(network, recipe(epochs=1), weights=weights[0], compile=True)
    count = len(compiled)
    assert count > 0
    second = run(network, recipe(epochs=1), weights=weights[1], compile=True)
    assert len(compiled) == count
    eager = small_network()
    for result, state in zip((first, second), weights, strict=True):
        expected = run(eager, recipe(epochs=1), weights=state)
        assert result.deviation == pytest.approx(expected.deviation, rel=1e-4)


def test_auto_precision_is_bf16_where_it_is_native() -> None:
    network = small_network()
    weights = weights_of(network)
    auto, named = (
        run(network, recipe(epochs=1, training={"precision": precision}), weights=weights).final_loss
        for precision in ("auto", "bf16" if has_fast_bf16(CPU) else "fp32")
    )
    assert auto == named
