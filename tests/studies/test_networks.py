"""Studies that run networks: routines against closed forms, and each study end to end on a tiny suite."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny import SUITE, run_suite, write_suite
from torch import nn

from ckptbench.base.files import read_json
from ckptbench.networks.curvature import STEP, WALK, Loss, loss_variation
from ckptbench.numerics.kernels import arc_cosine
from ckptbench.studies import gram_theory
from ckptbench.studies.angles import corresponding_cosines
from ckptbench.studies.base import Case, measure, write
from ckptbench.studies.catalogue import STUDIES, find_study
from ckptbench.studies.deviation import deviations
from ckptbench.studies.ewc import EWC, fisher
from ckptbench.studies.finetuned import PRETRAINED, SCRATCH, Row, Survey, Trial, benches, survey
from ckptbench.studies.frequency import kept_shares, passed
from ckptbench.studies.gradients import gradient_rows, projections
from ckptbench.studies.landscape import plane
from ckptbench.studies.spectra import batch_spectrum
from ckptbench.studies.weights_map import map_rows
from ckptbench.truth.penalty import FineTuning

ELSEWHERE = ("bert",)  # tests/extras
TABLES = ("best-epochs", "bss-k", "double-u", "epoch-transfer", "shrinkage", "tsvd")
NETWORKS = [name for name in STUDIES if name not in (*TABLES, *ELSEWHERE)]


def test_a_cosine_is_that_of_the_angle_by_which_a_vector_was_turned() -> None:
    before = np.diag([3.0, 2.0, 1.0])
    turn, c, s = np.eye(3), math.cos(0.3), math.sin(0.3)
    turn[1:, 1:] = [[c, -s], [s, c]]
    np.testing.assert_allclose(corresponding_cosines(before, turn @ before), [1, c, c])
    np.testing.assert_allclose(corresponding_cosines(before, -before), 1.0)


def test_vectors_of_equal_singular_values_are_judged_as_a_subspace() -> None:
    before = np.diag([3.0, 1.0, 1.0])
    turn, c, s = np.eye(3), math.cos(0.7), math.sin(0.7)
    turn[1:, 1:] = [[c, -s], [s, c]]
    np.testing.assert_allclose(corresponding_cosines(before, turn @ before), 1.0)


def test_deviation_is_the_norm_of_the_change_over_root_n() -> None:
    before, after = nn.Linear(2, 3), nn.Linear(2, 3)
    with torch.no_grad():
        after.weight.copy_(before.weight + 2.0)
    assert deviations(nn.Sequential(before), nn.Sequential(after), 4) == {
        "0": pytest.approx(2 * math.sqrt(6) / 2, rel=1e-5)
    }


def test_projections_of_a_gradient_on_itself_are_its_spectrum() -> None:
    matrix = np.random.default_rng(0).normal(size=(4, 6))
    sigma = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(projections(matrix, 3 * matrix), sigma / np.linalg.norm(sigma))


def test_gradients_of_a_linear_model_are_in_closed_form() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(5, 3)), torch.randn(8, 5), torch.arange(8) % 3
    rows = gradient_rows(Loss(model, x, y))
    at_logits = (model(x).detach().softmax(1) - nn.functional.one_hot(y, 3)) / 8
    activations = [row["value"] for row in rows if row["quantity"] == "activations"]
    assert activations == [pytest.approx(float(at_logits.norm()), rel=1e-5)]
    median = [row["value"] for row in rows if row["quantity"] == "weights" and row["index"] == 0.5]
    assert median == [pytest.approx(float((at_logits.T @ x).abs().median()), rel=1e-4)]


def test_batch_spectra_are_means_over_whole_batches() -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(11, 3)))
    slow = np.mean([np.linalg.svd(features[i : i + 4].numpy(), compute_uv=False) for i in (0, 4)], axis=0)
    np.testing.assert_allclose(batch_spectrum(features, 4), slow)


class Slope(Loss):
    """A linear loss b'x, whose change along its gradient is known."""

    def __init__(self, b: torch.Tensor) -> None:
        self.b, self.parameters = b, [nn.Parameter(torch.zeros_like(b))]

    def __call__(self) -> torch.Tensor:
        return self.b @ self.parameters[0]


