"""A suite names its tracks and protocols exactly: a TOML file, checked by pydantic.

Every field that changes a truth is declared here and goes into the suite digest; the list of
selectors does not, so a new selector joins a published leaderboard without a new truth.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.folders import shipped
from ckptbench.base.text import nearest
from ckptbench.base.types import Task


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# Names become parts of paths: they can name no other folder.
Name = Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$")]
Range = Annotated[tuple[float, float], Field(description="shares from and to, between 0 and 1")]
WHOLE: Range = (0.0, 1.0)


class Data(_Strict):
    """Which examples of which data set, exactly.

    ``name`` is what a reader of data sets knows: ``digits``, ``folder:PATH``, ``public:cifar10``, ...
    Sampling happens per class with ``seed``: ``per_class`` examples or a ``rate`` of them for train;
    ``test_per_class`` for test; ``pool_per_class`` further ones from which the truth's seeds draw
    their own training sets.

    A set without a test split of its own is split by the seed (``test_fraction``) or by name:
    ``test_files`` are patterns such as ``theo-*``, and what they match is test. ``train_range`` and
    ``test_range`` cut a stretch out of each class's examples, in an order that belongs to the set and not
    to ``seed``, before anything is sampled: of two data with ranges that do not meet, none has an example
    of the other.

    A set's classes are read as several labels each (``task = "multilabel"``: ``cat;indoor``) or as numbers
    (``regression``); examples are then sampled as those of one class.
    """

    name: str
    classes: tuple[str, ...] | int | None = Field(
        None, description="names (``*`` matches any part of one), or the first so many"
    )
    per_class: int | None = Field(None, ge=1)
    rate: float | None = Field(None, gt=0, le=1)
    pool_per_class: int | None = Field(None, ge=1)
    test_per_class: int | None = Field(None, ge=1)
    test_fraction: float = Field(0.3, gt=0, lt=1, description="where the set has no test split of its own")
    test_files: tuple[str, ...] = Field((), description="patterns of file names that are the test split")
    train_range: Range = WHOLE
    test_range: Range = WHOLE
    seed: int = 0
    size: int = Field(32, ge=8, le=1024)
    crop: float = Field(1.0, gt=0, le=1, description="share of the shorter side that the square has")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    label_map: Literal["none", "parity", "digit-ge-5", "mean-colour"] = "none"
    task: Task = Field("classification", description="multilabel: classes are labels with ; between")

    @model_validator(mode="after")
    def _one_size(self) -> Data:
        if self.per_class is not None and self.rate is not None:
            raise ValueError("give per_class or rate, not both")
        if self.task != "classification" and (self.classes is not None or self.label_map != "none"):
            raise ValueError(f"the task {self.task} takes neither classes nor label_map")
        for low, high in (self.train_range, self.test_range):
            if not 0 <= low < high <= 1:
                raise ValueError(f"the range {low} to {high} should rise, between 0 and 1")
        return self


Augment = Literal["none", "flip", "crop", "crop-flip", "resized-crop", "resized-crop-flip"]
Precision = Literal["fp32", "bf16", "auto"]


class Training(_Strict):
    """How a network is trained: shared by source runs and fine-tuning."""

    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    milestones: tuple[int, ...] = Field(
        (), description="epochs (or iterations) at which step multiplies the rate"
    )
    gamma: float = Field(0.1, gt=0, le=1)
    warmup: int = Field(0, ge=0, description="epochs (or iterations) of linearly rising rate at the start")
    batch: int = Field(128, ge=1)
    augment: Augment = "none"
    precision: Precision = "auto"


class Source(_Strict):
    """A source run that ckptbench trains itself, or (``checkpoints``) a folder of yours.

    ``objective`` names what it learns as a plugin's label, ``supervised:noise=0.4`` for instance. A run
    whose training accuracy (at its objective) ends below ``learnt`` is not sound: it is shown, and kept
    out of verdicts.
    """

    name: Name
    architecture: str
    objective: str = "supervised"
    data: Data | None = None
    training: Training | None = None
    epochs: int | None = Field(None, ge=1)
    seed: int = 0
    judge: tuple[int, ...] | None = Field(None, description="epochs the suite judges; all when absent")
    learnt: float = Field(0.0, ge=0, le=1, description="least final training accuracy of a sound run")
    checkpoints: str | None = None
    mean: tuple[float, float, float] | None = Field(None, description="pixel normalisation of the source run")
    std: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _trained_or_given(self) -> Source:
        if self.checkpoints is None and (self.data is None or self.training is None or self.epochs is None):
            raise ValueError(f"source {self.name!r} needs either checkpoints, or data, training and epochs")
        return self


class TargetSpec(_Strict):
    name: Name
    data: Data
    family: str | None = Field(None, description="targets of one family count as one; its name when absent")


class _Protocol(_Strict):
    name: str
    epochs_judged: tuple[int, ...] | None = Field(None, description="only these checkpoints")
    targets: tuple[str, ...] | None = Field(None, description="only on these targets")
    assumed: tuple[str, ...] = Field((), description="what the paper leaves open and we chose")

    def judges(self, epoch: int) -> bool:
        """Whether it measures an epoch; epoch 0 always, so that negative transfer shows."""
        return self.epochs_judged is None or epoch == 0 or epoch in self.epochs_judged


class FE(_Protocol):
    """Feature extraction: L2-penalised softmax regression on frozen features.

    The objective is mean cross-entropy + ``penalty``/2 * |W|^2, intercept free; ``tuned`` chooses
    from ``grid`` on a ``validation`` part and refits on the seed's whole training set.
    ``sample`` is the stratified share of the train split that a seed draws where the target has
    no pool. ``solver = "adam"`` is the recipe of inadequately-pretrained-models, section 4.4.
    ``part`` fits on F_m (main) or F_r (residual) of the spectral split at ``threshold``; the basis
    comes from the train features alone; with ``split_batch`` each batch of so many rows has its own,
    and with ``"minibatch"``, as the paper reads, each of Adam's minibatches as it is drawn.
    With ``after`` the features are those of the network that an FT protocol made of the checkpoint, the
    head is fitted on (``sample`` of) the train split that it was fine-tuned on, and the seeds and
    checkpoints are that protocol's: the FT row of inadequately-pretrained-models, Table 1.
    """

    scale: Literal["std", "raw"] = "std"
    penalty: float | Literal["tuned"] = "tuned"
    grid: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
    validation: float = Field(0.2, gt=0, lt=1)
    sample: float = Field(0.8, gt=0, le=1)
    seeds: int = Field(5, ge=1)
    part: Literal["all", "main", "residual"] = "all"
    threshold: float = Field(0.8, gt=0, le=1)
    split_batch: Annotated[int, Field(ge=2)] | Literal["minibatch"] | None = None
    solver: Literal["exact", "adam"] = "exact"
    lr: float = 0.01
    lr_milestones: tuple[float, ...] = Field(
        (), description="shares of the length at which adam's rate is divided by 10"
    )
    batch: int = 128
    epochs: int | None = 50
    iterations: int | None = None
    after: str | None = Field(None, description="an FT protocol: features of the fine-tuned networks")

    @property
    def goal(self) -> str:
        """``fe``; F_m, F_r and features after fine-tuning are truths of their own, never averaged with it."""
        if self.after is not None:
            return f"ft-{self.part}"
        return "fe" if self.part == "all" else f"fe-{self.part}"

    @model_validator(mode="after")
    def _fits(self) -> FE:
        if self.split_batch == "minibatch" and (self.solver, self.scale) != ("adam", "raw"):
            raise ValueError(
                f"protocol {self.name!r}: split_batch = 'minibatch' needs solver = 'adam' and scale = 'raw'"
            )
        for name in ("seeds", "epochs_judged", "targets"):
            if self.after is not None and getattr(self, name) != FE.model_fields[name].default:
                raise ValueError(f"protocol {self.name!r} has its {name} from {self.after!r}: leave it out")
        return self


class FT(_Protocol):
    """Fine-tuning: the whole network with a new head whose rate is ``head_multiplier`` times.

    ``penalties`` is the method: what it adds to the loss, as ``name`` or ``name:param=value,...``;
    ``l2`` is plain weight decay. `ckptbench list penalties` names them. With ``window`` the network sees
    squares of that side: random resized crops in training, and in the test the mean logits of ten crops.
    """

    training: Training
    epochs: int | None = Field(None, ge=1)
    iterations: int | None = Field(None, ge=1)
    head_multiplier: float = Field(1.0, gt=0)
    rate: float = Field(1.0, gt=0, le=1, description="sampling rate of the train split, per class")
    seeds: int = Field(3, ge=1)
    penalties: tuple[str, ...] = Field(("l2",), min_length=1)
    window: int | None = Field(None, ge=8, description="pixels to a side of the crops that it sees")
    goal: ClassVar = "ft"

    @property
    def method(self) -> str:
        """``l2``, ``l2-sp+bss``, ``tsvd:r=4``, ...: its name in a table of methods."""
        return "+".join(self.penalties)

    @model_validator(mode="after")
    def _one_length(self) -> FT:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError(f"protocol {self.name!r} needs epochs or iterations, one of them")
        if self.window is not None and not self.training.augment.startswith("resized-crop"):
            raise ValueError(f"protocol {self.name!r}: window needs augment = 'resized-crop' or with '-flip'")
        return self


Protocol = FE | FT


class PublishedRow(_Strict):
    what: str
    values: tuple[float, ...] = Field(description="one per epoch, in %")
    protocols: tuple[str, ...] = Field((), description="of ours; none means the source run's own accuracy")


class Published(_Strict):
    """A paper's table, to be set beside this suite's truth."""

    paper: str
    epochs: tuple[int, ...] = Field(description="of the paper's source run, a column each")
    ours: tuple[int, ...] = Field(description="the epochs of this suite that stand for them")
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _one_value_each(self) -> Published:
        lengths = {len(self.ours), *(len(row.values) for row in self.rows)}
        if lengths != {len(self.epochs)}:
            raise ValueError("published: ours and every row's values should have one entry per epoch")
        return self


class Suite(_Strict):
    name: Name
    title: str
    note: str = Field("", description="what a reader must know before believing it; shown on every page")
    sources: tuple[Source, ...]
    targets: tuple[TargetSpec, ...]
    fe: tuple[FE, ...] = ()
    ft: tuple[FT, ...] = ()
    published: Published | None = Field(None, description="a paper's numbers, for a table beside ours")
    selectors: tuple[str, ...] = ("*",)
    confirmatory: tuple[str, ...] = Field(
        (), max_length=10, description="scores tested as a family of their own, named before any truth exists"
    )
    repeats: int = Field(3, ge=1, description="how often a random selector is scored")
    seed: int = 0

    @model_validator(mode="after")
    def _names_are_known_and_differ(self) -> Suite:
        for what in ("sources", "targets", "protocols"):
            if twice := _repeated(item.name for item in getattr(self, what)):
                raise ValueError(f"two {what} are called {twice!r}")
        if twice := _repeated(self.confirmatory):
            raise ValueError(f"confirmatory names the score {twice!r} twice")
        names = {protocol.name for protocol in self.protocols}
        for row in self.published.rows if self.published is not None else ():
            if unknown := set(row.protocols) - names:
                raise ValueError(f"published: no protocol is called {min(unknown)!r}")
        known = {protocol.name for protocol in self.ft}
        for fe in self.fe:
            if fe.after is not None and fe.after not in known:
                near = nearest(fe.after, known)
                raise ValueError(f"protocol {fe.name!r}: no FT protocol {fe.after!r}, {near}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _expand_grids(cls, raw: Any) -> Any:
        """One ``[[ft]]`` with lists ``methods`` and ``rates`` is a protocol per combination."""
        if not isinstance(raw, dict) or not isinstance(raw.get("ft"), list | tuple):
            return raw
        return {**raw, "ft": [one for table in raw["ft"] for one in _combinations(table)]}

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return (*self.fe, *self.ft)

    @property
    def digest(self) -> str:
        """Covers tracks and protocols, not the selectors nor the prose."""
        exclude = {"selectors", "repeats", "title", "note", "published"}
        content = self.model_dump(mode="json", exclude=exclude)
        # What is younger than the first published suites leaves their digests as they are.
        for protocol in content["fe"]:
            if protocol["after"] is None:
                del protocol["after"]
        for protocol in content["ft"]:
            if protocol["window"] is None:
                del protocol["window"]
        for data in (part["data"] for part in (*content["sources"], *content["targets"]) if part["data"]):
            for name in ("crop", "interpolation", "task"):
                if data[name] == Data.model_fields[name].default:
                    del data[name]
        return digest(content)


def _repeated(names: Iterable[str]) -> str | None:
    """The first name that stands twice."""
    return min((name for name, count in Counter(names).items() if count > 1), default=None)


def _combinations(table: Any) -> list[Any]:
    """``methods = [["l2"], ["l2-sp", "bss"]]`` and ``rates = [0.15, 1.0]`` multiplied out."""
    if not isinstance(table, dict) or not {"methods", "rates"} & table.keys():
        return [table]
    rest = {key: value for key, value in table.items() if key not in ("methods", "rates")}
    expanded = []
    for penalties in table.get("methods", [["l2"]]):
        if not isinstance(penalties, list | tuple):
            raise ValueError(f"ft: a method is a list of penalties, [{penalties!r}] and not {penalties!r}")
        for rate in table.get("rates", [1.0]):
            name = f"{rest.get('name', 'ft')}-{'+'.join(map(str, penalties))}-{100 * float(rate):g}%"
            expanded.append({**rest, "name": name, "rate": rate, "penalties": penalties})
    return expanded


def known_suites() -> dict[str, Path]:
    return {
        path.stem: path for folder in shipped("benchmark/suites") for path in sorted(folder.glob("*.toml"))
    }


def load_suite(name: str | os.PathLike[str]) -> Suite:
    """Read a suite by its name, or from the path of a TOML file.

    Raises
    ------
    InputError
        If there is no such suite, or a key or value in it is wrong.
    """
    text = str(name)
    path = Path(text) if text.endswith(".toml") else known_suites().get(text)
    if path is None:
        raise InputError(f"no suite is called {text!r}: {nearest(text, known_suites())}")
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"there is no suite file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"suite file {path} cannot be read: {error}") from None
    raw.setdefault("name", path.stem)
    try:
        return Suite.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"suite file {path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as a sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        models: tuple[type[BaseModel], ...] = (Suite, Source, TargetSpec, Data, Training, FE, FT)
        known = {key for model in models for key in model.model_fields}
        return f"unknown key {where!r}, {nearest(key, known)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
