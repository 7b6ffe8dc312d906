"""Singular values of batches of features after fine-tuning on less and more data, with and without BSS.

Source: batch-spectral-shrinkage (Chen et al. 2019), Figures 1c, 1d, 3b and 3c.
"""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from ckptbench.base.types import Float
from ckptbench.networks.training import outputs
from ckptbench.plugins import load_plugins
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import Bench, Row, benches
from ckptbench.truth.penalty import FineTuning

RATES = (0.15, 0.3, 0.5, 1.0)
METHODS = {"plain": (), "bss": ("bss",)}
CLAIM = "more target data suppress the small singular values of features"


def measure(case: Case) -> Outcome:
    """Mean spectra of batches of test images, for every rate and method."""
    penalties = load_plugins("penalty", case.plugins)
    rows: list[Row] = []
    for bench in benches(case):
        checkpoint = case.checkpoint(bench.source)
        about = {**bench.facts, "epoch": checkpoint.epoch}
        for seed in range(case.seeds):
            for rate in RATES:
                protocol = bench.protocol.model_copy(update={"rate": rate})
                for method, labels in METHODS.items():
                    added = [penalties[label].make() for label in labels]
                    facts = {**about, "seed": seed, "rate": rate, "method": method}
                    seen = bench.finetune(
                        checkpoint, seed, partial(_look, bench), protocol=protocol, penalties=added
                    )
                    rows += [{**facts, **row} for row in seen]
    table = pd.DataFrame(rows)
    keys = ["source", "target", "seed", "rate", "method"]
    half = table.groupby(["source", "target"])["index"].transform("max") / 2
    table["small"] = table["index"] > half
    small = table[table["small"]].groupby(keys)["sigma"].sum()
    share = 100 * small / table.groupby(keys)["sigma"].sum()
    plain = share.xs("plain", level="method").unstack("rate")
    effect = (share.xs("bss", level="method") - share.xs("plain", level="method")).groupby("rate").mean()
    finding = (
        f"The smaller half of the singular values holds {plain[0.15].mean():.2f} % of their sum after "
        f"fine-tuning on 15 % of the data, {plain[1.0].mean():.2f} % on all; BSS changes that "
        f"by {effect[0.15]:+.2f} and {effect[1.0]:+.2f} points."
    )
    extremes = table[table["rate"].isin((RATES[0], RATES[-1]))]
    names = zip(extremes["rate"], extremes["method"], strict=True)
    extremes = extremes.assign(what=[f"{100 * rate:.0f} %, {method}" for rate, method in names])
    parts = {"singular value": extremes, "the smaller half": extremes[extremes["small"]]}
    panels = [
        Panel("index", y, lines(part, "what", "index", "sigma"), log_y=True) for y, part in parts.items()
    ]
    figure = line_figure(
        "spectra",
        finding,
        "Singular values of batches of features in falling order, by share of the training data and method.",
        "Mean over batches of test images; mean, least and greatest over seeds and pairs.",
        panels,
    )
    values = plain[RATES[0]] - plain[RATES[-1]]
    return Outcome(table, figure, verdict(CLAIM, values, "seed", "the fall of their share in points"))


def _look(bench: Bench, step: int, run: FineTuning) -> list[Row]:
    features = torch.cat(outputs(run.network, bench.test[0], run.mean, run.std, "fp32"))
    sigma = batch_spectrum(features, bench.protocol.training.batch)
    return [{"index": i, "sigma": value} for i, value in enumerate(sigma, 1)]


def batch_spectrum(features: torch.Tensor, batch: int) -> Float:
    """Mean singular values, descending, of the whole batches (batch x D) of N features."""
    batch = min(batch, len(features))
    parts = features.double()[: len(features) // batch * batch].reshape(-1, batch, features.shape[1])
    sigma: Float = torch.linalg.svdvals(parts).mean(0).cpu().numpy()
    return sigma
