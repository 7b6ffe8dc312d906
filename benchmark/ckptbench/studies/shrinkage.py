"""Does BSS beside another method help, and most where target data are few?

Source: batch-spectral-shrinkage (Chen et al. 2019), Table 2 and Figure 1a. On the truth of a suite whose FT
protocols are methods with and without ``bss`` at several sampling rates, such as ``shrinkage-dose``.
"""

from __future__ import annotations

import pandas as pd

from ckptbench.agreement.inference import across_runs
from ckptbench.base.errors import InputError
from ckptbench.plugins import load_plugins
from ckptbench.studies.base import Case, Outcome, Panel, line_figure, lines, verdict
from ckptbench.truth.penalty import Penalty

CLAIM = "BSS adds accuracy where target data are few"
UNIT = ["source", "target", "seed"]


def measure(case: Case) -> Outcome:
    """The paired gain from BSS of every method, by sampling rate, with Student's 95 % interval over seeds."""
    table = method_truths(case)
    plain = table[~table["method"].str.contains("bss")]
    with_bss = table[table["method"].str.endswith("+bss")]
    with_bss = with_bss.assign(method=with_bss["method"].str.removesuffix("+bss"))
    keys = ["method", "rate", *UNIT]
    both = plain.merge(with_bss, on=keys, suffixes=("", "_bss"))
    if both.empty:
        raise InputError(
            f"suite {case.suite.name} has no FT truth of a method with and without bss: take shrinkage-dose"
        )
    both["gain"] = both["accuracy_bss"] - both["accuracy"]
    few = both["rate"] == both["rate"].min()
    gains = both[few].groupby("method", sort=False)["gain"]
    low, high = across_runs(both[few].pivot(index=UNIT, columns="method", values="gain")[[*gains.groups]])
    finding = f"At {100 * both['rate'].min():.0f} % of the data BSS changes accuracy by " + ", ".join(
        f"{mean:+.2f} ({a:.2f} to {b:.2f}) points with {name}"
        for (name, mean), a, b in zip(gains.mean()[[*gains.groups]].items(), low, high, strict=True)
    )
    both["percent"] = 100 * both["rate"]
    panels = [
        Panel("target data, %", f"{of}, gain from BSS, points", lines(part, "method", "percent", "gain"))
        for of, part in both.groupby("target", sort=False)
    ]
    figure = line_figure(
        "shrinkage",
        finding + ".",
        "The change of test accuracy that BSS makes, by method and share of the target data.",
        "Mean, least and greatest over seeds, on the same draws.",
        panels,
    )
    values = both[few].groupby(UNIT)["gain"].mean()
    return Outcome(both, figure, verdict(CLAIM, values, "seed", "the gain at the smallest rate in points"))


def method_truths(case: Case) -> pd.DataFrame:
    """FT truth of every source's last checkpoint: method, rate, source, target, seed and accuracy in %.

    Raises
    ------
    InputError
        If there is none.
    """
    truth = case.results.truth
    protocols = {protocol.name: protocol for protocol in case.suite.ft}
    truth = truth[truth["protocol"].isin(protocols) & (truth["status"] == "ok")]
    if truth.empty:
        raise InputError(f"suite {case.suite.name} has no FT truth: ckptbench run {case.suite.name} makes it")
    truth = truth[truth["epoch"] == truth.groupby("source")["epoch"].transform("max")]
    of = truth["protocol"].map(protocols)
    return pd.DataFrame(
        {
            "method": [protocol.method for protocol in of],
            "rate": [protocol.rate for protocol in of],
            **{name: truth[name].to_numpy() for name in UNIT},
            "accuracy": 100 * truth["accuracy"].to_numpy(),
        }
    )


def sweep(case: Case, penalty: str, parameter: str) -> pd.DataFrame:
    """The truths of one penalty (alone or beside ``l2``) with a column for a parameter's value; 0 is ``l2``.

    Raises
    ------
    InputError
        If the suite does not measure at least two of its values.
    """
    registry = load_plugins("penalty", case.plugins)
    table = method_truths(case)
    size = {"l2": 0}
    for method in table["method"].unique():
        labels = [label for label in method.split("+") if label != "l2"]
        if len(labels) == 1 and labels[0].partition(":")[0] == penalty:
            made: Penalty = registry[labels[0]].make()
            size[method] = int(getattr(made, parameter))
    table = table[table["method"].isin(size)]
    table = table.assign(**{parameter: table["method"].map(size)}, percent=100 * table["rate"])
    if table[parameter].nunique() < 3:
        raise InputError(
            f"suite {case.suite.name} has no sweep over {parameter} of {penalty} with l2: take shrinkage-dose"
        )
    # At the same rates and seeds, so that means are of the same draws.
    whole = table.groupby(["rate", *UNIT])[parameter].transform("nunique") == table[parameter].nunique()
    return table[whole]