def test_variation_of_a_linear_loss() -> None:
    b = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert loss_variation(Slope(b), rate=0.1) == pytest.approx(WALK * 0.1 * 25)
    assert loss_variation(Slope(b)) == pytest.approx(WALK * STEP * 5)


def test_a_plane_holds_the_loss_of_moved_weights() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(5, 3)), torch.randn(8, 5), torch.arange(8) % 3
    loss = Loss(model, x, y)
    values = plane(loss, np.array([-0.5, 0.0, 0.5]), seed=1)
    (first, _), (second, _) = loss.filter_directions(seed=1)
    with torch.no_grad():
        moved = x @ (model[0].weight - 0.5 * first + 0.5 * second).T + model[0].bias
    assert values[0, 2] == pytest.approx(float(nn.functional.cross_entropy(moved, y)), rel=1e-5)
    assert values[1, 1] == pytest.approx(loss.value(), rel=1e-6)


def test_waves_pass_by_their_frequency() -> None:
    across = torch.arange(32)
    slow, fast = (100 + 50 * torch.cos(2 * math.pi * k * across / 32) for k in (2, 12))
    for wave, is_low in ((slow, True), (fast, False)):
        image = wave.round().to(torch.uint8).expand(1, 3, 32, 32)
        low, high = (part.float() for part in passed(image))
        kept, lost = (low, high) if is_low else (high, low)
        assert (kept - image).abs().max() <= 2
        assert (lost - 100).abs().max() <= 2


def test_what_is_kept_of_an_accuracy_is_counted_from_chance() -> None:
    facts = {"source": "s", "target": "t", "seed": 0, "part": "main", "chance": 10.0}
    accuracies = {"whole": 90.0, "low": 50.0, "high": 10.0}
    table = pd.DataFrame([{**facts, "inputs": name, "accuracy": value} for name, value in accuracies.items()])
    assert kept_shares(table).loc["s", "t", 0, "main"].to_dict() == {"low": 0.5, "high": 0.0}


def test_a_task_transferred_to_itself_needs_no_change() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 10))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.array([1.0, -1, 1, 1, -1, -1])
    found = gram_theory.predict(x, y, x, y)
    assert found.drop == pytest.approx(6)
    assert found.moved == pytest.approx(0, abs=1e-12)
    other = np.linalg.qr(rng.normal(size=(10, 10)))[0][:6]
    scratch = y @ np.linalg.solve(arc_cosine(other), y)
    assert gram_theory.predict(x, 0 * y, other, y).moved == pytest.approx(scratch)


def test_gradient_descent_on_a_wide_network_does_as_predicted() -> None:
    rng = np.random.default_rng(1)
    x_p, x_q = (rng.normal(size=(6, 10)) for _ in range(2))
    tasks = []
    for x in (x_p, x_q):
        tasks += [x / np.linalg.norm(x, axis=1, keepdims=True), rng.choice([-1.0, 1.0], size=6)]
    expected = gram_theory.predict(*tasks)
    drop, moved = gram_theory.descend(*tasks, 2**13, rng)
    assert drop == pytest.approx(expected.drop, abs=0.05 * 6)
    assert moved == pytest.approx(expected.moved, rel=0.05)


def test_fisher_information_is_that_of_single_examples() -> None:
    torch.manual_seed(0)
    network, head = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3)
    x, model = torch.randn(6, 1, 2, 2), nn.Sequential(network, head)
    slow = [torch.zeros_like(weight) for weight in model.parameters()]
    for one in x.split(1):
        for log_p in model(one).log_softmax(1)[0]:
            gradients = torch.autograd.grad(log_p, list(model.parameters()), retain_graph=True)
            for total, gradient in zip(slow, gradients, strict=True):
                total += log_p.exp().detach() * gradient**2 / len(x)
    torch.testing.assert_close(fisher(network, head, x), slow)


