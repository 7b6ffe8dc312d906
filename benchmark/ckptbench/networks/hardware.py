"""Where a network runs, as far as it changes the bits: device, instruction set, precision, torch's release.

A source run trained with other rounding is another run (one such difference moved FE tau by 0.27 on average
on the demonstration), so these facts are part of the keys.
"""

from __future__ import annotations

from typing import Literal

import torch

from ckptbench.base.errors import InputError

Precision = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU.

    Raises
    ------
    InputError
        If CUDA is asked for and there is none, or the name is not a device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not known: auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is available: use --device cpu, or auto")
    return torch.device(name)


def device_of(network: torch.nn.Module, otherwise: torch.device) -> torch.device:
    """Where a network's weights are."""
    return next((weight.device for weight in network.parameters()), otherwise)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is native there and not emulated, which would be slower than float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # torch has no public test that all supported releases share
        native = device.type == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return bool(native)


def resolve_precision(precision: Literal["fp32", "bf16", "auto"], device: torch.device) -> Precision:
    """``auto`` is bf16 where that is native, else fp32."""
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return precision


def machine(device: torch.device) -> dict[str, str]:
    """What of this machine a network's numbers hang on, for keys and provenance.

    ``device`` is cpu or cuda; ``instructions`` the CPU's instruction set as far as torch uses it, or the
    name of the GPU; ``torch`` the release without its build.
    """
    if device.type == "cuda":
        instructions = torch.cuda.get_device_name(device)
    else:
        instructions = torch.backends.cpu.get_cpu_capability()
        instructions += "+AMX" if torch.cpu._is_amx_tile_supported() else ""
        instructions += "+BF16" if torch.cpu._is_avx512_bf16_supported() else ""
    release = torch.__version__.partition("+")[0]
    return {"device": device.type, "instructions": instructions, "torch": release}
