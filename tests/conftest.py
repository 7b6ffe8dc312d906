"""What all tests share: one BLAS thread, no network, and the real images where they are present."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before numpy loads: two BLAS threads on two busy cores ran 12 times slower than one.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402 (after the threads are set)

ROOT = Path(__file__).resolve().parents[1]

# A job that a shell has put in the background starts with Ctrl-C ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
