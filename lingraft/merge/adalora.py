"""AdaLoRA as peft saves it, read as the LoRA that it comes to: B · (E ∘ A) · alpha / (init_r + 1e-5), a rank a layer.

Zhang et al. 2023, arXiv:2303.10512; the divisor is that of peft's `SVDLinear.get_delta_weight`, whose `ranknum` stays
the rank at the start. Layers whose every singular value was pruned are saved with no rows, and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from lingraft.merge.names import PREFIX
from lingraft.weights.tensors import Entry, Lazy, Tensor

KIND = "ADALORA"
_EPSILON = 1e-5  # peft's


def as_lora(config: Mapping[str, Any], weights: Lazy) -> tuple[dict[str, Any], Lazy]:
    """Return config and tensors of the LoRA that does the same; what is incomplete keeps its name, and is refused."""
    masks = config.get("rank_pattern") or {}
    wanted = {_module(name): sum(mask) for name, mask in masks.items() if isinstance(mask, list)}
    entries = dict(weights.entries)
    ranks: dict[str, int] = {}
    pruned: list[str] = []
    for key in [key for key in entries if key.endswith(".lora_E")]:
        stem = key.removesuffix(".lora_E")
        if f"{stem}.lora_A" not in entries or f"{stem}.lora_B" not in entries:
            continue
        values, down, up = (entries.pop(f"{stem}.lora_{part}") for part in "EAB")
        module = stem.removeprefix(PREFIX)
        if values.shape[0] == 0 and wanted.get(module) == 0:
            pruned.append(module)
            continue
        ranks[module] = wanted.get(module, values.shape[0])
        entries |= {f"{stem}.lora_A.weight": _scaled(down, values), f"{stem}.lora_B.weight": up}
    alpha = float(config.get("lora_alpha") or 0)
    divisor = float(config.get("init_r") or 0) + _EPSILON
    scales = {re.escape(m): r * (alpha if alpha > 0 else r) / divisor for m, r in ranks.items()}
    return {
        **config,
        "peft_type": "LORA",
        "use_rslora": False,
        "alpha_pattern": scales,
        "rank_pattern": {re.escape(m): r for m, r in ranks.items()},
        "exclude_modules": _without(config.get("exclude_modules"), pruned),
    }, Lazy(entries)


def _module(name: str) -> str:
    return re.sub(r"\.lora_E(\.[^.]+)?$", "", name).removeprefix(PREFIX)


def _scaled(down: Entry, values: Entry) -> Entry:
    """Return the rows of A, each times its singular value."""

    def read(start: int, stop: int | None) -> Tensor:
        return down.read(start, stop).float() * values.read(start, stop).float()

    return Entry(torch.float32, down.shape, read)


def _without(excluded: Any, pruned: list[str]) -> Any:
    """Return what no tensor is missed for: what the config excludes, and layers that were pruned away."""
    if isinstance(excluded, str):
        return "|".join([f"(?:{excluded})", *map(re.escape, pruned)])
    return [*(excluded or []), *pruned]
