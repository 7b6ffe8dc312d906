"""Is F_m, the main spectral part of the features, their low-frequency part?

Source: inadequately-pretrained-models (Deng et al. 2022), section 4.4, which suggests so. Heads are fitted on
F_m and on F_r of the whole training images; the test images come whole, low-passed and high-passed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ckptbench.base.types import Array, Checkpoint
from ckptbench.networks.training import outputs
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import Bench, Row, benches
from ckptbench.suites import FE
from ckptbench.truth.probe import fe_truth

CHECKPOINTS = 5  # along the run, by default; all with --full
CUTOFF = 0.25
"""Of the highest frequency along an axis: what lies within is low."""
CLAIM = "F_m is the low-frequency part of the features"
WHAT = "F_m's lead on low over high less F_r's, in points of the accuracy kept,"
PARTS = ("main", "residual")


def measure(case: Case) -> Outcome:
    """Accuracy of heads on F_m and F_r, by what is left of the test images, along the run."""
    rows: list[Row] = []
    for bench in benches(case):
        chosen = bench.source.checkpoints
        if not case.full:
            places = np.linspace(0, len(chosen) - 1, min(CHECKPOINTS, len(chosen))).round().astype(int)
            chosen = [chosen[place] for place in places]
        for checkpoint in chosen:
            rows += _rows(bench, checkpoint, case.seeds)
    table = pd.DataFrame(rows)
    kept = kept_shares(table)
    low, high = (100 * kept[name].groupby("part").mean() for name in ("low", "high"))
    values = 100 * (kept["low"] - kept["high"]).unstack("part")
    finding = (
        f"Of their accuracy above chance, heads on F_m keep {low['main']:.0f} % on low-passed and "
        f"{high['main']:.0f} % on high-passed images, heads on F_r {low['residual']:.0f} % and "
        f"{high['residual']:.0f} %."
    )
    panels = [
        Panel("epoch of pre-training", f"{part} part, accuracy, %", lines(of, "inputs", "epoch", "accuracy"))
        for part, of in table.groupby("part")
    ]
    figure = line_figure(
        "frequency",
        finding,
        "Accuracy of heads on F_m and F_r on whole, low-passed and high-passed test images along the run.",
        "Mean, least and greatest over seeds and pairs; cut at a quarter of the highest frequency.",
        panels,
    )
    return Outcome(table, figure, verdict(CLAIM, values["main"] - values["residual"], "seed", WHAT))


def kept_shares(table: pd.DataFrame) -> pd.DataFrame:
    """For each pair, seed and part: the share of the accuracy above chance that is left on passed images.

    Means over checkpoints come first. Differences of plain accuracies would favour F_m, the better part,
    which has more to lose.
    """
    above = table.assign(above=table["accuracy"] - table["chance"])
    wide = above.groupby(["source", "target", "seed", "part", "inputs"])["above"].mean().unstack("inputs")
    return wide[["low", "high"]].div(wide["whole"], axis=0)


def _rows(bench: Bench, checkpoint: Checkpoint, seeds: int) -> list[Row]:
    network = bench.load(checkpoint)
    network.set_submodule(bench.architecture.head_name(network), nn.Identity())
    network.to(bench.source.recipe.device)
    mean, std = bench.source.recipe.normalisation

    def features(images: Tensor) -> Array:
        found: Array = torch.cat(outputs(network, images, mean, std, "fp32")).cpu().numpy()
        return found

    images, labels = bench.test
    low, high = passed(images)
    inputs = {"whole": images, "low": low, "high": high}
    train = features(bench.train[0])
    tests = {name: features(some) for name, some in inputs.items()}
    rows = []
    for part in PARTS:
        protocol = FE.model_validate({"name": "frequency", "part": part})
        results = fe_truth(
            train,
            bench.target.train.labels,
            np.concatenate(list(tests.values())),  # one fit for all three
            np.tile(labels.cpu().numpy(), len(tests)),
            len(bench.target.classes),
            protocol,
            range(seeds),
            name_parts=(bench.target.name,),
        )
        rows += [
            {
                **bench.facts,
                "epoch": checkpoint.epoch,
                "seed": result.seed,
                "part": part,
                "inputs": name,
                "accuracy": 100 * float(correct.mean()),
                "chance": 100 / len(bench.target.classes),
            }
            for result in results
            for name, correct in zip(tests, np.split(result.correct, len(tests)), strict=True)
        ]
    return rows


def passed(images: Tensor, cutoff: float = CUTOFF) -> tuple[Tensor, Tensor]:
    """The low- and the high-frequency part of uint8 images, clipped to 0..255.

    Low are the frequencies within ``cutoff`` of the highest along an axis, by their distance from 0; the high
    part keeps each channel's mean, without which it would be dark.
    """
    height, width = images.shape[-2:]
    device = images.device
    down, across = (torch.fft.fftfreq(size, device=device)[:, None] for size in (height, width))
    keep = torch.hypot(down, across.T) <= 0.5 * cutoff
    pixels = images.float()
    low = torch.fft.ifft2(torch.fft.fft2(pixels) * keep).real
    high = pixels - low + pixels.mean(dim=(-2, -1), keepdim=True)
    rounded = [part.round().clamp(0, 255).to(torch.uint8) for part in (low, high)]
    return rounded[0], rounded[1]
