"""Source runs on disk: find the checkpoints, order them, load them safely, fit them into a network.

Nothing is ever unpickled beyond tensors: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ckptbench.plugins import Registry
from ckptbench.suites import nearest
from ckptbench.types import Checkpoint, Extractor, InputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "model_ema")
RUN_FILE = "run.json"
RESUME_PREFIX = "resume"
# What fills weights at random, methods of tensors and functions of torch.nn.init; those that torch.nn.init
# builds on them need not be named.
_DRAWS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}


def last_linear(model: nn.Module) -> str:
    """Name of the last ``nn.Linear`` of a network: its input is the penultimate activation."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise InputError(
            f"{type(model).__name__} has no linear layer, so it has no penultimate features: "
            "name another layer to take them from"
        )
    return str(names[-1])


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors or torch file, bare or wrapped, ``module.`` prefixes removed.

    Raises
    ------
    InputError
        If the file is not there, is damaged, or holds something other than tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            raw: object = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():  # of pickle protocols: it loads or it does not
                warnings.simplefilter("ignore")
                raw = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise InputError(
                f"checkpoint {path} holds Python objects besides tensors ({found[1]}), which are never "
                "unpickled: save its state_dict alone, best as safetensors"
            ) from None
        raise InputError(f"checkpoint {path} is damaged or no checkpoint") from None
    except Exception as error:  # damaged bytes may raise anything in the readers
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"checkpoint {path} is damaged or no checkpoint: {first}") from None
    for wrapper in _WRAPPERS:
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
            break
    if not isinstance(raw, Mapping):
        raise InputError(f"checkpoint {path} holds a {type(raw).__name__}, not a state dict")
    state = {str(key): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"checkpoint {path} holds no tensors by name: it is not a state dict")
    while all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


class _ZeroWeights(TorchFunctionMode):
    """Networks are built with zeros where they would draw weights, which takes longer than to load them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in _DRAWS:
            return func(*args, **kwargs)
        tensor = args[0] if args else kwargs["tensor"]
        tensor.detach().zero_()
        return tensor


@dataclass(frozen=True)
class Architecture:
    """An extractor plugin with one architecture chosen: builds networks and loads weights into them.

    ``spec`` is ``name`` or ``name:option=value,...``; ``layer`` overrides the head's name.
    """

    spec: str
    extractor: Extractor
    extractor_digest: str
    layer: str | None = None

    @cached_property
    def _parts(self) -> tuple[str, dict[str, Any]]:
        return split_spec(self.spec)

    def build(self, classes: int) -> nn.Module:
        name, options = self._parts
        try:
            return self.extractor.build(name, classes, **options)
        except TypeError as error:
            raise InputError(f"architecture {self.spec!r}: {error}") from None

    def head_name(self, model: nn.Module) -> str:
        name = self.layer or self.extractor.head(model)
        modules = dict(model.named_modules())
        if name not in modules:
            raise InputError(f"{self.spec} has no layer {name!r}: {nearest(name, modules)}")
        return name

    def load(self, path: Path) -> tuple[nn.Module, bool]:
        """The network of a checkpoint, its head as large as the checkpoint's, in evaluation mode.

        The second value says whether the checkpoint has a head at all: a bare backbone has features
        but no source logits.

        Raises
        ------
        InputError
            If keys or shapes do not fit: says which, at most a handful.
        """
        state = load_weights(path)
        head = next((state[key] for key in self._head_tensors if key in state), None)
        with _ZeroWeights():
            model = self.build(head.shape[0] if head is not None and head.ndim else 2)
        own = model.state_dict()
        # A backbone without a head still has features; counters of batch normalisation are absent from
        # files of very old torch releases.
        spared = set() if head is not None else self._head_tensors
        missing = sorted(
            key for key in own.keys() - state.keys() - spared if not key.endswith("num_batches_tracked")
        )
        foreign = sorted(state.keys() - own.keys())
        shapes = [
            f"{key} is {tuple(state[key].shape)}, should be {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if own[key].shape != state[key].shape
        ]
        if missing or foreign or shapes:
            found = [
                *(f"missing {_few(missing)}" for _ in missing[:1]),
                *(f"not in {self.spec}: {_few(foreign)}" for _ in foreign[:1]),
                *(f"shapes differ: {_few(shapes, '; ')}" for _ in shapes[:1]),
            ]
            raise InputError(f"checkpoint {path} is not a {self.spec}: " + "; ".join(found))
        model.load_state_dict(state, strict=False)
        return model.eval(), head is not None

    @cached_property
    def _head_tensors(self) -> set[str]:
        """The weights whose shape depends on the number of classes."""
        try:
            with torch.device("meta"):
                two, three = self.build(2).state_dict(), self.build(3).state_dict()
        except NotImplementedError:  # RegNet computes its widths with tensors, which meta has no values for
            two, three = self.build(2).state_dict(), self.build(3).state_dict()
        return {key for key in two if two[key].shape != three[key].shape}


def split_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """``resnet18:stem=small`` -> ("resnet18", {"stem": "small"}); whole numbers become ints."""
    name, _, text = spec.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"architecture option {item!r} of {spec!r} should read name=value")
        options[key] = int(value) if value.isdigit() else value
    return name, options


def find_architecture(spec: str, extractors: Registry, layer: str | None = None) -> Architecture:
    """The architecture called ``spec``, from whichever extractor plugin knows it."""
    name, _ = split_spec(spec)
    known: list[str] = []
    for plugin in extractors.specs.values():
        extractor = plugin.make()
        names = extractor.architectures()
        if name in names:
            return Architecture(spec, extractor, plugin.digest, layer)
        known += names
    raise InputError(f"no architecture is called {name!r}: {nearest(name, known)}")


def _few(items: list[str], joiner: str = ", ", most: int = 4) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return joiner.join(items[:most]) + rest


def epoch_of(path: Path) -> int | None:
    """The epoch in a file's name: the number after "epoch", else the last number."""
    match = re.search(r"ep(?:och)?[-_=.]?(\d+)", path.stem, re.IGNORECASE)
    if match:
        return int(match[1])
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else None