def test_ewc_pulls_weights_back_by_their_information() -> None:
    run = FineTuning(nn.Linear(2, 2), nn.Linear(2, 1), *[torch.zeros(1)] * 2, (0.0,), (1.0,), 1, 1, 0)
    weights = [*run.network.parameters(), *run.head.parameters()]
    penalty = EWC(3.0, [torch.full_like(weight, 2.0) for weight in weights])
    penalty.start(run)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
        weight.data += 0.5
    penalty.gradients()
    assert all(torch.allclose(weight.grad, torch.tensor(1 + 3 * 2 * 0.5)) for weight in weights)


def test_distances_on_the_map_are_means_over_ends_of_a_start() -> None:
    vectors = [torch.tensor([x]) for x in (0.0, 1.0, 10.0, 13.0)]
    found = map_rows(pd.DataFrame({"start": ["a", "a", "b", "b"]}), vectors)
    assert found["to_own"].tolist() == [1, 1, 3, 3]
    assert found["to_other"].tolist() == [11.5, 10.5, 9.5, 12.5]


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("studies")
    run = SUITE[SUITE.index("[[sources]]") : SUITE.index("[[targets]]")]
    variant = run.replace('"run"', '"variant"').replace("size = 8", 'size = 8\nflip = "vertical"')
    text = SUITE.replace("[[targets]]", variant + "[[targets]]")
    plan = run_suite(write_suite(folder, text), folder, upto="pretrain")
    return Case(suite=plan.suite, store=plan.store, seeds=1, device="cpu")


def test_watching_changes_nothing(case) -> None:
    """Looking on the way, for one study or several, leaves the end of training as it is, bit for bit."""

    def look(trial: Trial, step: int, run: FineTuning) -> list[Row]:
        return [{"a": float(run.head.weight.detach().sum())}]

    ((alone, _),) = survey(case, [Survey(look)])
    (fewer, _), (often, _) = survey(case, [Survey(look, starts=(PRETRAINED,)), Survey(look, 3)])
    seen = [alone, often]
    pd.testing.assert_frame_equal(fewer, alone[alone["start"] == PRETRAINED].reset_index(drop=True))
    ends = [table[table["step"] == table["step"].max()]["a"].tolist() for table in seen]
    assert ends[0] == ends[1]
    assert sorted(set(seen[1]["step"])) == [0, 2, 4, 6]
    assert set(seen[0]["start"]) == {PRETRAINED, SCRATCH}


def test_training_is_that_of_the_truth(case) -> None:
    from ckptbench.pipeline.stages import ft_tasks

    (bench,) = benches(case)
    checkpoint = case.checkpoint(bench.source)
    task = next(t for t in ft_tasks(case.plan) if t.checkpoint.epoch == checkpoint.epoch and t.seed == 0)
    (cell,) = task.compute(case.store, task.cell_keys())
    rows = bench.finetune(checkpoint, 0, lambda step, run: [{"accuracy": bench.accuracy(run)}])
    assert rows[-1]["accuracy"] == cell.value


@pytest.mark.parametrize("name", NETWORKS)
def test_every_study_runs(name: str, case, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gram_theory, "WIDTHS", (16, 64))
    monkeypatch.setattr(gram_theory, "EXAMPLES", 4)
    case = replace(case, seeds=2) if name == "weights-map" else case
    case = replace(case, sources=("run", "variant")) if name == "mitigations" else case
    ((study, outcome, seconds),) = measure([find_study(name)], case)
    write(study, case, outcome, seconds, tmp_path, {})
    assert len(outcome.table) > 0
    assert outcome.table.notna().all(axis=None)
    assert outcome.figure.title.endswith(".")
    assert "paper" in outcome.sentence or "Does not settle" in outcome.sentence
    assert read_json(tmp_path / "study.json")["machine"]["device"] == "cpu"
