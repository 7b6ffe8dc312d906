"""Foreign checkpoint files: read what any trainer writes, and find the weights of an architecture in it.

Nothing foreign ever runs. Files are safetensors, or pickles read under ``weights_only=True``; objects that a
trainer left beside its weights (a Namespace, paths, enumerations) become inert stubs.

A file may hold the same network several times (``model`` beside ``model_ema``, ``student`` beside
``teacher``) under any prefix (``module.``, ``backbone.``, ``encoder_q.``). The weights are found by fitting:
of all places where an architecture's tensors are there by name and shape, the first kind of ``PREFERENCE``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ckptbench.base.errors import InputError

PREFERENCE = (
    re.compile(r"(^|[._/])ema($|[._/])|teacher|swa|averaged"),
    re.compile(r"encoder_q|base_encoder|online"),
    re.compile(r"student"),
)
"""Which copy is taken where several fit, by a word in its place: an average or teacher, a query or base
encoder, a student, any other; last of all the momentum encoders of contrastive methods."""
_LAST = re.compile(r"encoder_k|momentum_encoder")
_COMPILED = "_orig_mod."
_COUNTER = "num_batches_tracked"  # of batch normalisation: absent from files of very old torch releases
_DEPTH = 4  # of wrappers inside wrappers


class Stub:
    """Stands for a foreign object: takes whatever it is given, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> Stub:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def read_file(path: Path) -> object:
    """What a checkpoint file holds, or a folder of shards: mappings, tensors, plain values and stubs.

    Raises
    ------
    InputError
        If it is not there, is damaged, or asks for a module that no stub may stand for.
    """
    try:
        if path.is_dir():
            return _read_shards(path)
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return _read_pickle(path)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        named = f": it asks for {found[1]}, which is never loaded" if found else " or no checkpoint"
        raise InputError(f"checkpoint {path} is damaged{named}") from None
    except Exception as error:  # damaged bytes may raise anything in the readers
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"checkpoint {path} is damaged or no checkpoint: {first}") from None


def _read_pickle(path: Path) -> object:
    with warnings.catch_warnings():  # of pickle protocols: it loads or it does not
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Only the zip format can be asked for the names it needs; torch refuses older ones here.
            names = _foreign_names(path)
            stubs = [(type("Stub", (Stub,), {}), name) for name in names]
            with torch.serialization.safe_globals(stubs):  # type: ignore[arg-type]
                return torch.load(path, map_location="cpu", weights_only=True)


def _foreign_names(path: Path) -> list[str]:
    """Names of the foreign classes and functions that a file refers to."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError):  # the format of torch before 1.6
        return []


def _read_shards(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder as Hugging Face's libraries write it: one file, or shards with an index."""
    for index, suffix in (("model.safetensors.index.json", ""), ("pytorch_model.bin.index.json", "")):
        if (folder / index).is_file():
            names = set(json.loads((folder / index).read_text())["weight_map"].values())
            return _joined([_inside(folder, str(name) + suffix) for name in sorted(names)])
    for name in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"):
        if (folder / name).is_file():
            return _joined([folder / name])
    shards = sorted(folder.glob("*-of-*.safetensors"))
    if not shards:
        raise InputError(f"{folder} holds no model.safetensors, pytorch_model.bin or shards of one")
    return _joined(shards)


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise InputError(f"the index in {folder} names {name!r}, which is outside of the folder")
    return folder / name


