"""``omniglot:LEVEL``: handwritten characters of many alphabets, twenty drawings of each (Lake et al. 2015).

``omniglot:characters`` has a class per character, named ``Alphabet/character01``; ``omniglot:alphabets`` one
per alphabet.
"""

from __future__ import annotations

import numpy as np

from ckptbench import Files, InputError, RawSet, data_root, nearest

LEVELS = ("characters", "alphabets")


class Omniglot:
    name = "omniglot"

    def sets(self) -> list[tuple[str, str]]:
        return [(f"omniglot:{level}", f"handwritten {level}, a class each") for level in LEVELS]

    def read(self, rest: str, download: bool) -> RawSet:
        """One of ``LEVELS``, from the folder ``omniglot`` below the data root, or torchvision's download.

        The folder holds ``*/ALPHABET/CHARACTER/*.png``, as the authors' archives do. An alphabet that two of
        them hold (Greek and Latin are in both small background sets) counts once.
        """
        if rest not in LEVELS:
            raise InputError(f"omniglot has no level {rest!r}: {nearest(rest, LEVELS)}")
        root, copy = data_root() / "omniglot", "the folder omniglot below the data root"
        if not root.is_dir():
            root, copy = data_root() / "omniglot-py", "torchvision's download of the background set"
            _download(download)
        seen: dict[str, str] = {}  # alphabet -> the archive it is taken from
        paths: list[str] = []
        kinds: list[str] = []
        for path in sorted(root.glob("*/*/*/*.png")):
            archive, alphabet, character, _ = path.relative_to(root).parts
            if seen.setdefault(alphabet, archive) == archive:
                paths.append(path.relative_to(root).as_posix())
                kinds.append(f"{alphabet}/{character}" if rest == "characters" else alphabet)
        if not paths:
            raise InputError(f"{root} holds no image at ARCHIVE/ALPHABET/CHARACTER/*.png")
        classes, labels = np.unique(kinds, return_inverse=True)
        note = f"omniglot is {copy}: numbers differ between copies"
        return RawSet(tuple(classes.tolist()), Files(root, paths, labels.astype(np.int64)), None, (note,))


def _download(allowed: bool) -> None:
    from torchvision.datasets import Omniglot

    try:
        Omniglot(data_root(), background=True)
        return
    except RuntimeError:
        if not allowed:
            raise InputError(f"omniglot is not below {data_root()}: a run downloads it there") from None
    try:
        Omniglot(data_root(), background=True, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"omniglot is not below {data_root()} and cannot be downloaded: {error}") from None
