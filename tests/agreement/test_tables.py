"""Each statistic against scipy or its slow definition, and against simulations whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.fake_results import edit, write_results

from ckptbench.agreement.judge import REFERENCE
from ckptbench.agreement.runs import leaderboard
from ckptbench.agreement.tables import Design, agreement_table, tracks
from ckptbench.base.errors import InputError
from ckptbench.results import Results


def row(frame: pd.DataFrame, selector: str) -> pd.Series:
    return frame.set_index("selector").loc[selector]


def test_tracks_come_back_as_they_were_written(tmp_path):
    results = Results.read(write_results(tmp_path, examples=203))
    found = list(tracks(results))
    assert len(found) == 6
    for track in found:
        assert track.truth.shape == (12, 3)
        assert track.correct.shape == (12, 3, 203)
        np.testing.assert_allclose(track.correct.mean(axis=2), track.truth)
        np.testing.assert_allclose(track.source_accuracy, 0.1 + 0.8 * np.arange(12) / 12)
    assert {track.goal for track in found} == {"fe", "ft"}


def test_agreement_has_every_selector_on_every_track(tmp_path):
    write_results(tmp_path)
    edit(tmp_path, "scores", lambda t: t[~((t["selector"] == "logme") & (t["target"] == "target1"))])
    found = agreement_table(Results.read(tmp_path))
    assert found.groupby(["source", "target", "protocol"]).size().tolist() == [8] * 6
    lost = found[(found["selector"] == "logme") & (found["target"] == "target1")]
    assert (lost["tau"] == 0).all()
    assert (lost["cells"] == 0).all()
    assert lost["problem"].str.startswith("no score at any checkpoint").all()


def test_failed_cells_are_counted_and_explained(tmp_path):
    write_results(tmp_path)

    def fail(t: pd.DataFrame) -> pd.DataFrame:
        bad = (t["selector"] == "logme") & (t["epoch"] == 4) & (t["target"] == "target0")
        t.loc[bad, ["status", "message", "score"]] = ["failed", "no source head", np.nan]
        return t

    def fail_truth(t: pd.DataFrame) -> pd.DataFrame:
        bad = (t["epoch"] == 5) & (t["protocol"] == "raw") & (t["target"] == "target0")
        t.loc[bad, ["status", "message", "accuracy", "row"]] = ["failed", "NaN loss", np.nan, -1]
        return t

    edit(tmp_path, "scores", fail)
    edit(tmp_path, "truth", fail_truth)
    found = agreement_table(Results.read(tmp_path)).set_index(["selector", "target", "protocol"])
    assert found.loc[("logme", "target0", "tuned"), "problem"] == "not finite at epoch 4: no source head"
    assert found.loc[("logme", "target0", "tuned"), ["cells", "wanted"]].tolist() == [11, 12]
    assert found.loc[("random-gmm", "target0", "tuned"), ["cells", "wanted"]].tolist() == [36, 36]
    assert found.loc[("oracle", "target0", "raw"), ["cells", "wanted"]].tolist() == [33, 36]
    assert found.loc[("ridge-loo", "target0", "raw"), "left_out"] == "no full truth at epoch 5"
    assert found.loc[("ridge-loo", "target0", "raw"), "checkpoints"] == 11
    board = leaderboard(agreement_table(Results.read(tmp_path)), "fe")
    assert row(board, "logme")["problem"] == "not finite at epoch 4: no source head on run0/target0"


def test_regret_and_gain_are_in_points(tmp_path):
    results = Results.read(write_results(tmp_path, targets=1))
    track = next(tracks(results))
    scores = results.scores[results.scores["selector"] == "logme"].set_index("epoch")["score"]
    found = agreement_table(results).set_index(["selector", "protocol"]).loc[("logme", "tuned")]
    assert found["gain"] == pytest.approx(100 * (track.mean[scores.idxmax()] - track.mean[-1]))


def test_stages_that_have_written_nothing_yet(tmp_path):
    results = Results.read(write_results(tmp_path))
    found = agreement_table(replace(results, scores=results.scores[:0]))
    assert set(found["selector"]) == set(REFERENCE)
    assert leaderboard(found, "fe")["selector"].tolist() == list(REFERENCE)
    with pytest.raises(InputError, match="no cell yet"):
        agreement_table(replace(results, truth=results.truth[:0]))


def test_correctness_that_contradicts_the_accuracies_is_refused(tmp_path):
    results = Results.read(write_results(tmp_path, targets=1))
    turned = results.truth.assign(row=results.truth["row"].to_numpy()[::-1])
    with pytest.raises(InputError, match="disagree on run0"):
        agreement_table(replace(results, truth=turned))


def test_the_design_comes_from_the_results(tmp_path):
    results = Results.read(write_results(tmp_path, sources=2))
    targets = results.suite.targets
    one_family = tuple(target.model_copy(update={"family": "all"}) for target in targets)
    pool = one_family[0].data.model_copy(update={"pool_per_class": 9})
    pooled = (one_family[0].model_copy(update={"data": pool}), *one_family[1:])
    suite = results.suite.model_copy(update={"targets": pooled, "confirmatory": ("logme",)})
    checkpoints = results.checkpoints.copy()
    checkpoints.loc[checkpoints["source"] == "run1", "sound"] = "loss above chance"
    design = Design.of(replace(results, suite=suite, checkpoints=checkpoints))
    assert set(design.families.values()) == {"all"}
    assert design.confirmatory == ("logme",)
    assert design.unsound == {"run1": "loss above chance"}
    fe = {p.name: p for p in results.suite.fe}["tuned"]
    assert design.overlaps[targets[0].name, "tuned"] == 0  # each seed has its own training set
    assert design.overlaps[targets[1].name, "tuned"] == fe.sample
    assert {p.name: p.rate for p in results.suite.ft}["short"] == design.overlaps[targets[0].name, "short"]
    assert {track.overlap for track in tracks(results)} == set(Design.of(results).overlaps.values())
