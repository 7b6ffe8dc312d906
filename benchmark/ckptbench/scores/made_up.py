"""Made-up candidates, for the conformance tests of selectors.

Gaussian classes on features whose standard deviations fall as 1/j, as those of a trained network do, so that
the large and the small singular values both tell classes apart. Values are rounded to float16, so that every
floating type holds the same numbers. Source head and source rows know the same classes and two more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import softmax

from ckptbench.base.digests import derive_seed
from ckptbench.base.types import Checkpoint
from ckptbench.scores.candidate import Candidate, SourceRows

APART = (0.0, 0.4, 0.8)
"""Distance of the classes in the candidates of a pool, in standard deviations of each feature."""


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


def pool(**options: Any) -> list[Candidate]:
    """Three candidates of one target, their classes further and further apart."""
    return [made_up(apart=apart, **options) for apart in APART]
