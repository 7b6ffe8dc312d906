"""Digests of values, and seeds derived from named parts."""

from __future__ import annotations

import hashlib
import json


def digest(value: object) -> str:
    """SHA-256 (first 16 hex digits) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from named parts, so that no number depends on what else ran."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
