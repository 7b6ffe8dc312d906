"""Procedures on recorded tables: what each would have picked on every track, lost, won and cost.

They read what a user could have measured, scores and validation cells, and pay the seconds that it took; the
test truth judges the picks and is read by none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from ckptbench.agreement.judge import PERMUTED, REFERENCE, first_choice
from ckptbench.agreement.procedures import (
    CrossValidate,
    FirstChoice,
    Halving,
    Procedure,
    Request,
    Scores,
    drive,
    take_last,
)
from ckptbench.agreement.tables import Design, tracks
from ckptbench.agreement.track import Track, complete, resample_truth, split_truth
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.text import counted
from ckptbench.base.types import Array, Float
from ckptbench.results import Results, make_table

LAST = "last-epoch"
GOALS = ("fe", "ft")
PROBED, OF_BEST = "cross-validated probe", ", of the 3 best by "


@dataclass(frozen=True, eq=False)
class Recorded:
    """What was measured on one source-target pair, and one protocol's truth of it.

    Attributes
    ----------
    track : the test truth, which only judges; its checkpoints in epoch order, without NaN
    scores : selector -> E scores
    score_seconds : selector -> seconds for all E checkpoints
    cells : (protocol, checkpoint, fold) -> accuracy and seconds
    extraction : seconds to extract the features of all checkpoints, charged once to what reads features
    on_features : validation protocols that read features too
    family, unsound : the target's family; why the source run is in no verdict ("" where it is)
    """

    track: Track
    scores: Mapping[str, Float]
    score_seconds: Mapping[str, float]
    cells: Mapping[tuple[str, int, int], tuple[float, float]]
    extraction: float = 0.0
    on_features: frozenset[str] = field(default_factory=frozenset)
    family: str = ""
    unsound: str = ""

    def run(self, procedure: Procedure) -> tuple[int, float]:
        """The procedure's pick, and the seconds that it would have taken.

        Raises
        ------
        InputError
            If the tables lack a number that it asks for.
        """
        charges: dict[object, float] = {}

        def answer(request: Request) -> Float:
            if isinstance(request, Scores):
                if request.selector not in self.scores:
                    raise InputError(f"{self.track.name} has no scores of {request.selector!r}")
                if request.selector not in REFERENCE:  # which know a checkpoint without its features
                    charges["extraction"] = self.extraction
                charges[request] = self.score_seconds[request.selector]
                return np.nan_to_num(self.scores[request.selector], nan=-np.inf)
            values = np.empty((len(request.checkpoints), len(request.folds)))
            for i, j in np.ndindex(values.shape):
                key = (request.protocol, request.checkpoints[i], request.folds[j])
                if key not in self.cells:
                    raise InputError(
                        f"{self.track.name} has no validation cell of protocol {key[0]!r}, checkpoint "
                        f"{key[1]}, fold {key[2]}"
                    )
                values[i, j], charges[key] = self.cells[key]
            if request.protocol in self.on_features:
                charges["extraction"] = self.extraction
            return values

        pick = drive(procedure, len(self.track.truth), answer)
        return pick, sum(charges.values())  # what is asked for twice is measured once

    @cached_property
    def _judge(self) -> tuple[float, Float, Float | None]:
        """The cross-fitted best, and the truths that a pick is measured by, observed and resampled."""
        rng = np.random.default_rng(derive_seed("procedures", self.track.name))
        choosing, measured = split_truth(self.track, rng)
        best = float((first_choice(choosing) * measured).sum(axis=1).mean())
        return best, measured.mean(axis=0), resample_truth(self.track, 500, rng)

    def judge(self, pick: int) -> dict[str, float]:
        """regret and gain over the last in accuracy points, and the gain's sd by the truth's noise."""
        best, measured, truths = self._judge
        sd = float("nan") if truths is None else float((truths[:, pick] - truths[:, -1]).std(ddof=1))
        gain = self.track.mean[pick] - self.track.mean[-1]
        return {"regret": 100 * (best - measured[pick]), "gain": 100 * gain, "gain_sd": 100 * sd}


def recorded_pairs(results: Results) -> Iterator[Recorded]:
    """What a suite's tables hold for procedures, a track of goal FE or FT at a time."""
    design = Design.of(results)
    scores = results.scores[results.scores["status"] == "ok"]
    extracted = results.extraction[results.extraction["split"] == "train"]
    validation = _validation(results)
    known = dict(iter(validation[validation["status"] == "ok"].groupby(["source", "target"])))
    for track in tracks(results):
        track = complete(track)[0]
        if track.goal not in GOALS or track.epochs is None or len(track.truth) < 3:
            continue
        pair = track.source, track.target
        own = scores[(scores["source"] == pair[0]) & (scores["target"] == pair[1])]
        score, seconds = (
            own.pivot_table(index="selector", columns="epoch", values=name).reindex(columns=track.epochs)
            for name in ("score", "seconds")
        )
        read = (extracted["source"] == pair[0]) & (extracted["target"] == pair[1])
        read &= extracted["epoch"].isin(track.epochs)
        cells = known.get(pair, validation[:0])
        cells = cells[cells["epoch"].isin(track.epochs)]
        yield Recorded(
            track,
            {str(name): row.to_numpy() for name, row in score.iterrows()},
            {str(name): float(row.sum()) for name, row in seconds.iterrows()},
            dict(zip(_keys(cells, track.epochs), _values(cells), strict=True)),
            extraction=float(extracted["seconds"][read].sum()),
            on_features=frozenset(cells.loc[cells["goal"] == "fe", "protocol"]),
            family=design.families.get(track.target, track.target),
            unsound=design.unsound.get(track.source, ""),
        )


