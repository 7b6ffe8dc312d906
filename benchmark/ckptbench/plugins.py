"""Plugins: classes in files, found in the tree's folders, by path, by option or by entry point.

Selectors, extractors, penalties, readers of data sets and objectives of pre-training all take the same way
in, whether they are the tree's own or not. A file is executed under a module name of its own, which is in
``sys.modules`` before the code runs (dataclasses with postponed annotations look there) and is taken out
again if it fails. What crosses a process boundary is a ``PluginSpec``, never a live object; the spec is also
the plugin's provenance and part of every cache key.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ckptbench.base.errors import InputError
from ckptbench.base.folders import plugin_folders
from ckptbench.base.text import nearest

Kind = Literal["selector", "extractor", "penalty", "reader", "objective"]
PLURALS: dict[Kind, str] = {
    "selector": "selectors", "extractor": "extractors", "penalty": "penalties", "reader": "readers",
    "objective": "objectives",
}  # fmt: skip
"""Of the folders and entry-point groups."""
ENVIRONMENT = "CKPTBENCH_PLUGINS"
NEEDS = (
    "features", "labels", "source_probs", "source_logits", "source", "weights", "source_images",
    "target_images",
)  # fmt: skip
# A class with a ``name`` and one of these methods is a plugin of the kind.
_METHODS: dict[Kind, tuple[str, ...]] = {
    "selector": ("score", "score_pool"), "extractor": ("build",), "penalty": ("penalise",),
    "reader": ("read",), "objective": ("loss",),
}  # fmt: skip


@dataclass(frozen=True)
class PluginSpec:
    """Everything needed to make a plugin again in another process.

    ``where`` is the path of its file, or ``entry:GROUP:NAME``; ``digest`` is that of the source.
    """

    kind: Kind
    name: str
    where: str
    digest: str
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """``name`` or ``name:param=value,...``: how tables call it."""
        if not self.params:
            return self.name
        return self.name + ":" + ",".join(f"{key}={value}" for key, value in self.params)

    @property
    def origin(self) -> str:
        """``ckptbench`` for the tree's own, else the file's name or the entry point."""
        if Path(self.where).parent in plugin_folders(PLURALS[self.kind]):
            return "ckptbench"
        return self.where if self.where.startswith("entry:") else Path(self.where).name

    @property
    def plugin(self) -> type:
        """The class. Not kept in the spec, which crosses process boundaries: its module stays in memory."""
        found: type = _find_class(self.kind, self.where, self.name)
        return found

    def make(self) -> Any:
        """A new instance with this spec's parameters set."""
        instance = self.plugin()
        for key, value in self.params:
            setattr(instance, key, value)
        return instance

    @property
    def needs(self) -> tuple[str, ...]:
        default = ("features", "labels") if self.kind == "selector" else ()
        return tuple(getattr(self.plugin, "needs", default))

    @property
    def random(self) -> bool:
        return bool(getattr(self.plugin, "random", False))

    @property
    def is_cheap(self) -> bool:
        """Whether it takes a moment: nothing but what the plugin says of itself."""
        return bool(getattr(self.plugin, "cheap", True)) and not self.is_dear and "weights" not in self.needs

    @property
    def is_dear(self) -> bool:
        """Whether it takes minutes, so that it is computed only where it is asked for by name."""
        return bool(getattr(self.plugin, "dear", False))

    @property
    def has_control(self) -> bool:
        """Whether it is computed once more on permuted labels."""
        return self.is_cheap and "labels" in self.needs

    @property
    def pool(self) -> bool:
        return hasattr(self.plugin, "score_pool")

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters (annotated class attributes) and their defaults."""
        return {name: getattr(self.plugin, name) for name in _hints(self.plugin)}

    @property
    def readings(self) -> list[PluginSpec]:
        """This plugin, on standardised features where it has ``scale``, and in each of its ``readings``."""
        others = ("scale=std",) if "scale" in self.defaults else ()
        others += tuple(getattr(self.plugin, "readings", ()))
        return [self, *(self.with_params(text) for text in others)]

    def with_params(self, text: str) -> PluginSpec:
        """The same plugin with ``param=value,...`` set."""
        hints = _hints(self.plugin)
        params = dict(self.params)
        for item in text.split(","):
            key, equals, value = item.partition("=")
            if not equals:
                raise InputError(f"{self.name}: parameter {item!r} should read name=value")
            if key not in hints:
                raise InputError(f"{self.name} has no parameter {key!r}: {nearest(key, hints)}")
            try:
                raw = None if value.lower() == "none" else value
                params[key] = TypeAdapter(hints[key]).validate_python(raw)
            except ValidationError as error:
                wrong, hint = error.errors()[0], hints[key]
                if wrong["type"].startswith(("greater_than", "less_than", "literal")):
                    why = wrong["msg"].removeprefix("Input ")
                    raise InputError(f"{self.name}: {key}={value} {why}") from None
                hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
                wanted = getattr(hint, "__name__", hint)
                raise InputError(f"{self.name}: {key}={value!r} is no {wanted}") from None
            if params[key] == getattr(self.plugin, key):
                del params[key]
        return PluginSpec(self.kind, self.name, self.where, self.digest, tuple(sorted(params.items())))


@dataclass
class Registry:
    """All plugins of one kind that were found, and the files that could not be loaded."""

    kind: Kind
    specs: dict[str, PluginSpec] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def broken_text(self) -> str:
        """The files that could not be loaded and why, to end a sentence."""
        return "".join(f"; {where} cannot be loaded: {why}" for where, why in self.broken.items())

    def add(self, spec: PluginSpec) -> None:
        other = self.specs.setdefault(spec.name, spec)
        if other is not spec:
            places = f"one from {other.where}, one from {spec.where}"
            raise InputError(f"two {PLURALS[self.kind]} are called {spec.name!r}: {places}")

    def __getitem__(self, label: str) -> PluginSpec:
        """Look up ``name`` or ``name:param=value,...``."""
        name, _, params = label.partition(":")
        if name not in self.specs:
            near = nearest(name, self.specs)
            raise InputError(f"no {self.kind} is called {name!r}: {near}{self.broken_text}")
        spec = self.specs[name]
        return spec.with_params(params) if params else spec

    def select(self, labels: Iterable[str]) -> list[PluginSpec]:
        """Specs for a list of labels. ``*`` means all but the dear, each in all its ``readings``."""
        chosen: dict[str, PluginSpec] = {}
        for label in labels:
            if label == "*":
                every = (spec for spec in self.specs.values() if not spec.is_dear)
                chosen |= {one.label: one for spec in every for one in spec.readings}
            else:
                spec = self[label]
                chosen[spec.label] = spec
        return list(chosen.values())


def load_plugins(kind: Kind, paths: Sequence[str | os.PathLike[str]] = ()) -> Registry:
    """Find every plugin of a kind: the tree's folder, ``paths``, the environment, entry points.

    Parameters
    ----------
    paths : files or folders given with ``--plugins``; ``CKPTBENCH_PLUGINS`` adds to them, separated
        as in PATH.

    Raises
    ------
    InputError
        If a path is not there or two plugins share a name. A file that cannot be imported is no
        error: it is listed in ``Registry.broken``.
    """
    registry = Registry(kind)
    named = [*paths, *filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep))]
    extra = [Path(path) for path in named]
    for path in extra:
        if not path.exists():
            raise InputError(f"there is no plugin file or folder {path}")
    places = (*plugin_folders(PLURALS[kind]), *extra)
    found = [str(file.resolve()) for place in places for file in _python_files(place)]
    entries = importlib.metadata.entry_points(group=f"ckptbench.{PLURALS[kind]}")
    found += [f"entry:{entry.group}:{entry.name}" for entry in entries]
    for where in dict.fromkeys(found):
        try:
            specs = [PluginSpec(kind, name, where, digest) for name, digest in _names(kind, where)]
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything; the rest still runs
            registry.broken[where] = f"{type(error).__name__}: {error}"
            continue
        for spec in specs:
            registry.add(spec)
    if kind == "selector":
        for spec in list(registry.specs.values()):
            try:
                members = [registry[label].digest for label in getattr(spec.plugin, "members", ())]
            except InputError as error:
                registry.broken[spec.where] = str(error)
                del registry.specs[spec.name]
            else:
                digest = _digest(" ".join([spec.digest, *members]).encode()) if members else spec.digest
                registry.specs[spec.name] = replace(spec, digest=digest)
    return registry


def plugins_of(
    path: str | os.PathLike[str], kinds: Iterable[Kind], plugins: Sequence[str] = ()
) -> list[PluginSpec]:
    """The plugins of some kinds that a file defines, loaded beside all others; there must be one."""
    where, found = str(Path(path).resolve()), []
    for kind in kinds:
        registry = load_plugins(kind, (path, *plugins))
        if where in registry.broken:
            raise InputError(f"{path} cannot be loaded: {registry.broken[where]}")
        found += [spec for spec in registry.specs.values() if spec.where == where]
    if not found:
        raise InputError(
            f"{path} defines no {' or '.join(kinds)}: a selector is a class with a `name` and a method "
            "`score(self, candidate)`"
        )
    return found


def _python_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))


def _names(kind: Kind, where: str) -> list[tuple[str, str]]:
    """Name and digest of the source of each plugin of a file or an entry point, which is executed.

    The tree's own extractors are only read: torchvision takes longer to import than a suite that is cached
    and does not use it should.
    """
    if kind == "extractor" and Path(where).parent in plugin_folders(PLURALS[kind]):
        source = Path(where).read_bytes()
        named = {
            assign.value.value: {function.name for function in body if isinstance(function, ast.FunctionDef)}
            for body in (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
            for assign in body
            if isinstance(assign, ast.Assign) and ast.unparse(assign.targets[0]) == "name"
            if isinstance(assign.value, ast.Constant)
        }
        return [(str(name), _digest(source)) for name, methods in named.items() if "build" in methods]
    found = []
    for plugin in _classes(kind, where):
        _hints(plugin)
        file = inspect.getsourcefile(plugin)
        if file is None:
            raise ImportError("it has no source file")
        found.append((plugin.name, _digest(Path(file).read_bytes())))
    return found


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:16]


def _module(path: str) -> ModuleType:
    name = f"ckptbench_plugin_{Path(path).stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@cache
def _find_class(kind: Kind, where: str, name: str) -> Any:
    return next(plugin for plugin in _classes(kind, where) if plugin.name == name)


def _classes(kind: Kind, where: str) -> list[Any]:
    """The plugins of a file or an entry point: a class, or those that a module itself defines."""
    if where.startswith("entry:"):
        _, group, name = where.split(":", 2)
        (entry,) = importlib.metadata.entry_points(group=group, name=name)
        found = entry.load()
        if inspect.isclass(found):
            return [found]
    else:
        found = _module(where)
    classes = [
        value
        for value in vars(found).values()
        if inspect.isclass(value)
        and value.__module__ == found.__name__
        and not value.__name__.startswith("_")
        and isinstance(getattr(value, "name", None), str)
        and any(callable(getattr(value, method, None)) for method in _METHODS[kind])
    ]
    return list(dict.fromkeys(classes))  # a class may have two names in its module


def _hints(plugin: type) -> dict[str, Any]:
    return {
        name: hint
        for name, hint in typing.get_type_hints(plugin, include_extras=True).items()
        if typing.get_origin(hint) is not typing.ClassVar and hasattr(plugin, name)
    }