def read_run(folder: Path, architecture: str, name: str | None = None) -> list[Checkpoint]:
    """The trajectory in a folder, in epoch order.

    Source accuracies come from ``run.json`` where ``ckptbench pretrain`` wrote one.

    Raises
    ------
    InputError
        If the folder is missing or empty, or two files are of one epoch.
    """
    if not folder.exists():
        raise InputError(f"there is no folder of checkpoints {folder}")
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    files = [
        file
        for file in files
        if file.is_file() and file.suffix in SUFFIXES and not file.name.startswith((RESUME_PREFIX, "."))
    ]
    if not files:
        raise InputError(f"{folder} holds no checkpoint: files should end in {', '.join(SUFFIXES)}")
    facts: dict[str, Any] = {}
    record = (folder if folder.is_dir() else folder.parent) / RUN_FILE
    if record.exists():
        try:
            facts = {str(row["epoch"]): row for row in json.loads(record.read_text())["checkpoints"]}
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{record} is damaged: delete it, or take the run's own copy") from None
    epochs = [epoch_of(file) for file in files]
    if None in epochs and set(epochs) != {None}:
        nameless = files[epochs.index(None)]
        raise InputError(f"{nameless} has no epoch in its name, as others there do: move or rename it")
    by_epoch: dict[int, Path] = {}
    for position, (file, named) in enumerate(zip(files, epochs, strict=True)):
        epoch = position if named is None else named
        if epoch in by_epoch:
            raise InputError(f"{by_epoch[epoch].name} and {file.name} in {folder} are both of epoch {epoch}")
        by_epoch[epoch] = file
    run = name or folder.resolve().name
    trajectory = []
    for epoch, file in sorted(by_epoch.items()):
        fact = facts.get(str(epoch), {})
        found = file_digest(file)
        if fact.get("file") == file.name and fact.get("digest") != found:
            raise InputError(
                f"checkpoint {file} is damaged: its bytes are not those that {record} names; "
                "restore it, or delete its folder to train the run again"
            )
        trajectory.append(Checkpoint(run, epoch, architecture, found, file, fact.get("source_accuracy")))
    return trajectory
