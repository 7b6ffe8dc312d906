"""Holds a selector to its task while it computes: it reads no file, changes no folder, does not fork.

A score is kept under the digests of its inputs and of the selector's file. What else the selector reads
would change the number unseen, or be the truth that the number is judged by. The watch is an audit hook: it
sees what goes through Python, and is a check on mistakes and shortcuts rather than a jail.
"""

from __future__ import annotations

import contextlib
import os
import signal
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ckptbench.base.folders import PACKAGE

expendable = False
"""Whether this process is a worker, which may be ended where a selector hangs."""

_FORBIDDEN = {"os.fork": "forks its process", "os.forkpty": "forks its process",
              "os.chdir": "changes the working directory"}  # fmt: skip
_METADATA = {".dist-info", ".egg-info"}
_CODE = {".py", ".pyc", ".so", ".pyd", ".dll", ".dylib"}
_misdeeds: list[str] | None = None
_thread = 0


@contextlib.contextmanager
def watch(limit: float | None = None) -> Iterator[list[str]]:
    """Inside, opening a data file, forking and changing the folder raise PermissionError.

    Yields the list of what was tried, also where the code swallowed the exception. A worker that is still
    inside after ``limit`` seconds ends, whatever it does.
    """
    global _misdeeds, _thread
    _install()
    before = _misdeeds, _thread
    _misdeeds, _thread = [], threading.get_ident()
    timed = limit is not None and expendable and hasattr(signal, "setitimer")
    if timed:
        signal.setitimer(signal.ITIMER_REAL, limit or 0)  # SIGALRM ends a process, also inside of a library
    try:
        yield _misdeeds
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _misdeeds, _thread = before


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Inside, the harness itself works for the selector."""
    global _misdeeds
    before, _misdeeds = _misdeeds, None
    try:
        yield
    finally:
        _misdeeds = before


@cache
def _install() -> None:
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _misdeeds is None or threading.get_ident() != _thread:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or flags & os.O_EXCL or _harmless(path):
            return
        what = f"opens {os.path.basename(os.fsdecode(path))}"  # not where: messages are published
    elif event in _FORBIDDEN:
        what = _FORBIDDEN[event]
    else:
        return
    if what not in _misdeeds:
        _misdeeds.append(what)
    raise PermissionError(f"a selector {what}, which none may")


def _harmless(path: Any) -> bool:
    """Code that is imported, what libraries bring along, and what the system says of itself."""
    real = Path(os.path.realpath(os.fspath(path) if not isinstance(path, bytes) else os.fsdecode(path)))
    if str(path) in sys.path or real.suffix in _CODE or real.parent.suffix in _METADATA:
        return True
    return not real.is_relative_to(PACKAGE) and any(real.is_relative_to(folder) for folder in _libraries())


@cache
def _libraries() -> list[Path]:
    system = ["/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64"]
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [site.getusersitepackages(), os.path.dirname(sys.executable)]
    return [Path(os.path.realpath(path)) for path in [*system, *paths]]
