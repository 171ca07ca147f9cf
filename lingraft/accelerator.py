"""Which device this machine trains and measures on: what ``torch.accelerator`` reports, else the CPU.

CUDA, Apple's MPS, Ascend's NPU (with torch-npu installed) and Intel's XPU come through the same few functions. None of
them was at hand where this was written: the settings that follow from each are tested, the devices were not.
"""

from __future__ import annotations

import torch


def kind() -> str:
    """Return the device's kind: ``cuda``, ``mps``, ``npu``, ``xpu``, … or ``cpu``."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def pins_memory(device: str) -> bool:
    """Tell whether batches are copied to a device faster out of pinned memory; MPS shares the machine's own."""
    return device not in ("cpu", "mps")


def scales_losses(device: str) -> bool:
    """Tell whether accelerate trains in float16 on a device: it scales losses on cards alone."""
    return device not in ("cpu", "mps")


def fast_dtype(device: str) -> torch.dtype:
    """Return the half-precision type of a device other than the CPU: bfloat16 where it has that.

    On MPS float32: what it gains by half precision, and loses in range, differs from chip to chip.
    """
    if device == "mps":
        return torch.float32
    asked = getattr(getattr(torch, device, None), "is_bf16_supported", None)
    return torch.float16 if asked is not None and not asked() else torch.bfloat16


def synchronize(device: str) -> None:
    """Wait until a device has done what it was told, so that a clock can be read."""
    if device != "cpu":
        torch.accelerator.synchronize()


def free_memory(device: torch.device) -> int | None:
    """Return the bytes free on a device, None where it has no memory of its own, or does not tell."""
    if device.type in ("cpu", "mps"):
        return None
    try:
        return int(torch.accelerator.get_memory_info(device)[0])
    except (AttributeError, RuntimeError, NotImplementedError):  # a backend from outside torch need not tell
        return None
