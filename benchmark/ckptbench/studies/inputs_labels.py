"""What transfers from sources with the same labels and other inputs, or the same inputs and other labels.

Source: transferability-of-deep-representations (Liu et al. 2019), section 5.1 and Figure 8: accuracy and the
deviation of every layer after fine-tuning. The suite's first source is the original, the others vary it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ckptbench.base.errors import InputError
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.studies.deviation import deviations
from ckptbench.studies.finetuned import LOOKS, PRETRAINED, SCRATCH, Row, Survey, Trial, survey
from ckptbench.truth.penalty import FineTuning

CLAIM = "other inputs and other labels alone each take away from what transfers"


def measure(case: Case) -> Outcome:
    """Test accuracy along fine-tuning from every source, and how far each layer moves."""
    names = case.sources or tuple(source.name for source in case.suite.sources)
    if len(names) < 2:
        raise InputError("inputs-labels compares sources: suite inputs-labels has five, --source names some")
    ((table, _),) = survey(replace(case, sources=names), [Survey(_look, LOOKS)])
    table["from"] = table["source"].where(table["start"] == PRETRAINED, SCRATCH)
    end = table[(table["step"] == table["step"].max()) & (table["layer_index"] == 0)]
    accuracy = end.groupby(["target", "seed", "from"])["accuracy"].mean().unstack("from")
    gain = accuracy.sub(accuracy[SCRATCH], axis=0)[list(names)]
    finding = (
        f"Fine-tuned from {names[0]}, accuracy is {gain[names[0]].mean():+.1f} points against from scratch; "
        + ", ".join(f"from {name} {gain[name].mean():+.1f}" for name in names[1:])
        + "."
    )
    layers = table[table["step"] == table["step"].max()]
    panels = [
        Panel("step", "test accuracy, %", lines(table, "from", "step", "accuracy")),
        Panel("layer, from the input", "deviation", lines(layers, "from", "layer_index", "deviation")),
    ]
    figure = line_figure(
        "inputs-labels",
        finding,
        "Test accuracy against the step, and the deviation of every layer at the end, by source.",
        "Mean, least and greatest over seeds and targets; from scratch over initialisations too.",
        panels,
    )
    # The nearest of the variants: if it lags, all do.
    lag = gain[names[0]] - gain[list(names[1:])].max(axis=1)
    what = "the original's lead on the best of its variants in points"
    return Outcome(table, figure, verdict(CLAIM, lag, "seed", what))


def _look(trial: Trial, step: int, run: FineTuning) -> Iterator[Row]:
    accuracy = 100 * trial.accuracy(step, run)
    moved = deviations(trial.first, run.network, len(run.images))
    for i, (layer, norm) in enumerate(moved.items()):
        yield {"accuracy": accuracy, "layer": layer, "layer_index": i, "deviation": norm}
