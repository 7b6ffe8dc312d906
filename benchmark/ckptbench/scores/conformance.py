"""The public conformance suite: what every selector has to keep to, checked on made-up candidates.

``ckptbench check FILE`` runs it on a plugin, the repository's tests run it on every selector of the tree.
"""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ckptbench.agreement.judge import REFERENCE
from ckptbench.base import guard
from ckptbench.base.errors import InputError
from ckptbench.base.findings import Exempt, Fault, find
from ckptbench.base.types import Checkpoint, Finding, Float
from ckptbench.plugins import NEEDS, PluginSpec
from ckptbench.scores.candidate import Candidate, Ledger
from ckptbench.scores.made_up import APART, made_up, pool
from ckptbench.scores.score import outside_bounds, view

TOLERANCE = 1e-6  # relative: what rounding may move a score by when rows change places
SHAPES = ((120, 24, 5), (200, 16, 3), (90, 40, 9))  # N, D and C that the direction is asked at
WIDE = (60, 96, 4)  # and where N < D
COST = (1000, 512, 10)  # and that the time is measured at

Test = Callable[[PluginSpec], str]


def check(spec: PluginSpec) -> list[Finding]:
    """Run every test on one selector with the parameters of its spec.

    Tests stand in groups; after a group with a failure the later ones are not run, so that one fault is one
    failure.
    """
    exempt = _exempt(spec)
    findings: list[Finding] = []
    failed = ""
    with threadpool_limits(1):  # as a worker has
        for at, group in enumerate(_GROUPS if "weights" not in spec.needs else _GROUPS[:1]):
            found = []
            for name, test in group.items():
                why = (
                    f"not run, since {failed} failed" if failed else exempt.get(name) if at >= _STRICT else ""
                )
                found.append(Finding(name, None, why, 0.0) if why else _find(name, test, spec))
            findings += found
            failed = failed or next((one.test for one in found if one.passed is False), "")
    if "weights" in spec.needs:
        why = "needs the network's weights: it can be judged in a suite, not on made-up features"
        findings.append(Finding("all others", None, why, 0.0))
    return findings


def _exempt(spec: PluginSpec) -> dict[str, str]:
    """Test -> the reason why the selector need not pass it."""
    lines = [line.partition(": ") for line in getattr(spec.plugin, "exempt", ())]
    return {name: why for name, _, why in lines}


def _find(name: str, test: Test, spec: PluginSpec) -> Finding:
    with warnings.catch_warnings(record=True) as caught, guard.watch() as misdeeds:
        warnings.simplefilter("always")
        found = find(name, lambda: test(spec))
    if misdeeds:
        message = f"{'; '.join(misdeeds)}: a score is a function of its candidate alone"
        found = replace(found, passed=False, message=message)
    return replace(found, message=f"{found.message}; warns: {caught[0].message}") if caught else found


def _scores(
    spec: PluginSpec, candidates: Sequence[Candidate], plugin: Any = None, needs: Sequence[str] | None = None
) -> Float:
    """The selector's scores of some candidates, which a pool selector sees at once."""
    plugin = plugin or spec.make()
    views = [view(spec, candidate, needs) for candidate in candidates]
    values = plugin.score_pool(views) if spec.pool else [plugin.score(one) for one in views]
    numbers = np.array([float(value) for value in values])
    if len(numbers) != len(views):
        raise ValueError(f"score_pool returned {len(numbers)} scores for {len(views)} candidates")
    return numbers


def _text(values: Float) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _must_be_finite(values: Float) -> str:
    if not np.isfinite(values).all():
        raise Fault(_text(values))
    return _text(values)


def _must_agree(a: Float, b: Float, what: str) -> str:
    off = np.abs(a - b) / np.maximum(np.abs(a), 1.0)
    if np.isfinite(off).all() and off.max() <= TOLERANCE:
        return f"equal to {max(off.max(), 1e-16):.0e}"
    worst = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
    raise Fault(f"{a[worst]:.8g} becomes {b[worst]:.8g} {what}")


# ------------------------------------------------------------------------------------------- the tests


def _declaration(spec: PluginSpec) -> str:
    """Name, needs and direction are words that tables and the command line can hold."""
    published = getattr(spec.plugin, "published", "higher")
    unknown = [need for need in spec.needs if need not in NEEDS]
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", spec.name):
        raise Fault(f"the name {spec.name!r} should be lower-case letters, digits, hyphens and dots")
    if spec.name in REFERENCE and spec.origin != "ckptbench":
        raise Fault(f"{spec.name!r} is the name of a row that every leaderboard has")
    if unknown:
        raise Fault(f"needs {unknown[0]!r}, which is none of {', '.join(NEEDS)}")
    if published not in ("higher", "lower"):
        raise Fault(f"published is {published!r}, neither 'higher' nor 'lower'")
    for name, why in _exempt(spec).items():
        if not why or not any(name in group for group in _GROUPS[_STRICT:]):
            raise Fault(f"exempt from {name!r}: should read 'TEST: REASON', with a test's name")
    defaults = ", ".join(f"{key}={value}" for key, value in spec.defaults.items())
    return f"needs {', '.join(spec.needs) or 'nothing'}; parameters {defaults or 'none'}"


