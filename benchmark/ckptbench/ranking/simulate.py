"""How often what ``rank`` claims is so: ``python -m ckptbench.ranking.simulate [REPEATS]``.

Features are made up: two classes are normal, their means apart along one axis, so that the best checkpoint is
known: the one whose classes lie furthest apart. Checkpoints share most of their noise, as in one run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from ckptbench.agreement.certainty import differences, guessing_p, tied_set
from ckptbench.base.types import Array, Float
from ckptbench.ranking.verdict import FIRST_LOOK, GUESSING
from ckptbench.truth.crossval import contributions, make_folds, predictions

CLASSES, WIDTH = 2, 4


def run(examples: int, checkpoints: int, gain: float, seed: int) -> tuple[list[Float], Array]:
    """Features of checkpoints, and labels; with ``gain`` NaN the features are noise.

    ``gain`` : by what share the classes lie further apart at each checkpoint than at the first, a step each
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(examples) % CLASSES)
    apart = 1.2 * np.eye(CLASSES, WIDTH)[labels]
    shared = rng.normal(size=(examples, WIDTH))
    steps = [0.0 if np.isnan(gain) else 1 + gain * place for place in range(checkpoints)]
    return [shared + 0.5 * rng.normal(size=shared.shape) + step * apart for step in steps], labels


def is_told(features: list[Float], labels: Array) -> bool:
    """Whether something is told from guessing, as ``rank`` decides it."""
    if guessing_p(features, labels, permutations=99) <= FIRST_LOOK:
        return True
    return guessing_p(features, labels, permutations=999, seed=1) <= GUESSING


def is_held(features: list[Float], labels: Array, seed: int) -> tuple[bool, int]:
    """Whether the tied set holds the last checkpoint, which is the best, and how many it holds."""
    folds = make_folds(labels, None, f"simulated {seed}")
    each = [
        contributions(predictions(x, labels, "classification", CLASSES, folds), labels, "accuracy")
        for x in features
    ]
    ties = tied_set(differences(np.array(each)))
    return bool(ties[-1]), int(ties.sum())


def claims_of_noise(repeats: int, examples: int = 40, checkpoints: int = 5) -> int:
    """How often noise is said to be more than guessing."""
    runs = (run(examples, checkpoints, np.nan, seed) for seed in range(repeats))
    return sum(is_told(*made) for made in runs)


def tied_sets(
    repeats: int, gain: float, examples: int = 60, checkpoints: int = 4
) -> Iterator[tuple[bool, int]]:
    """Of each repeat, whether the best checkpoint is in the tied set, and the set's size."""
    for seed in range(repeats):
        yield is_held(*run(examples, checkpoints, gain, seed), seed)


def main() -> None:
    """Print the shares, which should be at least 95 % and at most 5 %, but for the noise of the repeats."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for gain in (0.0, 0.03, 0.1, 0.3):
        found = np.array(list(tied_sets(repeats, gain)), dtype=np.float64)
        held, size = found.mean(axis=0)
        print(f"classes {100 * gain:.0f} % further apart at each step: the tied set holds the best in "
              f"{100 * held:.1f} % of {repeats}, and {size:.1f} of 4 checkpoints", flush=True)  # fmt: skip
    share = claims_of_noise(repeats) / repeats
    print(f"noise is said to be more than guessing in {100 * share:.1f} % of {repeats}")


if __name__ == "__main__":
    main()