def _joined(files: list[Path]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for file in files:
        content = read_file(file)
        if not isinstance(content, Mapping):
            raise InputError(f"checkpoint {file} holds a {type(content).__name__}, not a state dict")
        joined |= {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return joined


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights in a folder of shards are read from."""
    return sorted(file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))


def facts_of(content: object) -> dict[str, int]:
    """The epoch and the step that a checkpoint says it is of, where it does."""
    found: dict[str, int] = {}
    if isinstance(content, Mapping):
        for name, keys in (("epoch", ("epoch",)), ("step", ("global_step", "step", "iteration", "iter"))):
            for key in keys:
                value = content.get(key)
                if isinstance(value, int) and not isinstance(value, bool):
                    found[name] = value
                    break
    return found


@dataclass(frozen=True)
class Place:
    """Where in a file a network's tensors are: the keys of the mappings around them, and their prefix."""

    path: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        return ("/".join(self.path) or "the whole file") + (f" under {self.prefix!r}" if self.prefix else "")

    @property
    def rank(self) -> tuple[int, int, int]:
        """Smaller is preferred; among equals the shallower, then the shorter prefix."""
        words = "/".join((*self.path, self.prefix)).lower()
        order = next((i for i, word in enumerate(PREFERENCE) if word.search(words)), len(PREFERENCE))
        if _LAST.search(words):
            order = len(PREFERENCE) + 1
        return order, len(self.path), len(self.prefix)


@dataclass(frozen=True)
class Found:
    """The tensors of an architecture in a file; ``others`` counts further copies that would have fitted."""

    state: dict[str, Tensor]
    place: Place
    unused: tuple[str, ...]
    others: tuple[Place, ...] = ()


def state_dicts(
    content: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping in a file that holds tensors by name, with the keys that lead to it."""
    if not isinstance(content, Mapping) or len(path) > _DEPTH:
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, {key.replace(_COMPILED, ""): value for key, value in tensors.items()}
    for key, value in content.items():
        if isinstance(value, Mapping) and "optim" not in str(key).lower():
            yield from state_dicts(value, (*path, str(key)))


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """Of all tensors by name, wherever they lie and whatever file they came from."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.is_quantized or tensor.layout != torch.strided:
            found.update(str(tensor).encode())
        elif tensor.numel():
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def find_weights(
    content: object,
    shapes: Mapping[str, torch.Size],
    head: str,
    what: str,
    *,
    key: str | None = None,
    prefix: str | None = None,
) -> Found:
    """The tensors that fit an architecture.

    Parameters
    ----------
    content : what ``read_file`` gave
    shapes : of every tensor that must be there, by its name in the architecture; not those of the head
    head : the name of the architecture's head, whose place may hold anything
    what : the file and the architecture, for errors: "checkpoint a.pt is not a resnet18"
    key : the mapping to look in, as in ``model_ema`` or ``state/teacher``; any when absent
    prefix : of the names; any when absent

    Raises
    ------
    InputError
        If nothing fits: says what is missing where most of it is.
    """
    candidates = list(state_dicts(content))
    if key is not None:
        candidates = [(path, state) for path, state in candidates if "/".join(path) == key]
    if not candidates:
        known = sorted({"/".join(path) for path, _ in state_dicts(content)} - {""})
        asked = f" under the key {key!r} (there are: {', '.join(known) or 'no keys'})" if key else ""
        raise InputError(f"{what}: it holds no tensors by name{asked}")
    fitting: list[tuple[Place, dict[str, Tensor]]] = []
    nearest: tuple[int, str] = (-1, "")
    for path, state in candidates:
        for found in [prefix] if prefix is not None else _prefixes(state, shapes):
            place = Place(path, found)
            problem, present = _misfit(state, found, shapes, head)
            if not problem:
                fitting.append((place, state))
            elif present > nearest[0]:
                at = f" at {place}" if path or found else ""
                nearest = (present, problem + at)
    if not fitting:
        raise InputError(f"{what}: {nearest[1]}")
    fitting.sort(key=lambda item: item[0].rank)
    place, state = fitting[0]
    wanted = {*shapes, f"{head}.weight", f"{head}.bias"}
    own, unused = {}, []
    for name, tensor in state.items():
        short = name.removeprefix(place.prefix)
        if name.startswith(place.prefix) and (short in wanted or short.endswith(_COUNTER)):
            own[short] = tensor
        else:
            unused.append(name)
    return Found(own, place, tuple(unused), tuple(other for other, _ in fitting[1:]))


def _prefixes(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> list[str]:
    """Every prefix under which some of an architecture's names stand, and none at all."""
    wanted = [*list(shapes)[:1], *list(shapes)[-1:]]
    found = {name.removesuffix(last) for last in wanted for name in state if name.endswith(last)}
    return sorted({"", *(prefix for prefix in found if prefix.endswith("."))})


def _misfit(
    state: Mapping[str, Tensor], prefix: str, shapes: Mapping[str, torch.Size], head: str
) -> tuple[str, int]:
    """What does not fit, as words ("" when all does), and how many tensors do.

    A tensor too many is a misfit inside the architecture's own modules (a deeper network of the family), and
    none of our business outside of them (a projector, a decoder).
    """
    own = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    modules = {name.partition(".")[0] for name in shapes} - {head.partition(".")[0]}
    missing = [name for name in shapes if name not in own]
    there = [name for name in shapes if name in own]
    foreign = sorted(name for name in own if name not in shapes and name.partition(".")[0] in modules)
    foreign = [name for name in foreign if not name.startswith(head) and not name.endswith(_COUNTER)]
    wrong = [
        f"{name} is {tuple(own[name].shape)}, should be {tuple(shapes[name])}"
        for name in there
        if own[name].shape != shapes[name]
    ]
    odd = [name for name in there if own[name].is_quantized or own[name].layout != torch.strided]
    problems = [
        *(f"missing {few(missing)}" for _ in missing[:1]),
        *(f"too many: {few(foreign)}" for _ in foreign[:1]),
        *(f"shapes differ: {few(wrong, '; ')}" for _ in wrong[:1]),
        *(f"quantised or sparse, where dense weights are needed: {few(odd)}" for _ in odd[:1]),
    ]
    return "; ".join(problems), len(there) - len(wrong)


def few(items: list[str], joiner: str = ", ", most: int = 4) -> str:
    """The first items, and how many more there are."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return joiner.join(items[:most]) + rest
