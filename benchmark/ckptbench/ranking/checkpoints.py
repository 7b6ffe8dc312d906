"""Checkpoints from whatever a user has: a folder, files, modules, state dicts.

What costs seconds to find out of a large file (its digest, where in it the weights are) is remembered in the
store, by path, size and time of change, and by digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from torch.nn.parameter import is_lazy

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Cell, Checkpoint, Preprocessing
from ckptbench.networks.architectures import Architecture, find_architecture, last_linear
from ckptbench.networks.folders import Content, content_of
from ckptbench.networks.layouts import Found, tensors_digest, weight_files
from ckptbench.networks.runs import RUN_FILE, file_digest, read_run
from ckptbench.pipeline.progress import Advance
from ckptbench.plugins import Registry, load_plugins
from ckptbench.ranking.options import Options, is_path
from ckptbench.ranking.remembered import marks


@dataclass(kw_only=True)
class Brought:
    """Checkpoints in epoch order, and what is known of each; ``networks`` holds those that are in memory."""

    architecture: Architecture
    checkpoints: list[Checkpoint]
    networks: dict[str, nn.Module] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    preprocessing: Preprocessing
    said_by: str
    is_own: bool = False  # of ckptbench pretrain, whose epoch 0 is untrained

    def twins(self) -> list[list[int]]:
        """Epochs that hold the same weights."""
        same: dict[str, list[int]] = {}
        for checkpoint in self.checkpoints:
            same.setdefault(self.facts[checkpoint.digest]["tensors"], []).append(checkpoint.epoch)
        return [epochs for epochs in same.values() if len(epochs) > 1]

    def place(self) -> str:
        """Where in the files the weights were found, as words."""
        places = list(dict.fromkeys(fact["place"] for fact in self.facts.values() if fact["place"]))
        if not places:
            return "networks in memory"
        fact = next(fact for fact in self.facts.values() if fact["place"])
        more = f", rather than at {', '.join(fact['others'])}" if fact["others"] else ""
        unused = f"; {fact['unused']} other tensors are not used" if fact["unused"] else ""
        return " / ".join(places) + more + unused


class Given:
    """Networks that a user made: the head is the last linear layer."""

    name: ClassVar[str] = "given"

    def architectures(self) -> list[str]:
        return []

    def build(self, architecture: str, classes: int, **options: Any) -> nn.Module:
        raise InputError(f"{architecture} was given as a network, and cannot be built")

    def head(self, model: nn.Module) -> str:
        return last_linear(model)


def bring(
    checkpoints: Any,
    options: Options,
    store: Store,
    advance: Advance = lambda steps=1, note="": None,
) -> Brought:
    """Find the checkpoints and fit each to the architecture.

    Raises
    ------
    InputError
        If there is none that fits, or with ``strict`` one that does not.
    """
    given = checkpoints if isinstance(checkpoints, list | tuple) else [checkpoints]
    if not given:
        raise InputError("the list of checkpoints is empty")
    if isinstance(given[0], nn.Module):
        return _modules(list(given), options)
    if not isinstance(given[0], Mapping | str | Path):
        raise InputError(
            f"a checkpoint is a {type(given[0]).__name__}: a path, a module or a state dict can be ranked"
        )
    arch = options.arch
    if arch is None:
        raise InputError("say which architecture the checkpoints are of, as in arch='resnet18'")
    if arch in ("hf", "hf-text") and is_path(given[0]):  # a run of Trainer holds its own config.json
        folder = Path(str(given[0])).expanduser()
        configs = [*folder.glob("config.json"), *sorted(folder.glob("*/config.json"))]
        arch = f"{arch}:config={configs[0].parent}" if configs else arch
    architecture = find_architecture(arch, _extractors(options.plugins), options.layer)
    architecture = replace(architecture, key=options.key, prefix=options.prefix)
    if isinstance(given[0], Mapping):
        return _states(list(given), architecture, options.strict)
    paths = [Path(str(one)).expanduser() for one in given]
    return _files(paths if checkpoints is given else paths[0], architecture, options, store, advance)


def _extractors(plugins: Sequence[str]) -> Registry:
    """All that there are; a file that was named and cannot be loaded is an error."""
    found, named = load_plugins("extractor", plugins), {str(Path(path).resolve()) for path in plugins}
    for where, why in found.broken.items():
        if named & {where, str(Path(where).parent)}:
            raise InputError(f"{where} cannot be loaded: {why}")
    return found


def _files(
    where: Path | list[Path], architecture: Architecture, options: Options, store: Store, advance: Advance
) -> Brought:
    trajectory, notes = read_run(
        where,
        architecture.spec,
        "run",
        options.pattern,
        digest_of=lambda path: _remembered_digest(path, store),
        read=lambda path: _remembered_content(path, store),
    )
    preprocessing, said_by = _preprocessing(architecture, where)
    brought = Brought(
        architecture=architecture, checkpoints=[], skipped=notes, preprocessing=preprocessing,
        said_by=said_by, is_own=isinstance(where, Path) and (where / RUN_FILE).is_file(),
    )  # fmt: skip
    for checkpoint in trajectory:
        try:
            facts = _remembered_facts(checkpoint, architecture, store)
        except (InputError, OSError) as error:
            if options.strict:
                raise
            brought.skipped.append(f"{error}: skipped")
        else:
            brought.facts[checkpoint.digest] = facts
            brought.checkpoints.append(checkpoint)
        advance(1, checkpoint.path.name if checkpoint.path else "")
    if not brought.checkpoints:
        why = next(line for line in brought.skipped if line.endswith(": skipped")).removesuffix(": skipped")
        raise InputError(f"none of {len(trajectory)} checkpoints can be used; {why}")
    return brought


def _states(states: list[Any], architecture: Architecture, strict: bool) -> Brought:
    preprocessing, said_by = _preprocessing(architecture, None)
    brought = Brought(architecture=architecture, checkpoints=[], preprocessing=preprocessing, said_by=said_by)
    for epoch, state in enumerate(states):
        try:
            found = architecture.fit_content(state, f"state dict {epoch}")
        except InputError as error:
            if strict:
                raise
            brought.skipped.append(f"{error}: skipped")
            continue
        _add(brought, epoch, architecture.fill(found.state)[0], _facts(found))
    if not brought.checkpoints:
        raise InputError(f"none of {len(states)} state dicts can be used; {brought.skipped[-1]}")
    return brought


def _modules(models: list[Any], options: Options) -> Brought:
    if options.arch is not None:
        architecture = find_architecture(options.arch, _extractors(options.plugins), options.layer)
        preprocessing, said_by = _preprocessing(architecture, None)
    else:
        preprocessing, said_by = Preprocessing(), "ImageNet's usual one, as nothing was said"
        architecture = Architecture(f"given:{type(models[0]).__name__}", Given(), "", options.layer)
    brought = Brought(architecture=architecture, checkpoints=[], preprocessing=preprocessing, said_by=said_by)
    for epoch, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise InputError(f"checkpoint {epoch} is a {type(model).__name__}, the first is a module")
        if any(map(is_lazy, model.state_dict().values())):
            raise InputError(f"network {epoch} has lazy layers without a shape: call it on an image first")
        tensors = tensors_digest(model.state_dict())
        facts = {"place": "", "others": [], "unused": 0, "tensors": digest([tensors, str(model)])}
        _add(brought, epoch, model, facts)
    return brought


def _add(brought: Brought, epoch: int, network: nn.Module, facts: dict[str, Any]) -> None:
    own = digest(["memory", facts["tensors"]])
    brought.checkpoints.append(Checkpoint("run", epoch, brought.architecture.spec, own))
    brought.networks[own] = network
    brought.facts[own] = facts


def _preprocessing(architecture: Architecture, where: Path | list[Path] | None) -> tuple[Preprocessing, str]:
    """How images are prepared, and who says so: the run's own record, else the architecture's library."""
    from ckptbench.base.files import read_json
    from ckptbench.networks.runs import normalisation
    from ckptbench.suites import Source

    if isinstance(where, Path) and (where / RUN_FILE).is_file():
        try:
            source = Source.model_validate(read_json(where / RUN_FILE)["source"])
        except (OSError, ValueError, KeyError):
            pass
        else:
            mean, std = normalisation(source)
            size = source.data.size if source.data is not None else 32
            return Preprocessing(size, 1.0, "bilinear", mean, std), f"{RUN_FILE} beside the checkpoints"
    name, options = architecture.name_and_options
    ask = getattr(architecture.extractor, "preprocessing", None)
    if ask is None:
        return Preprocessing(), "ImageNet's usual one, as the extractor says nothing"
    try:
        return ask(name, **options), f"what {architecture.extractor.name} uses for {name}"
    except (KeyError, ValueError):  # a network of torchvision's without published weights
        return Preprocessing(), "ImageNet's usual one, as the library says nothing"
    except TypeError as error:
        raise InputError(f"architecture {architecture.spec!r}: {error}") from None


def _remembered_digest(path: Path, store: Store) -> str:
    try:
        found = _remembered("file-digest/2", path, store, lambda: {"digest": file_digest(path)})
    except OSError:  # whoever reads its weights says why
        return f"unreadable {path}"
    return str(found["digest"])


def _remembered_content(path: Path, store: Store) -> Content:
    return Content(**_remembered("file-content/1", path, store, lambda: asdict(content_of(path))))


def _remembered(what: str, path: Path, store: Store, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is found out of a file, or a folder of shards, until it changes."""
    files = weight_files(path) if path.is_dir() else [path]
    key = {"what": what, "files": [mark for one in files for mark in marks(one)]}
    cell = store.read_cell(key)
    if cell is None:
        cell = Cell(key, "ok", extra=make())
        store.write_cell(cell)
    return cell.extra


def _remembered_facts(checkpoint: Checkpoint, architecture: Architecture, store: Store) -> dict[str, Any]:
    key = {
        "what": "fit/1",
        "weights": checkpoint.digest,
        "architecture": architecture.spec,
        "extractor": architecture.extractor_digest,
        "place": [architecture.key, architecture.prefix],
    }
    cell = store.read_cell(key)
    if cell is None:
        assert checkpoint.path is not None
        cell = Cell(key, "ok", extra=_facts(architecture.fit(checkpoint.path)))
        store.write_cell(cell)
    return cell.extra


def _facts(found: Found) -> dict[str, Any]:
    return {
        "place": str(found.place),
        "others": [str(place) for place in found.others],
        "unused": len(found.unused),
        "tensors": tensors_digest(found.state),
    }
