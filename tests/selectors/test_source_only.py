"""The share of source classes that the target lacks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.made_up import head_case, score
from scipy.special import softmax


def test_source_only_share_is_its_definition() -> None:
    logits, labels = head_case()
    n, classes = logits.shape
    first = [int(np.argmax(row)) for row in logits]
    rare = sum(first.count(c) < n / classes / 4 for c in range(classes))
    found = score("source-only-share", np.zeros((n, 3)), labels, logits)
    assert found == pytest.approx(-rare / classes)


def test_many_classes_are_counted_among_several_predictions() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 300))
    logits[:, :150] += 5
    top = np.argsort(-softmax(logits, axis=1), axis=1)[:, :3]
    rare = sum((top == c).sum() < 50 * 3 / 300 / 4 for c in range(300))
    assert rare >= 150
    found = score("source-only-share", np.zeros((50, 3)), np.arange(50) % 2, logits)
    assert found == pytest.approx(-rare / 300)