def _validation(results: Results) -> pd.DataFrame:
    return make_table("validation", ()) if results.validation is None else results.validation


def _keys(cells: pd.DataFrame, epochs: Array) -> Iterator[tuple[str, int, int]]:
    return zip(cells["protocol"], np.searchsorted(epochs, cells["epoch"]), cells["fold"], strict=True)


def _values(cells: pd.DataFrame) -> Iterator[tuple[float, float]]:
    return zip(cells["accuracy"].astype(float), cells["seconds"].astype(float), strict=True)


def procedures_of(results: Results) -> dict[str, dict[str, Procedure]]:
    """Goal -> name -> procedure: take the last, each score's first choice, and what validation cells allow.

    That is, a probe cross-validated on every checkpoint, or on the three best by the first confirmatory
    score and the last one; for FT besides fine-tunings on one fold and on all, short ones and whole, and
    halving from short ones to whole ones.
    """
    scores = [
        name
        for name in dict.fromkeys(results.scores["selector"])
        if (name not in REFERENCE or name == "source-accuracy") and not name.endswith(PERMUTED)
    ]
    first: dict[str, Procedure] = {LAST: take_last, **{name: FirstChoice(name) for name in scores}}
    screen = next((name for name in results.suite.confirmatory if name in scores), None)
    folds = _validation(results).groupby(["goal", "protocol"])["fold"].nunique()
    probes, tunings = (
        {str(name): int(folds[own, name]) for goal, name in folds.index if goal == own} for own in GOALS
    )

    def measured(what: str, protocol: str, number: int) -> dict[str, Procedure]:
        found: dict[str, Procedure] = {what: CrossValidate(protocol, number)}
        if screen is not None:
            found[f"{what}{OF_BEST}{screen}"] = CrossValidate(protocol, number, screen)
        return found

    for protocol, number in probes.items():
        first |= measured(PROBED, protocol, number)
    procedures = {"fe": first, "ft": dict(first)}
    lengths = sorted(tunings, key=lambda name: int(name.split()[0].replace(",", "")))  # "50 iterations"
    for protocol in lengths:
        for number in sorted({1, tunings[protocol]}):
            found = measured(f"{protocol} on {counted(number, 'fold')}", protocol, number)
            procedures["ft"] |= found
    if len(lengths) > 1:
        short, whole = lengths[0], lengths[-1]
        # One fold a round and one for the finalists: the least that halving takes.
        halving = Halving(short, whole, budget=1, fresh=1)
        procedures["ft"][f"halving: {short}, finalists {whole}"] = halving
    return procedures


def without_finetuning(what: str, name: str) -> FirstChoice | CrossValidate | None:
    """The procedure of a row of the record; None where it asks for fine-tunings, or is to take the last."""
    if what == "score":
        return FirstChoice(name)
    measured, _, screen = name.partition(OF_BEST)
    return CrossValidate("probe", 1, screen or None) if measured == PROBED else None


def choices(procedures: Mapping[str, Mapping[str, Procedure]], tables: Iterable[Recorded]) -> pd.DataFrame:
    """One row a procedure and recorded pair.

    Parameters
    ----------
    procedures : goal -> name -> procedure, as `procedures_of` gives them

    Returns
    -------
    Columns: selector (the procedure's name), what ("score" for a score's first choice, else "procedure"),
    goal, source, target, protocol, target_family, unsound, pick (an epoch), regret, gain, gain_sd (points),
    seconds, problem (what the tables lack: then the numbers are NaN).
    """
    rows = []
    for table in tables:
        track = table.track
        about = {"goal": track.goal, "source": track.source, "target": track.target,
                 "protocol": track.protocol, "target_family": table.family or track.target,
                 "unsound": table.unsound}  # fmt: skip
        for name, procedure in procedures[track.goal].items():
            what = "score" if isinstance(procedure, FirstChoice) else "procedure"
            numbers: dict[str, float] = dict.fromkeys(("regret", "gain", "gain_sd", "seconds"), np.nan)
            pick, problem = -1, ""
            try:
                pick, numbers["seconds"] = table.run(procedure)
            except InputError as error:
                problem = str(error)
            else:
                numbers.update(table.judge(pick))
            epoch = -1 if pick < 0 else pick if track.epochs is None else int(track.epochs[pick])
            rows.append(
                {"selector": name, "what": what, **about, "pick": epoch, **numbers, "problem": problem}
            )
    return pd.DataFrame(rows)