def _conduct(spec: PluginSpec) -> str:
    """Whoever opens a file, forks or changes the folder is found in every test; here it is the test."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # those are the matter of other tests
        warnings.simplefilter("ignore")
        _scores(spec, pool())
    return "reads no file, does not fork, stays in its folder"


def _input_untouched(spec: PluginSpec) -> str:
    """Arrays of a candidate are read-only; those of its spectra are shared with all other selectors."""
    own = [candidate.kept_in(Ledger()) for candidate in pool()]
    for candidate in own:
        _ = candidate.spectrum.left, candidate.centred.left, candidate.matrix, candidate.standardised.matrix

    def arrays() -> list[bytes]:
        owners = [owner for c in own for owner in (c, c.source, c.spectrum, c.centred)]
        found = [a.tobytes() for owner in owners for a in vars(owner).values() if isinstance(a, np.ndarray)]
        return found + [a.tobytes() for c in own for a in (c.matrix, c.onehot, c.standardised.matrix)]

    before = arrays()
    try:
        _scores(spec, own)
    except Exception as error:
        if "read-only" in str(error):
            raise Fault(f"writes into its input ({error}): copy the array first") from None
    if arrays() != before:
        raise Fault("arrays of the candidate have other values afterwards: copy before changing in place")
    return "every array as it was"


def _needs(spec: PluginSpec) -> str:
    """What is not declared is not there in a suite: the score is the same with it and without it."""
    candidates = pool()
    try:
        everything = _scores(spec, candidates, needs=NEEDS)
    except Exception as error:
        return f"raises {type(error).__name__} whatever it is given"  # the matter of other tests

    def does_without(*hidden: str) -> bool:
        try:
            found = _scores(spec, candidates, needs=[need for need in NEEDS if need not in hidden])
        except Exception:
            return False
        return np.allclose(found, everything, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)

    if not does_without():
        return "changes from one call to the next"  # likewise
    others = [need for need in NEEDS if need not in spec.needs]
    if not does_without(*others):
        used = [need for need in others if not does_without(need)]
        raise Fault(f"uses {', '.join(used or others)}, which its `needs` do not declare")
    return f"nothing but {', '.join(spec.needs) or 'facts of the checkpoint'}"


def _finite(spec: PluginSpec) -> str:
    """In every reading, and within the bounds that it declares."""
    messages = []
    for one in spec.readings:
        candidates, plugin = pool(), one.make()
        values = _scores(one, candidates, plugin)
        if not np.isfinite(values).all():
            raise Fault(f"{one.label}: {_text(values)}")
        for candidate, value in zip(candidates, values, strict=True):
            if flag := outside_bounds(plugin, view(one, candidate), value):
                raise Fault(f"{one.label}: {flag}")
        messages.append(f"{one.label} {_text(values)}")
    return "; ".join(messages)


def _deterministic(spec: PluginSpec) -> str:
    """Equal to the last bit, from a new object and from one that has scored others in between."""
    candidates, plugin = pool(), spec.make()
    first = _scores(spec, candidates, plugin)
    _scores(spec, pool(seed=1), plugin)
    for what, again in (("the second time", _scores(spec, candidates, plugin)), ("elsewhere", _usual(spec))):
        if not np.array_equal(first, again, equal_nan=True):
            raise Fault(f"{_text(first)} becomes {_text(again)} {what}: draw from candidate.rng alone")
    if _draws(spec) and not spec.random:
        raise Fault("the score changes with the candidate's seed: declare `random = True`")
    return "equal to the last bit"


_DRAWS = "draws batches, subsets or a start from candidate.rng"


@cache
def _usual(spec: PluginSpec) -> Float:
    """The scores of the usual pool; they are the same whenever ``deterministic`` has passed."""
    return _scores(spec, pool())


@cache
def _draws(spec: PluginSpec) -> bool:
    other = [replace(candidate, seed=1) for candidate in pool()]
    return not np.array_equal(_usual(spec), _scores(spec, other), equal_nan=True)


def _must_stay(spec: PluginSpec, changed: Sequence[Candidate], what: str) -> str:
    """Other candidates of the same scores as the usual pool's, unless the selector draws."""
    if _draws(spec):
        raise Exempt(_DRAWS)
    return _must_agree(_usual(spec), _scores(spec, changed), what)


def _row_order(spec: PluginSpec) -> str:
    candidates = pool()
    order = np.random.default_rng(0).permutation(len(candidates[0].labels))
    return _must_stay(spec, [candidate.rows(order) for candidate in candidates], "when rows change places")


