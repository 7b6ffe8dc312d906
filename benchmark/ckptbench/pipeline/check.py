"""``ckptbench check``: the conformance tests of every plugin that a file defines, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ckptbench.base import guard
from ckptbench.base.errors import InputError
from ckptbench.base.types import Finding
from ckptbench.plugins import Kind, PluginSpec, load_plugins
from ckptbench.scores.conformance import check

Check = Callable[[PluginSpec], list[Finding]]


def _check_penalty(spec: PluginSpec) -> list[Finding]:
    from ckptbench.truth.conformance import check_penalty

    return check_penalty(spec)


def _check_extractor(spec: PluginSpec) -> list[Finding]:
    from ckptbench.networks.conformance import check_extractor

    return check_extractor(spec)


CHECKS: dict[Kind, Check] = {
    "selector": check,
    "extractor": _check_extractor,
    "penalty": _check_penalty,
}


def check_file(path: str | Path, plugins: Sequence[str] = ()) -> dict[str, list[Finding]]:
    """Run the conformance tests on every plugin of a file: name -> findings.

    Raises
    ------
    InputError
        If the file is missing, cannot be imported (or reads files when it is), defines no plugin that can be
        checked, or one with a name that is taken.
    """
    where = str(Path(path).resolve())
    found: dict[str, list[Finding]] = {}
    for kind, test in CHECKS.items():
        with guard.watch():  # nothing is read when it is imported, either
            registry = load_plugins(kind, (path, *plugins))
        if where in registry.broken:
            raise InputError(f"{path} cannot be loaded: {registry.broken[where]}")
        found |= {spec.name: test(spec) for spec in registry.specs.values() if spec.where == where}
    if not found:
        raise InputError(
            f"{path} defines no {' or '.join(CHECKS)}: a selector is a class with a `name` and a method "
            "`score(self, candidate)`"
        )
    return found
