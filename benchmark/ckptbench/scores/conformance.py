"""The public conformance suite: what every selector has to keep to, checked on made-up candidates.

``ckptbench check FILE`` runs it on a plugin, the repository's tests run it on every selector of the tree.

The candidates are Gaussian classes on features whose standard deviations fall as 1/j, as those of a
trained network do, so that the large and the small singular values both tell classes apart. Values are
rounded to float16, so that every floating type holds the same numbers. Source head and source rows know
the same classes and two more.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from ckptbench.agreement.judge import REFERENCE
from ckptbench.base import guard
from ckptbench.base.digests import derive_seed
from ckptbench.base.errors import InputError
from ckptbench.base.types import Checkpoint, Finding, Float
from ckptbench.plugins import NEEDS, PluginSpec, plugins_of
from ckptbench.scores.candidate import Candidate, Ledger, SourceRows
from ckptbench.scores.score import outside_bounds, view

TOLERANCE = 1e-6  # relative: what rounding may move a score by when rows change places
APART = (0.0, 0.4, 0.8)  # distance of the classes, in standard deviations of each feature
SHAPES = ((120, 24, 5), (200, 16, 3), (90, 40, 9))  # N, D and C that the direction is asked at
WIDE = (60, 96, 4)  # and where N < D
COST = (1000, 512, 10)  # and that the time is measured at


def check_file(path: str | Path, plugins: Sequence[str] = ()) -> dict[str, list[Finding]]:
    """Run the suite on every selector of a file: name -> findings.

    Raises
    ------
    InputError
        If the file is not there, cannot be imported (or reads files when it is), holds no selector, or one
        with a name that is taken.
    """
    with guard.watch():
        specs = plugins_of(path, ["selector"], plugins)
    return {spec.name: check(spec) for spec in specs}


def check(spec: PluginSpec) -> list[Finding]:
    """Run every test on one selector with the parameters of its spec.

    A test that a selector raises in has failed, with the exception as its message. Tests stand in groups;
    after a group with a failure the later ones are not run, so that one fault is one failure.
    """
    exempt = _exempt(spec)
    findings: list[Finding] = []
    failed = ""
    with threadpool_limits(1):  # as a worker has
        for at, group in enumerate(_GROUPS if "weights" not in spec.needs else _GROUPS[:1]):
            found = []
            for name, test in group.items():
                if failed:
                    found.append(Finding(name, None, f"not run, since {failed} failed", 0.0))
                elif name in exempt and at >= _STRICT:
                    found.append(Finding(name, None, exempt[name], 0.0))
                else:
                    found.append(_find(name, test, spec))
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


Verdict = tuple[bool | None, str]


def _find(name: str, test: Callable[[PluginSpec], Verdict], spec: PluginSpec) -> Finding:
    before = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, guard.watch() as misdeeds:
        warnings.simplefilter("always")
        try:
            passed, message = test(spec)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's code may raise anything; it is the finding
            text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            passed, message = False, f"raises {text}"
    if misdeeds:
        passed, message = False, f"{'; '.join(misdeeds)}: a score is a function of its candidate alone"
    if caught:
        message += f"; warns: {caught[0].message}"
    return Finding(name, passed, message, time.perf_counter() - before)


# ---------------------------------------------------------------------------------- made-up candidates


def made_up(
    n: int = 120,
    d: int = 24,
    classes: int = 5,
    apart: float = 0.8,
    *,
    seed: int = 0,
    labels: NDArray[np.int64] | None = None,
    dtype: DTypeLike = np.float16,
) -> Candidate:
    """A candidate as no network made it: N x D features of Gaussian classes, source head and source rows."""
    rng = np.random.default_rng(derive_seed("conformance", seed))
    spread = 1.0 / np.arange(1, d + 1)
    centres = rng.normal(size=(classes + 2, d))
    if labels is None:
        labels = np.arange(n) % classes
    source_labels = np.arange(12 * (classes + 2)) % (classes + 2)

    def draw(which: NDArray[np.int64]) -> NDArray[np.float16]:
        features = 2.0 + (apart * centres[which] + rng.normal(size=(len(which), d))) * spread
        return features.astype(np.float16)

    features = draw(labels)
    logits = apart * ((features - 2.0) / spread) @ centres.T
    # Facts that have nothing to do with how far the classes lie apart.
    facts = np.random.default_rng(derive_seed("facts", seed, apart))
    checkpoint = Checkpoint("made-up", int(facts.integers(100)), "none", f"{seed}-{apart}")
    return Candidate(
        features.astype(dtype),
        labels,
        source_probs=softmax(logits, axis=1),
        source_logits=logits,
        source=SourceRows(draw(source_labels).astype(dtype), source_labels),
        checkpoint=replace(checkpoint, source_accuracy=facts.random()),
    )


def _pool(**options: Any) -> list[Candidate]:
    """Three candidates of one target."""
    return [made_up(apart=apart, **options) for apart in APART]


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


def _must_be_finite(values: Float) -> Verdict:
    return bool(np.isfinite(values).all()), _text(values)


def _must_agree(a: Float, b: Float, what: str) -> Verdict:
    off = np.abs(a - b) / np.maximum(np.abs(a), 1.0)
    if np.isfinite(off).all() and off.max() <= TOLERANCE:
        return True, f"equal to {max(off.max(), 1e-16):.0e}"
    worst = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
    return False, f"{a[worst]:.8g} becomes {b[worst]:.8g} {what}"


# ------------------------------------------------------------------------------------------- the tests


def _declaration(spec: PluginSpec) -> Verdict:
    """Name, needs and direction are words that tables and the command line can hold."""
    published = getattr(spec.plugin, "published", "higher")
    unknown = [need for need in spec.needs if need not in NEEDS]
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", spec.name):
        return False, f"the name {spec.name!r} should be lower-case letters, digits, hyphens and dots"
    if spec.name in REFERENCE and spec.origin != "ckptbench":
        return False, f"{spec.name!r} is the name of a row that every leaderboard has"
    if unknown:
        return False, f"needs {unknown[0]!r}, which is none of {', '.join(NEEDS)}"
    if published not in ("higher", "lower"):
        return False, f"published is {published!r}, neither 'higher' nor 'lower'"
    for name, why in _exempt(spec).items():
        if not why or not any(name in group for group in _GROUPS[_STRICT:]):
            return False, f"exempt from {name!r}: should read 'TEST: REASON', with a test's name"
    defaults = ", ".join(f"{key}={value}" for key, value in spec.defaults.items())
    return True, f"needs {', '.join(spec.needs) or 'nothing'}; parameters {defaults or 'none'}"


def _conduct(spec: PluginSpec) -> Verdict:
    """Whoever opens a file, forks or changes the folder is found in every test; here it is the test."""
    with warnings.catch_warnings(), guard.watch() as misdeeds:
        warnings.simplefilter("ignore")
        try:
            _scores(spec, _pool())
        except Exception as error:
            if not misdeeds:
                return True, f"raises {type(error).__name__} before it could"  # the matter of other tests
    if misdeeds:
        return False, f"{'; '.join(misdeeds)}: a score is a function of its candidate alone"
    return True, "reads no file, does not fork, stays in its folder"


def _input_untouched(spec: PluginSpec) -> Verdict:
    """Arrays of a candidate are read-only; those of its spectra are shared with all other selectors."""
    pool = [candidate.kept_in(Ledger()) for candidate in _pool()]
    for candidate in pool:
        _ = candidate.spectrum.left, candidate.centred.left, candidate.matrix, candidate.standardised.matrix

    def arrays() -> list[bytes]:
        owners = [owner for c in pool for owner in (c, c.source, c.spectrum, c.centred)]
        found = [a.tobytes() for owner in owners for a in vars(owner).values() if isinstance(a, np.ndarray)]
        return found + [a.tobytes() for c in pool for a in (c.matrix, c.onehot, c.standardised.matrix)]

    before = arrays()
    try:
        _scores(spec, pool)
    except Exception as error:
        if "read-only" in str(error):
            return False, f"writes into its input ({error}): copy the array first"
    if arrays() != before:
        return False, "arrays of the candidate have other values afterwards: copy before changing in place"
    return True, "every array as it was"


def _needs(spec: PluginSpec) -> Verdict:
    """What is not declared is not there in a suite: the score is the same with it and without it."""
    pool = _pool()
    try:
        everything = _scores(spec, pool, needs=NEEDS)
    except Exception as error:
        return True, f"raises {type(error).__name__} whatever it is given"  # the matter of other tests

    def does_without(*hidden: str) -> bool:
        try:
            found = _scores(spec, pool, needs=[need for need in NEEDS if need not in hidden])
        except Exception:
            return False
        return np.allclose(found, everything, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)

    if not does_without():
        return True, "changes from one call to the next"  # likewise
    others = [need for need in NEEDS if need not in spec.needs]
    if not does_without(*others):
        used = [need for need in others if not does_without(need)]
        return False, f"uses {', '.join(used or others)}, which its `needs` do not declare"
    return True, f"nothing but {', '.join(spec.needs) or 'facts of the checkpoint'}"


def _finite(spec: PluginSpec) -> Verdict:
    """In every reading, and within the bounds that it declares."""
    messages = []
    for one in spec.readings:
        pool, plugin = _pool(), one.make()
        values = _scores(one, pool, plugin)
        flags = [outside_bounds(plugin, view(one, c), value) for c, value in zip(pool, values, strict=True)]
        if not np.isfinite(values).all():
            return False, f"{one.label}: {_text(values)}"
        if any(flags):
            return False, f"{one.label}: {next(filter(None, flags))}"
        messages.append(f"{one.label} {_text(values)}")
    return True, "; ".join(messages)


def _deterministic(spec: PluginSpec) -> Verdict:
    """Equal to the last bit, from a new object and from one that has scored others in between."""
    pool, plugin = _pool(), spec.make()
    first = _scores(spec, pool, plugin)
    _scores(spec, _pool(seed=1), plugin)
    for again, what in ((_scores(spec, pool, plugin), "the second time"), (_scores(spec, pool), "elsewhere")):
        if not np.array_equal(first, again, equal_nan=True):
            return False, f"{_text(first)} becomes {_text(again)} {what}: draw from candidate.rng alone"
    if _draws(spec) and not spec.random:
        return False, "the score changes with the candidate's seed: declare `random = True`"
    return True, "equal to the last bit"


@cache
def _draws(spec: PluginSpec) -> bool:
    pool = _pool()
    other = [replace(candidate, seed=1) for candidate in pool]
    return not np.array_equal(_scores(spec, pool), _scores(spec, other), equal_nan=True)


_DRAWS = "draws batches, subsets or a start from candidate.rng"


def _row_order(spec: PluginSpec) -> Verdict:
    if _draws(spec):
        return None, _DRAWS
    pool = _pool()
    order = np.random.default_rng(0).permutation(len(pool[0].labels))
    return _must_agree(
        _scores(spec, pool), _scores(spec, [c.rows(order) for c in pool]), "when rows change places"
    )


def _class_numbers(spec: PluginSpec) -> Verdict:
    """Which number a class has, and numbers without a class, as a small sample of the target leaves them."""
    if _draws(spec):
        return None, _DRAWS
    pool, others = _pool(), np.array([5, 0, 3, 6, 2])
    renumbered = [replace(candidate, labels=others[candidate.labels]) for candidate in pool]
    return _must_agree(_scores(spec, pool), _scores(spec, renumbered), "with labels 5, 0, 3, 6, 2 for 0 to 4")


def _pool_order(spec: PluginSpec) -> Verdict:
    if not spec.pool:
        return None, "sees one candidate at a time"
    if _draws(spec):
        return None, _DRAWS
    pool = _pool()
    return _must_agree(
        _scores(spec, pool)[[2, 0, 1]], _scores(spec, [pool[2], pool[0], pool[1]]), "in another pool order"
    )


def _checkpoint_facts(spec: PluginSpec) -> Verdict:
    """Epoch, source accuracy and run know nothing of the target: a score of them is a baseline."""
    other = Checkpoint("another", 7, "other", "0", source_accuracy=0.5)
    pool = _pool()
    changed = [replace(candidate, checkpoint=other) for candidate in pool]
    return _must_agree(
        _scores(spec, pool), _scores(spec, changed), "under another epoch, source accuracy and run"
    )


def _dtypes(spec: PluginSpec) -> Verdict:
    wanted = _scores(spec, _pool(dtype=np.float64))
    for dtype in (np.float32, np.float16):
        passed, message = _must_agree(
            wanted,
            _scores(spec, _pool(dtype=dtype)),
            f"on the same numbers in {np.dtype(dtype).name}: compute in float64 (candidate.matrix)",
        )
        if not passed:
            break
    return passed, message


def _wide(spec: PluginSpec) -> Verdict:
    """Finite, tells candidates apart, and in the right direction where there are more features than rows."""
    n, d, classes = WIDE
    values = _scores(spec, _pool(n=n, d=d, classes=classes))
    if not np.isfinite(values).all():
        return False, _text(values)
    if np.ptp(values) == 0:
        return False, f"{values[0]:.4g} for every candidate: it cannot tell checkpoints apart here"
    if "labels" not in spec.needs or "direction" in _exempt(spec):
        return True, _text(values)
    return _rises(spec, WIDE)


def _constant_features(spec: PluginSpec) -> Verdict:
    """Some dead units give a number; where all are dead, one clear refusal will do too."""
    dead = []
    for candidate in _pool():
        features = candidate.features.copy()
        features[:, 0], features[:, 3] = 0.0, 3.0
        dead.append(replace(candidate, features=features))
    passed, message = _must_be_finite(_scores(spec, dead))
    if not passed:
        return passed, message
    constant = [replace(c, features=np.full_like(c.features, 3.0)) for c in dead]
    try:
        return _must_be_finite(_scores(spec, constant))
    except InputError as error:
        return True, f"{message}; all constant: {error}"


def _one_member_class(spec: PluginSpec) -> Verdict:
    return _must_be_finite(_scores(spec, _pool(labels=np.append(np.arange(60) % 4, 4))))


def _direction(spec: PluginSpec) -> Verdict:
    """The mean score over made-up targets is higher where the classes lie apart, at every shape."""
    if "labels" not in spec.needs:
        return None, "does not look at the labels" if spec.needs else "a baseline: looks at no example"
    for shape in SHAPES:
        passed, message = _rises(spec, shape)
        if not passed:
            break
    return passed, message


def _rises(spec: PluginSpec, shape: tuple[int, int, int]) -> Verdict:
    n, d, classes = shape
    ends = [APART[0], APART[-1]]
    pools = [[made_up(n, d, classes, apart, seed=seed) for apart in ends] for seed in range(3)]
    together, apart = np.mean([_scores(spec, pool) for pool in pools], axis=0)
    message = f"{n} x {d}: {together:.4g} with classes on one spot, {apart:.4g} with classes apart"
    return bool(apart > together), message if apart > together else f"{message}: higher should be better"


def _cost(spec: PluginSpec) -> Verdict:
    if not spec.is_cheap:
        return None, "takes long, as it declares"
    n, d, classes = COST
    pool = _pool(n=n, d=d, classes=classes)
    pool = pool if spec.pool else pool[-1:]
    before = time.perf_counter()
    _scores(spec, pool)
    each = (time.perf_counter() - before) / len(pool)
    return True, f"{1000 * each:.3g} ms per candidate of {n} x {d}, {classes} classes"


_STRICT = 6  # groups that nobody is exempt from
_GROUPS: tuple[dict[str, Callable[[PluginSpec], Verdict]], ...] = (
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
