"""How fast this machine will train a model, before anything is loaded: products measured, the rest reckoned."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from lingraft import accelerator
from lingraft.models import fastest_dtype

_EFFICIENCY = 0.5  # of the products' rate; attention, norms and the optimizer take the rest
_OPERATIONS = 4  # per parameter and token with frozen weights: forward, and the gradient of the inputs


def tokens_per_second(base: Path) -> float:
    """Return about how many tokens a second LoRA trains on this machine, from the config alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    parameters = sum(p.numel() for p in model.parameters())
    return float(_EFFICIENCY * operations_per_second(fastest_dtype()) / (_OPERATIONS * parameters))


def operations_per_second(dtype: torch.dtype, rows: int = 512, width: int = 1024) -> float:
    """Measure matrix products of [rows, width] by [width, width]: the best of a few, in operations a second."""
    device = accelerator.kind()
    a, b = torch.ones(rows, width, dtype=dtype, device=device), torch.ones(width, width, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(a, b)
        accelerator.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * rows * width * width / best
