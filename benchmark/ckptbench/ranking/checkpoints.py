"""Checkpoints from whatever a user has: a folder, files, modules, state dicts.

What costs seconds to find out of a large file (its digest, where in it the weights are) is remembered in the
store, by path, size and time of change, and by digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError
from ckptbench.base.store import Store
from ckptbench.base.types import Cell, Checkpoint, Preprocessing
from ckptbench.networks.architectures import Architecture, find_architecture, last_linear
from ckptbench.networks.layouts import Found, weight_files
from ckptbench.networks.runs import RUN_FILE, file_digest, read_run
from ckptbench.pipeline.progress import Advance
from ckptbench.plugins import load_plugins


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
    arch: str | None,
    store: Store,
    *,
    plugins: Sequence[str] = (),
    layer: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    pattern: str | None = None,
    strict: bool = False,
    advance: Advance = lambda steps=1, note="": None,
) -> Brought:
    """Find the checkpoints and fit each to the architecture.

    Raises
    ------
    InputError
        If there is none that fits, or with ``strict`` one that does not.
    """
    if isinstance(checkpoints, nn.Module):
        checkpoints = [checkpoints]
    if isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str) and not checkpoints:
        raise InputError("the list of checkpoints is empty")
    is_list = isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str)
    first = checkpoints[0] if is_list else checkpoints
    if isinstance(first, nn.Module):
        return _modules(list(checkpoints), arch, layer, plugins)
    if arch is None:
        raise InputError("say which architecture the checkpoints are of, as in arch='resnet18'")
    if arch == "hf" and not is_list:  # a run of Trainer holds its own config.json
        folder = Path(checkpoints).expanduser()
        configs = [*folder.glob("config.json"), *sorted(folder.glob("*/config.json"))]
        arch = f"hf:config={configs[0].parent}" if configs else arch
    architecture = find_architecture(arch, load_plugins("extractor", plugins), layer)
    architecture = replace(architecture, key=key, prefix=prefix)
    if isinstance(first, Mapping):
        return _states(list(checkpoints), architecture, strict)
    if not isinstance(first, str | Path):
        raise InputError(
            f"a checkpoint is a {type(first).__name__}: a path, a module or a state dict can be ranked"
        )
    where = [Path(one).expanduser() for one in checkpoints] if is_list else Path(checkpoints).expanduser()
    trajectory, notes = read_run(
        where, arch, "run", pattern, digest_of=lambda path: _remembered_digest(path, store)
    )
    preprocessing, said_by = _preprocessing(architecture, where)
    brought = Brought(
        architecture=architecture, checkpoints=[], skipped=notes, preprocessing=preprocessing,
        said_by=said_by, is_own=isinstance(where, Path) and (where / RUN_FILE).is_file(),
    )  # fmt: skip
    for checkpoint in trajectory:
        try:
            facts = _remembered_facts(checkpoint, architecture, store)
        except InputError as error:
            if strict:
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


def _modules(models: list[Any], arch: str | None, layer: str | None, plugins: Sequence[str]) -> Brought:
    if arch is not None:
        found = find_architecture(arch, load_plugins("extractor", plugins), layer)
        preprocessing, said_by = _preprocessing(found, None)
        architecture = found
    else:
        preprocessing, said_by = Preprocessing(), "ImageNet's usual one, as nothing was said"
        architecture = Architecture(f"given:{type(models[0]).__name__}", Given(), "", layer)
    brought = Brought(architecture=architecture, checkpoints=[], preprocessing=preprocessing, said_by=said_by)
    for epoch, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise InputError(f"checkpoint {epoch} is a {type(model).__name__}, the first is a module")
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


def _remembered_digest(path: Path, store: Store) -> str:
    files = weight_files(path) if path.is_dir() else [path]
    marks = [[str(one.absolute()), one.stat().st_size, one.stat().st_mtime_ns] for one in files]
    key = {"what": "file-digest/1", "files": marks}
    cell = store.read_cell(key)
    if cell is None:
        cell = Cell(key, "ok", extra={"digest": file_digest(path)})
        store.write_cell(cell)
    return str(cell.extra["digest"])


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


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """Of all tensors by name, wherever they lie and whatever file they came from."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()[:16]
