"""What all tests share: one BLAS thread, no network, and the real images where they are present."""

from __future__ import annotations

import os
from pathlib import Path

# Before numpy loads: two BLAS threads on two busy cores ran 12 times slower than one.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402 (after the threads are set)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
