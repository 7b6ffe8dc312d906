"""False alarms and power of the verdicts, simulated with components fitted to a suite's own tables.

``python -m ckptbench.agreement.simulate [results/<suite>/agreement.csv]`` prints the table: for each goal how
often any of K scores without effect is called better than ``last-epoch``, and how often a score that is truly
better by 0.2 in tau is. Differences of tau are effects of run, target family, run x family and protocol,
normal, with the variances of a two-way analysis; family effects are centred, as a verdict is given these
families; a share of the pairs is missing.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ckptbench.agreement.inference import step_down_p
from ckptbench.agreement.judge import PERMUTED, REFERENCE
from ckptbench.agreement.runs import MIN_RUNS
from ckptbench.base.types import Array, Float


class Components(NamedTuple):
    """Standard deviations of tau minus last-epoch's tau, and the mean correlation of two scores' runs."""

    run: float
    family: float
    pair: float
    protocol: float
    correlation: float


def fit(agreement: pd.DataFrame, goal: str) -> Components:
    """Components of a suite's scores: mean squares of each score, averaged, equated to their expectations.

    Targets stand for their families. Negative variances count as 0.
    """
    rows = agreement[(agreement["goal"] == goal) & agreement["tau"].notna()]
    wide = rows.pivot(index=["source", "target", "protocol"], columns="selector", values="tau")
    last = wide["last-epoch"]
    names = [name for name in wide if name not in REFERENCE and not str(name).endswith(PERMUTED)]
    wide = wide[names].sub(last, axis=0)
    pairs = wide.groupby(["source", "target"])
    protocol2, size = float(pairs.var(ddof=1).mean().mean()), float(pairs.size().mean())
    protocol2 = protocol2 if np.isfinite(protocol2) else 0.0
    unstacked = pairs.mean().unstack("target").to_numpy()
    cube: Array = unstacked.reshape(len(unstacked), len(names), -1)
    runs, families = len(cube), cube.shape[2]
    by_run, by_family = np.nanmean(cube, axis=2, keepdims=True), np.nanmean(cube, axis=0, keepdims=True)
    rest = cube - by_run - by_family + np.nanmean(cube, axis=(0, 2), keepdims=True)
    rest2 = float(np.nansum(rest**2) / (len(names) * max(1, (runs - 1) * (families - 1))))
    run2 = float(by_run.var(axis=0, ddof=1).mean()) - rest2 / families if runs > 1 else rest2
    family2 = float(by_family.var(axis=2, ddof=1).mean()) - rest2 / runs if families > 1 else 0.0
    correlation = 0.0
    if runs > 2 and len(names) > 1:
        among = np.corrcoef((by_run[:, :, 0] + 1e-12 * np.arange(runs)[:, None]).T)
        correlation = float(among[np.triu_indices(len(names), 1)].mean())
    parts = np.sqrt(np.maximum([run2, family2, rest2 - protocol2 / size, protocol2], 0.0))
    run, family, pair, protocol = (float(part) for part in parts)
    return Components(run, family, pair, protocol, min(max(correlation, 0.0), 0.99))


def simulate(
    components: Components,
    *,
    runs: int = 12,
    families: int = 7,
    protocols: int = 3,
    scores: int = 130,
    effect: float = 0.0,
    missing: float = 0.05,
    repeats: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """How often any score without effect is called better, and how often the one with ``effect`` is.

    Runs differ between repeats, families' effects do not; every family is measured on one run at least.
    """
    rng = np.random.default_rng(seed)
    own, shared = np.sqrt(1 - components.correlation), np.sqrt(components.correlation)
    family = components.family * rng.normal(size=(families, scores))
    family -= family.mean(axis=0)
    truth = np.zeros(scores)
    truth[0] = effect
    alarms = found = 0
    for _ in range(repeats):

        def draw(sd: float, *shape: int) -> Float:
            return np.asarray(
                sd * (own * rng.normal(size=(*shape, scores)) + shared * rng.normal(size=(*shape, 1)))
            )

        d = truth + family + draw(components.run, runs, 1) + draw(components.pair, runs, families)
        d += draw(components.protocol / np.sqrt(protocols), runs, families)
        gone = rng.random((runs, families)) < missing
        gone[:, gone.all(axis=0)] = False
        gone[gone.all(axis=1)] = False
        d[gone] = np.nan
        p = step_down_p(np.nanmean(d, axis=1))
        alarms += bool((p[1 if effect else 0 :] <= 0.05).any())
        found += bool(p[0] <= 0.05)
    return alarms / repeats, found / repeats


def main() -> None:
    """Print the table for the components of each goal, or for runs that differ by 0.18 and 0.20."""
    settings = {f"run sd {sd:.2f}": Components(sd, 0.15, 0.2, 0.1, 0.5) for sd in (0.18, 0.20)}
    if len(sys.argv) > 1:
        table = pd.read_csv(sys.argv[1])
        settings = {goal: fit(table, goal) for goal in ("fe", "ft") if (table["goal"] == goal).any()}
    print("components       run  family pair  prot. corr.  runs    K  false alarms  power at 0.2")
    for (name, components), runs, scores in product(settings.items(), (MIN_RUNS, 12), (8, 130)):
        alarms = simulate(components, runs=runs, scores=scores, repeats=1000)[0]
        power = simulate(components, runs=runs, scores=scores, effect=0.2, repeats=500)[1]
        parts = "  ".join(f"{part:.2f}" for part in components)
        print(f"{name:15s}  {parts}  {runs:4d} {scores:4d}  {alarms:12.3f}  {power:12.2f}", flush=True)


if __name__ == "__main__":
    main()
