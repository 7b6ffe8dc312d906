"""Can composites with a lingering class be told by equation 5, before the fine-tuned network sees them?

Source: detrimental-memories (Detrimental Memories in Transfer Learning), section 5.1, equation 5. Positives
are target images on images of lingering source-only classes, negatives the same ones on other target images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.data.images import decode, to_pixels
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.finetuned import Row, benches
from ckptbench.studies.lingering import SOURCE_ONLY, SourceModel, composites, interference
from ckptbench.truth.penalty import FineTuning

IMAGES, FULL_IMAGES = 40, 100  # of a class
THRESHOLDS = 41
CLAIM = "the source head on the fine-tuned backbone tells inputs that lingering memories interfere with"


def measure(case: Case) -> Outcome:
    """The ROC of equation 5's score on composites."""
    rows: list[Row] = []
    for bench in benches(case):
        model = SourceModel(bench, case.checkpoint(bench.source))
        for seed in range(case.seeds):
            look = partial(_look, model, FULL_IMAGES if case.full else IMAGES, seed)
            seen = bench.finetune(model.checkpoint, seed, look)
            rows += [{**bench.facts, "seed": seed, **row} for row in seen]
    table = pd.DataFrame(rows)
    area = table.groupby(["source", "target", "seed"])["area"].first()
    floor = table[table["is_floor"]]
    kind = "lingering" if table["lingers"].all() else "source-only (not always lingering)"
    finding = (
        f"Equation 5 tells composites with a {kind} class from those without by an area of "
        f"{area.mean():.2f} under the ROC; at p_lo it flags {floor['true_positives'].mean():.0f} % of them "
        f"and {floor['false_positives'].mean():.0f} % of the others."
    )
    curve = table.assign(name="composites")
    groups = {"with such a class": "true_positives", "without": "false_positives"}
    rates = {
        label: lines(curve, "name", "threshold", column)["composites"] for label, column in groups.items()
    }
    figure = line_figure(
        "interference",
        finding,
        "Share of composites flagged against the threshold, with and without a lingering class.",
        "Mean, least and greatest over seeds and pairs; equation 5's threshold p_lo is the dotted line.",
        [Panel("threshold", "flagged, %", rates, marks=tuple(floor["threshold"].unique()))],
    )
    return Outcome(table, figure, verdict(CLAIM, area - 0.5, "seed", "the ROC's area less one half"))


def lingering_classes(model: SourceModel, run: FineTuning, most: int) -> tuple[list[int], bool]:
    """The source-only classes that linger, or where none does all source-only ones; and whether any does."""
    only = [c for c, kind in enumerate(model.kinds) if kind == SOURCE_ONLY]
    found = model.lingering(run.network, most)
    lingering = [c for c in only if found[c] > model.floor]
    return lingering or only, bool(lingering)


def _look(model: SourceModel, most: int, seed: int, step: int, run: FineTuning) -> Iterator[Row]:
    classes, lingers = lingering_classes(model, run, most)
    rng = np.random.default_rng(derive_seed("interference", model.bench.target.name, seed))
    backgrounds = torch.cat([model.images(c, most) for c in classes])
    tests = model.bench.test[0]
    overlays, others = (tests[torch.from_numpy(rng.choice(len(tests), len(backgrounds)))] for _ in range(2))
    scores = [
        interference(model, run.network, classes, composites(under, overlays, rng)[0])
        for under in (backgrounds, others)
    ]
    truth = np.repeat([1, 0], [len(part) for part in scores])
    area = float(roc_auc_score(truth, np.concatenate(scores)))
    for threshold in sorted({*np.linspace(0, 1, THRESHOLDS).tolist(), model.floor}):
        flagged = [100 * float((part > threshold).mean()) for part in scores]
        yield {
            "classes": len(classes), "lingers": lingers, "area": area, "threshold": threshold,
            "is_floor": threshold == model.floor, "true_positives": flagged[0], "false_positives": flagged[1],
        }  # fmt: skip


def check_folder(case: Case, folder: Path) -> pd.DataFrame:
    """Equation 5 on the images of a folder, under the network fine-tuned on the case's first pair.

    Raises
    ------
    InputError
        If the folder holds no files, or one cannot be read as an image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of images")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise InputError(f"{folder} holds no images")
    bench = next(iter(benches(case)))
    (data,) = (spec.data for spec in case.suite.targets if spec.name == bench.target.name)
    scaling = (data.size, data.flip, data.crop, data.interpolation)
    pixels = np.stack([to_pixels(decode(path.read_bytes(), str(path)), *scaling) for path in paths])
    model = SourceModel(bench, case.checkpoint(bench.source))

    def look(step: int, run: FineTuning) -> Iterator[Row]:
        classes, _ = lingering_classes(model, run, FULL_IMAGES)
        images = torch.from_numpy(pixels).to(run.images.device)
        for path, score in zip(paths, interference(model, run.network, classes, images), strict=True):
            flag = "interferes" if score > model.floor else ""
            yield {"image": str(path.relative_to(folder)), "score": round(float(score), 4), "verdict": flag}

    return pd.DataFrame(bench.finetune(model.checkpoint, 0, look)).drop(columns="step")
