"""Studies on tables: best epochs, falls, drops of the learning rate; and what a study writes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import fake_suite, write_results
from typer.testing import CliRunner

from ckptbench.agreement.track import Track
from ckptbench.base.errors import InputError
from ckptbench.base.files import read_json
from ckptbench.base.store import Store
from ckptbench.cli.app import app
from ckptbench.studies import bss_k, shrinkage, tsvd
from ckptbench.studies.base import Case, measure, settled, verdict, write
from ckptbench.studies.best_epochs import best_epochs, joint_truths
from ckptbench.studies.catalogue import find_study
from ckptbench.studies.double_u import around_drops
from ckptbench.studies.epoch_transfer import rise_and_fall
from ckptbench.suites import FT


def track(mean: list[float], goal: str = "fe", noise: float = 1e-4, epochs: list[int] | None = None) -> Track:
    """A track of five seeds about these means."""
    rng = np.random.default_rng(0)
    truth = np.array(mean)[:, None] + noise * rng.normal(size=(len(mean), 5))
    numbers = np.arange(len(mean)) if epochs is None else np.array(epochs)
    return Track(truth, numbers, source="run", target="t", protocol=goal, goal=goal)


def test_clear_peaks_are_found_with_certainty() -> None:
    pair = [track([0.1, 0.9, 0.5, 0.4, 0.3]), track([0.1, 0.2, 0.3, 0.9, 0.8], "ft")]
    row, draws = best_epochs(pair, np.random.default_rng(0))
    assert (row["fe_epoch"], row["ft_epoch"], row["later"]) == (1, 3, 2)
    assert row["fe_earlier"] == 1
    assert (draws == 2).all()
    assert row["fe_fall"] == pytest.approx(60, abs=0.1)
    assert row["fe_fall_resolved"]
    assert row["ft_fall_resolved"]


def test_flat_truths_have_no_earlier_peak() -> None:
    pair = [track([0.5] * 8, goal, noise=0.01) for goal in ("fe", "ft")]
    row, _draws = best_epochs(pair, np.random.default_rng(0))
    assert row["later_low"] < 0 < row["later_high"]
    assert not row["fe_fall_resolved"]
    assert not row["ft_fall_resolved"]


def test_only_epochs_that_all_protocols_judged_count() -> None:
    pair = [track([0.1, 0.9, 0.5], epochs=[0, 1, 4]), track([0.1, 0.7, 0.8], "ft", epochs=[0, 4, 6])]
    row, _ = best_epochs(pair, np.random.default_rng(0))
    assert row["epochs"] == 2
    assert row["fe_epoch"] == 4


def test_tracks_of_a_pair_share_their_test_examples() -> None:
    correct = np.random.default_rng(0).random((4, 1, 50)) < 0.6
    twins = [
        Track(correct.mean(axis=2), np.arange(4), correct, source="run", target="t", protocol=name, goal=name)
        for name in ("fe", "ft")
    ]
    first, second = joint_truths(twins, np.random.default_rng(0), draws=40)
    np.testing.assert_allclose(first, second)
    assert first.std() > 0


def test_rise_and_fall_of_a_curve_without_noise() -> None:
    facts = rise_and_fall(track([0.2, 0.8, 0.7], "ft", noise=0.0))
    assert facts["rise"] == pytest.approx(60)
    assert facts["fall"] == pytest.approx(facts["highest_fall"]) == pytest.approx(10)


def test_a_drop_stands_between_its_neighbours() -> None:
    rows = list(around_drops(track([0.5, 0.4, 0.6, 0.3, 0.5], epochs=[0, 10, 11, 20, 21]), (10, 20)))
    assert [(row["before"], row["after"], row["end"]) for row in rows] == [(10, 11, 20)]
    assert rows[0]["rise"] == pytest.approx(20, abs=0.1)
    assert rows[0]["rise_resolved"]
    assert rows[0]["fall"] == pytest.approx(30, abs=0.1)
    assert rows[0]["fall_resolved"]


def test_verdicts() -> None:
    index = pd.MultiIndex.from_product([["a", "b"], range(3)], names=["source", "seed"])
    assert verdict("x", pd.Series(1.0 + 0.01 * np.arange(6), index), "seed", "it").endswith("over 2 runs.")
    one = pd.Series([1.0, 1.1, 0.9], index[:3])
    assert verdict("x", one, "seed", "it").startswith("Agrees with the paper that x: it is 1.00")
    assert verdict("x", -one, "seed", "it").startswith("Contradicts the paper that x")
    assert verdict("x", one - 1, "seed", "it").startswith("Does not settle whether x")
    assert "without an interval" in settled("x", 1.0, np.nan, np.nan, "it", "1 seed")


@pytest.mark.parametrize("name", ["best-epochs", "epoch-transfer"])
def test_a_study_writes_table_figure_and_provenance(name: str, tmp_path) -> None:
    protocols = (("fe-tuned", "fe"), ("ft-10", "ft"))
    suite = fake_suite(protocols, 2, 1)
    write_results(tmp_path / "results" / "fake", suite=suite, protocols=protocols, sources=2, targets=1)
    case, out = Case(suite=suite, store=Store(tmp_path)), tmp_path / "out"
    ((study, outcome, seconds),) = measure([find_study(name)], case)
    write(study, case, outcome, seconds, out, {"numpy": "2"})
    facts = read_json(out / "study.json")
    assert facts["sentence"] == outcome.sentence
    assert facts["suite_digest"] == suite.digest
    assert len(pd.read_csv(out / "table.csv")) == 2
    assert (out / "figure.svg").read_text().count("<svg") == 1


def test_without_ft_truth_the_fe_part_still_runs(tmp_path) -> None:
    protocols = (("fe-tuned", "fe"),)
    suite = fake_suite(protocols, 2, 1)
    write_results(tmp_path / "results" / "fake", suite=suite, protocols=protocols, sources=2, targets=1)
    case = Case(suite=suite, store=Store(tmp_path))
    ((_, outcome, _),) = measure([find_study("best-epochs")], case)
    assert outcome.table["fe_epoch"].notna().all()
    assert "no pair has FT truth; FE falls, resolved, in" in outcome.figure.title
    assert outcome.sentence.endswith("no pair has FT truth.")
    with pytest.raises(InputError, match="has no FT truth at three epochs or more"):
        list(measure([find_study("epoch-transfer")], case))


def dose(tmp_path, accuracies: dict[tuple[str, ...], float]) -> Case:
    """A suite of these methods at two rates whose truth is their accuracy, higher by 0.1 on all data."""
    suite = fake_suite((("fe", "fe"),), 1, 1)
    ft = {"name": "", "epochs": 1, "training": {"lr": 0.1}}
    protocols = [
        FT.model_validate({**ft, "name": f"{'+'.join(labels)}-{rate:g}", "penalties": labels, "rate": rate})
        for labels in accuracies
        for rate in (0.15, 1.0)
    ]
    suite = suite.model_copy(update={"ft": tuple(protocols)})
    names = tuple((protocol.name, "ft") for protocol in protocols)
    folder = tmp_path / "results" / "fake"
    write_results(folder, suite=suite, protocols=names, sources=1, targets=1, seeds=3, epochs=3)
    case = Case(suite=suite, store=Store(tmp_path))
    noise = {seed: 0.001 * seed for seed in range(3)}
    value = {p.name: accuracies[p.penalties] + 0.1 * (p.rate == 1.0) for p in protocols}
    truth = case.results.truth
    truth["accuracy"] = truth["protocol"].map(value) + truth["seed"].map(noise)
    vars(case)["results"] = dataclasses.replace(case.results, truth=truth)
    return case


def test_sweeps_pair_methods_by_seed_and_rate(tmp_path) -> None:
    accuracies = {
        ("l2",): 0.5, ("tsvd:r=1",): 0.51, ("tsvd",): 0.54, ("l2", "bss:k=1"): 0.52, ("l2", "bss:k=4"): 0.5,
    }  # fmt: skip
    case = dose(tmp_path, accuracies)
    outcome = tsvd.measure(case)
    assert set(outcome.table["r"]) == {0, 1, 8}
    assert "lower by 4.00 points" in outcome.figure.title
    assert outcome.sentence.startswith("Agrees")
    outcome = bss_k.measure(case)
    assert set(outcome.table["k"]) == {0, 1, 4}
    assert outcome.sentence.startswith("Contradicts")


def test_the_gain_from_bss_is_paired_with_the_method_alone(tmp_path) -> None:
    case = dose(tmp_path, {("l2",): 0.5, ("l2", "bss"): 0.52, ("l2-sp",): 0.6, ("l2-sp", "bss"): 0.61})
    outcome = shrinkage.measure(case)
    gains = outcome.table.groupby("method")["gain"].mean()
    assert gains.to_dict() == pytest.approx({"l2": 2.0, "l2-sp": 1.0})
    assert outcome.sentence.startswith("Agrees")
    with pytest.raises(InputError, match="no sweep over r of tsvd"):
        tsvd.measure(case)


def test_a_study_says_what_it_lacks(tmp_path) -> None:
    run = CliRunner().invoke
    done = run(app, ["study", "best-epoch", "--suite", "demo"])
    assert done.exit_code == 2
    assert "did you mean 'best-epochs'?" in done.output
    done = run(app, ["study", "double-u", "--suite", "demo", "--target", "digit", "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert "has no target 'digit'" in done.output


def test_every_study_has_a_module() -> None:
    import importlib

    from ckptbench.studies.catalogue import STUDIES

    for name in STUDIES:
        module = importlib.import_module(f"ckptbench.studies.{name.replace('-', '_')}")
        assert callable(module.conclude if hasattr(module, "SURVEY") else module.measure)
