"""What selectors, extractors and readers of data sets look like: nothing need inherit from these.

The base classes of penalties and of objectives, which plugins do inherit from, are in `truth.penalty` and
`networks.objective`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from ckptbench.data.raw import RawSet
    from ckptbench.scores.candidate import Candidate


@runtime_checkable
class Selector(Protocol):
    """What a selector plugin looks like; nothing need inherit from it.

    ``needs`` is a subset of features, labels, source_probs, source_logits, source, weights, source_images,
    target_images (features and labels where it is not given); ``random`` says that the score draws from
    ``candidate.rng``. Annotated class attributes with defaults are parameters. A selector with a
    parameter ``scale`` ("raw" or "std") is handed the features scaled that way. ``readings`` are settings
    ("reading=code") that ``*`` puts beside the defaults. ``Annotated[int, Field(ge=1)]`` bounds a
    parameter; ``bounds`` is the least and the greatest score, each a number or a function of the number of
    classes. One that defines ``score_pool(candidates) -> array`` instead of ``score`` sees the whole
    trajectory at once. ``members`` are the labels of other selectors that it fuses: its digest covers theirs.
    ``cheap = False`` says that it takes long, and is not computed once more on permuted labels;
    ``dear = True`` that it takes minutes a checkpoint: ``*`` leaves it out, a suite has to name it;
    ``exempt = ("TEST: REASON", ...)`` which tests of `ckptbench check` it need not pass, and why.
    """

    name: ClassVar[str]

    def score(self, candidate: Candidate) -> float: ...


class Extractor(Protocol):
    """One family of models: which architectures it knows, how to build one, where its head is.

    A family whose library says how images are prepared has a method
    ``preprocessing(architecture, **options)`` that returns a ``Preprocessing``. One whose library saves
    tensors under other names has ``names_in_files(model)``: the network's name -> the name in a file. One
    whose files are no other's has ``read_checkpoint(path)``: tensors by name. A network for texts has
    ``tokenise(architecture, texts, **options)``: N x L token numbers, which it takes in the place of images.
    """

    name: ClassVar[str]

    def architectures(self) -> list[str]: ...

    def build(self, architecture: str, classes: int, **options: Any) -> nn.Module: ...

    def head(self, model: nn.Module) -> str:
        """Name of the last linear layer, whose input is the penultimate activation."""
        ...


class Reader(Protocol):
    """Lists what there is of some data sets: suites name one as ``NAME`` or ``NAME:REST``."""

    name: ClassVar[str]

    def read(self, rest: str, download: bool) -> RawSet:
        """All of a set, nothing sampled or decoded; it is downloaded only where that is allowed."""
        ...

    def sets(self) -> list[tuple[str, str]]:
        """(name, what it is) of every set: what ``ckptbench list`` shows."""
        ...
