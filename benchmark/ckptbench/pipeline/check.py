"""``ckptbench check``: the conformance tests of every plugin that a file defines, whatever its kind."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from ckptbench.base import guard
from ckptbench.base.types import Finding
from ckptbench.plugins import Kind, plugins_of

# Kind -> (module, function there): what tests networks loads torch.
CHECKS: dict[Kind, tuple[str, str]] = {
    "selector": ("scores.conformance", "check"),
    "extractor": ("networks.conformance", "check_extractor"),
    "penalty": ("truth.conformance", "check_penalty"),
}


def check_file(path: str | Path, plugins: Sequence[str] = ()) -> dict[str, list[Finding]]:
    """Run the conformance tests on every plugin of a file: name -> findings."""
    found = {}
    with guard.watch():  # nothing is read when it is imported, either
        specs = plugins_of(path, CHECKS, plugins)
    for spec in specs:
        module, function = CHECKS[spec.kind]
        found[spec.name] = getattr(importlib.import_module(f"ckptbench.{module}"), function)(spec)
    return found
