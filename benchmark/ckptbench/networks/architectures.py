"""Architectures by name: build a network, find its head, fit a checkpoint into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ckptbench.base.errors import InputError
from ckptbench.base.text import nearest
from ckptbench.kinds import Extractor
from ckptbench.networks.layouts import Found, find_weights, read_file
from ckptbench.plugins import Registry

# What fills weights at random, methods of tensors and functions of torch.nn.init; those that torch.nn.init
# builds on them need not be named.
EXTRAS = {"timm": "timm", "open_clip": "open-clip", "hf": "transformers", "hf-text": "transformers"}
"""What to install for architectures whose names begin so."""
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

    ``spec`` is ``name`` or ``name:option=value,...``; ``layer`` overrides the head's name; ``key`` and
    ``prefix`` say where in a file its tensors are, where that is not found by fitting.
    """

    spec: str
    extractor: Extractor
    extractor_digest: str
    layer: str | None = None
    key: str | None = None
    prefix: str | None = None

    @cached_property
    def name_and_options(self) -> tuple[str, dict[str, Any]]:
        return split_spec(self.spec)

    def build(self, classes: int) -> nn.Module:
        name, options = self.name_and_options
        try:
            return self.extractor.build(name, classes, **options)
        except TypeError as error:
            raise InputError(f"architecture {self.spec!r}: {error}") from None

    def head_name(self, model: nn.Module) -> str:
        name = self.layer or self.extractor.head(model)
        modules = dict(model.named_modules())
        if name not in modules:
            raise InputError(f"{self.spec} has no layer {name!r}: {nearest(name, filter(None, modules))}")
        return name

    def fit(self, path: Path) -> Found:
        """The tensors of this architecture in a checkpoint, wherever in the file they are.

        Raises
        ------
        InputError
            If names or shapes do not fit: says which, at most a handful.
        """
        hook = getattr(self.extractor, "read_checkpoint", None)
        if hook is None:
            return self.fit_content(read_file(path), f"checkpoint {path}")
        try:
            content = hook(path)
        except Exception as error:  # a stranger's code may raise anything
            raise InputError(f"checkpoint {path} cannot be read by {self.extractor.name}: {error}") from None
        return self.fit_content(content, f"checkpoint {path}")

    def fit_content(self, content: object, what: str) -> Found:
        """The same for what a checkpoint holds; ``what`` names it in errors."""
        what = f"{what} is not a {self.spec}"
        try:
            return find_weights(content, self._shapes, self._head, what, key=self.key, prefix=self.prefix)
        except InputError:
            saved = self._names_in_files
            if all(name == other for name, other in saved.items()):
                raise
        shapes = {saved.get(name, name): shape for name, shape in self._shapes.items()}
        found = find_weights(content, shapes, self._head, what, key=self.key, prefix=self.prefix)
        own = {other: name for name, other in saved.items()}
        return replace(found, state={own.get(name, name): tensor for name, tensor in found.state.items()})

    @cached_property
    def _names_in_files(self) -> dict[str, str]:
        """The network's name of a tensor -> the library's name of it in the files that it writes."""
        ask = getattr(self.extractor, "names_in_files", None)
        return {} if ask is None else dict(ask(self._two_sizes[0]))

    def load(self, path: Path) -> tuple[nn.Module, bool]:
        """The network of a checkpoint, its head as large as the checkpoint's, in evaluation mode.

        The second value says whether the checkpoint has a head that fits: a bare backbone has features but
        no source logits.
        """
        return self.fill(self.fit(path).state)

    def fill(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, bool]:
        """The same from the tensors that were found."""
        heads = {name: state[name] for name in self._head_tensors if name in state}
        sizes = {tensor.shape[0] for tensor in heads.values() if tensor.ndim}
        with _ZeroWeights():
            model = self.build(sizes.pop() if len(sizes) == 1 else 2)
        own = model.state_dict()
        has_head = heads.keys() == self._head_tensors and all(
            own[name].shape == tensor.shape for name, tensor in heads.items()
        )
        taken = own.keys() - (set() if has_head else self._head_tensors)
        model.load_state_dict({name: state[name] for name in taken & state.keys()}, strict=False)
        return model.eval(), has_head

    @cached_property
    def _two_sizes(self) -> tuple[nn.Module, nn.Module]:
        """The network for two and for three classes, without weights where that can be had."""
        try:
            with torch.device("meta"):
                return self.build(2), self.build(3)
        except NotImplementedError:  # RegNet computes its widths with tensors, which meta has no values for
            return self.build(2), self.build(3)

    @cached_property
    def _head_tensors(self) -> set[str]:
        """The weights whose shape depends on the number of classes."""
        two, three = (model.state_dict() for model in self._two_sizes)
        return {name for name in two if two[name].shape != three[name].shape}

    @cached_property
    def _head(self) -> str:
        """The name of the module that those weights belong to."""
        return next((name.rpartition(".")[0] for name in sorted(self._head_tensors)), "")

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        """Of every tensor that a checkpoint must have."""
        own = self._two_sizes[0].state_dict()
        spared = self._head_tensors
        return {
            name: tensor.shape
            for name, tensor in own.items()
            if name not in spared and not name.endswith("num_batches_tracked")
        }


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
    family = name.partition("/")[0]
    if family in EXTRAS and not any(other.partition("/")[0] == family for other in known):
        raise InputError(f"{name} needs an extra: pip install 'ckptbench[{EXTRAS[family]}]'")
    raise InputError(f"no architecture is called {name!r}: {nearest(name, known)}")
