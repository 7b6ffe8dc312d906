"""Our scores against their authors' or best-known public code: seconds in turn, and the same numbers.

The public code is not ours to ship: clone thuml/LogME, thuml/Transfer-Learning-Library, TencentARC/SFDA and
dbolya/parc into one folder and name it in CKPTBENCH_PUBLIC; without it the rows are skipped. Where numba is
not installed its compiler is left out (the loops it compiles are over at most C classes). Each of ours makes
its own spectrum; a suite shares one among all scores. Run with
``CKPTBENCH_PUBLIC=... pytest tests/bench/bench_public_code.py --benchmark-only -s``, on one BLAS thread.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bench_probe import checkpoint
from bench_scores import compare

from ckptbench.base.types import Array
from ckptbench.plugins import load_plugins
from ckptbench.scores.candidate import Candidate

SELECTORS = load_plugins("selector")
PUBLIC = os.environ.get("CKPTBENCH_PUBLIC", "")
pytestmark = pytest.mark.skipif(not PUBLIC, reason="CKPTBENCH_PUBLIC names no folder of public code")


def _parc(module: ModuleType, x: Array, y: Array) -> float:
    return float(module.PARC(32).get_parc_correlation(module.feature_reduce(x, 32), np.eye(y.max() + 1)[y]))


# (our label, file, what it calls there, relative tolerance; None where it is another number or not seeded)
ROWS: dict[str, tuple[str, Callable[[ModuleType, Array, Array], float], float | None]] = {
    "logme:reading=code": (
        "LogME/LogME.py",
        lambda module, x, y: module.LogME(regression=False).fit(x, y),
        1e-9,
    ),
    "h-score": ("Transfer-Learning-Library/tllib/ranking/hscore.py", lambda m, x, y: m.h_score(x, y), 1e-6),
    "h-score-shrunk": (
        "Transfer-Learning-Library/tllib/ranking/hscore.py",
        lambda m, x, y: m.regularized_h_score(x, y),
        1e-6,
    ),
    "transrate": (
        "Transfer-Learning-Library/tllib/ranking/transrate.py",
        lambda m, x, y: m.transrate(x, y),
        1e-8,
    ),
    "sfda:reading=code": ("SFDA/metrics.py", lambda m, x, y: m.SFDA_Score(x.copy(), y), 1e-6),
    "parc": ("parc/methods.py", _parc, None),  # by Pearson's correlation where ours takes the cosine
    "parc:reading=code": ("parc/methods.py", _parc, 1e-9),
    "n-leep:log=false": ("SFDA/metrics.py", lambda m, x, y: m.NLEEP(x.copy(), y), None),
}


def public(file: str) -> ModuleType:
    """A module of the public code, loaded from its file."""
    for name in ("numba", "models", "models.group1", "datasets"):  # networks and images are not needed
        if name not in sys.modules and (name != "numba" or importlib.util.find_spec(name) is None):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].njit = lambda way: way  # type: ignore[attr-defined]
    path = Path(PUBLIC) / file
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"public_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", ROWS)
def test_against_public_code(benchmark: Any, label: str) -> None:
    file, call, relative = ROWS[label]
    x, y = checkpoint(1.15)
    module, spec = public(file), SELECTORS[label]
    ours, theirs = compare(
        benchmark, lambda: spec.make().score(Candidate(x, y)), lambda: call(module, x, y), rounds=2
    )
    print(f"{label}: ours {ours:.8g}, theirs {theirs:.8g}")
    if relative is not None:
        np.testing.assert_allclose(ours, theirs, rtol=relative)
