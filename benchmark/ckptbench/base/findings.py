"""One test of ``ckptbench check``: a function that returns what it has to say, or raises what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

from ckptbench.base.tasks import sentence
from ckptbench.base.types import Finding


class Fault(Exception):
    """What the plugin does wrong, and what would be right."""


class Exempt(Exception):
    """Why the plugin need not pass the test."""


def find(name: str, test: Callable[[], str | None]) -> Finding:
    """Run one test. What the plugin itself raises is a fault, whatever it is."""
    before = time.perf_counter()
    passed: bool | None = False
    try:
        passed, message = True, test() or ""
    except Exempt as why:
        passed, message = None, str(why)
    except Fault as fault:
        message = str(fault)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        message = f"raises {sentence(error)}"
    return Finding(name, passed, message, time.perf_counter() - before)