def _class_numbers(spec: PluginSpec) -> str:
    """Which number a class has, and numbers without a class, as a small sample of the target leaves them."""
    others = np.array([5, 0, 3, 6, 2])
    renumbered = [replace(candidate, labels=others[candidate.labels]) for candidate in pool()]
    return _must_stay(spec, renumbered, "with labels 5, 0, 3, 6, 2 for 0 to 4")


def _pool_order(spec: PluginSpec) -> str:
    if not spec.pool:
        raise Exempt("sees one candidate at a time")
    if _draws(spec):
        raise Exempt(_DRAWS)
    moved = _scores(spec, [pool()[at] for at in (2, 0, 1)])
    return _must_agree(_usual(spec)[[2, 0, 1]], moved, "in another pool order")


def _checkpoint_facts(spec: PluginSpec) -> str:
    """Epoch, source accuracy and run know nothing of the target: a score of them is a baseline."""
    other = Checkpoint("another", 7, "other", "0", source_accuracy=0.5)
    changed = [replace(candidate, checkpoint=other) for candidate in pool()]
    what = "under another epoch, source accuracy and run"
    return _must_agree(_usual(spec), _scores(spec, changed), what)


def _dtypes(spec: PluginSpec) -> str:
    wanted = _scores(spec, pool(dtype=np.float64))
    for dtype in ("float32", "float16"):
        what = f"on the same numbers in {dtype}: compute in float64 (candidate.matrix)"
        message = _must_agree(wanted, _scores(spec, pool(dtype=dtype)), what)
    return message


def _constant_features(spec: PluginSpec) -> str:
    """Some dead units give a number; where all are dead, one clear refusal will do too."""
    dead = []
    for candidate in pool():
        features = candidate.features.copy()
        features[:, 0], features[:, 3] = 0.0, 3.0
        dead.append(replace(candidate, features=features))
    message = _must_be_finite(_scores(spec, dead))
    constant = [replace(c, features=np.full_like(c.features, 3.0)) for c in dead]
    try:
        return _must_be_finite(_scores(spec, constant))
    except InputError as error:
        return f"{message}; all constant: {error}"


def _one_member_class(spec: PluginSpec) -> str:
    return _must_be_finite(_scores(spec, pool(labels=np.append(np.arange(60) % 4, 4))))


def _direction(spec: PluginSpec) -> str:
    """The mean score over made-up targets is higher where the classes lie apart, at every shape."""
    if "labels" not in spec.needs:
        raise Exempt("does not look at the labels" if spec.needs else "a baseline: looks at no example")
    return [_must_rise(spec, shape) for shape in SHAPES][-1]


def _must_rise(spec: PluginSpec, shape: tuple[int, int, int]) -> str:
    n, d, classes = shape
    ends = [APART[0], APART[-1]]
    pools = [[made_up(n, d, classes, apart, seed=seed) for apart in ends] for seed in range(3)]
    together, apart = np.mean([_scores(spec, candidates) for candidates in pools], axis=0)
    message = f"{n} x {d}: {together:.4g} with classes on one spot, {apart:.4g} with classes apart"
    if not apart > together:
        raise Fault(f"{message}: higher should be better")
    return message


def _wide(spec: PluginSpec) -> str:
    """Finite, tells candidates apart, and in the right direction where there are more features than rows."""
    n, d, classes = WIDE
    values = _scores(spec, pool(n=n, d=d, classes=classes))
    message = _must_be_finite(values)
    if np.ptp(values) == 0:
        raise Fault(f"{values[0]:.4g} for every candidate: it cannot tell checkpoints apart here")
    if "labels" not in spec.needs or "direction" in _exempt(spec):
        return message
    return _must_rise(spec, WIDE)


def _cost(spec: PluginSpec) -> str:
    if not spec.is_cheap:
        raise Exempt("takes long, as it declares")
    n, d, classes = COST
    candidates = pool(n=n, d=d, classes=classes)[0 if spec.pool else -1 :]
    before = time.perf_counter()
    _scores(spec, candidates)
    each = (time.perf_counter() - before) / len(candidates)
    return f"{1000 * each:.3g} ms per candidate of {n} x {d}, {classes} classes"


_STRICT = 6  # groups that nobody is exempt from
_GROUPS: tuple[dict[str, Test], ...] = (
    {"declaration": _declaration},
    {"conduct": _conduct},
    {"input untouched": _input_untouched},
    {"needs": _needs},
    {"finite": _finite},
    {"deterministic": _deterministic},
    {
        "row order": _row_order,
        "class numbers": _class_numbers,
        "pool order": _pool_order,
        "checkpoint facts": _checkpoint_facts,
        "dtypes": _dtypes,
        "constant features": _constant_features,
        "one-member class": _one_member_class,
    },
    {"direction": _direction},
    {"N < D": _wide},
    {"cost": _cost},
)
