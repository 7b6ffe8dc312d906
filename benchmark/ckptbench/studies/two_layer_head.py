"""How far a two-layer classifier on frozen features moves from its first weights, from two kinds of features.

Source: transferability-of-deep-representations (Liu et al. 2019), Figure 2a and appendix A: 512 hidden
units with batch norm and leaky ReLU, trained by SGD with momentum at a constant rate of 0.01.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from ckptbench.base.digests import derive_seed
from ckptbench.networks.training import one_thread, outputs, seeded
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, times, verdict
from ckptbench.studies.deviation import deviations
from ckptbench.studies.finetuned import LOOKS, PRETRAINED, SCRATCH, Row, Trial, Watch, model_of, trials
from ckptbench.suites import FT
from ckptbench.truth.finetune import train
from ckptbench.truth.penalty import FineTuning

HIDDEN = 512
TRAINING = {"lr": 0.01, "schedule": "constant", "batch": 32, "weight_decay": 0, "precision": "fp32"}
PROTOCOL = FT.model_validate({"name": "two-layer-head", "iterations": 600, "training": TRAINING})
CLAIM = "a classifier on pre-trained features moves less than one on random features"


def measure(case: Case) -> Outcome:
    """The classifier's deviation along its training, and its test error at the end."""
    rows: list[Row] = []
    for trial in trials(case):
        with one_thread(trial.bench.source.recipe.device):
            rows += [{**trial.facts, **row} for row in _train(trial)]
    table = pd.DataFrame(rows)
    end = table[table["step"] == table["step"].max()]
    ends = end.pivot(index=["source", "target", "seed"], columns="start", values="deviation")
    ratio = ends[SCRATCH] / ends[PRETRAINED]
    finding = f"On random features the classifier moves {times(ratio.median())} as far as on pre-trained ones"
    own = end[end["start"] == PRETRAINED].groupby("target")[["deviation", "error"]].mean()
    if len(own) > 2:
        tau = stats.kendalltau(own["deviation"], own["error"]).statistic
        finding += f"; over {len(own)} targets its deviation orders the test error with tau {tau:.2f}"
    figure = line_figure(
        "two-layer-head",
        finding + ".",
        "Deviation of a two-layer classifier on frozen features against the step.",
        "1/sqrt(n) times the Frobenius norm of the hidden layer's change; mean, least and greatest.",
        [Panel("step", "deviation", lines(table, "start", "step", "deviation"))],
    )
    return Outcome(table, figure, verdict(CLAIM, ratio.apply(np.log), "seed", "log of the ratio"))


def _train(trial: Trial) -> list[Row]:
    bench = trial.bench
    device, normalisation = bench.source.recipe.device, bench.source.recipe.normalisation
    backbone = trial.first
    backbone.set_submodule(bench.architecture.head_name(backbone), nn.Identity())
    backbone.to(device)

    def features(images: Tensor) -> Tensor:
        """As images of one pixel, which is what training takes."""
        return torch.cat(outputs(backbone, images, *normalisation, "fp32"))[:, :, None, None]

    images, labels = features(bench.train[0]), bench.train[1]
    tests, truth = features(bench.test[0]), bench.test[1]
    seed = derive_seed("two-layer-head", bench.target.name, trial.seed)
    with seeded(seed, device):
        hidden = (nn.Linear(images.shape[1], HIDDEN), nn.BatchNorm1d(HIDDEN), nn.LeakyReLU())
        network = nn.Sequential(nn.Flatten(), *hidden).to(device)
        head = nn.Linear(HIDDEN, len(bench.target.classes)).to(device)
    first = copy.deepcopy(network)
    batch = min(PROTOCOL.training.batch, len(images))
    run = FineTuning(network, head, images, labels, (0.0,), (1 / 255,), batch, 1, seed)

    def look(step: int, run: FineTuning) -> list[Row]:
        with torch.no_grad():
            wrong = model_of(run)(tests).argmax(1) != truth
        (moved,) = deviations(first, run.network, len(run.images)).values()
        return [{"deviation": moved, "error": float(wrong.double().mean())}]

    steps = PROTOCOL.iterations or 0
    watch = Watch(look, [int(step) for step in np.linspace(0, steps, LOOKS, endpoint=False)])
    train(run, PROTOCOL, [watch])
    watch.now()
    return watch.rows
