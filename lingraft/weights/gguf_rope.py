"""Scaled rotary positions in GGUF: the factors that llama.cpp keeps as a tensor, and config.json's parameters.

Llama 3 stretches low frequencies by a formula of four numbers (config.json); GGUF stores the result, one factor
per frequency. Phi-3's longrope lists its factors in both places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lingraft.weights.rotary import theta_and_scaling
from lingraft.weights.tensors import Tensor

LLAMA3 = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (LLAMA3, LONG, SHORT)
LOW, HIGH, ORIGINAL = 1.0, 4.0, 8192  # the only values that Llama 3 models were published with


def llama3_factors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> Tensor:
    """Return by how much each of the head_dim / 2 frequencies is divided (Llama 3.1's release code)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    turns = scaling["original_max_position_embeddings"] / (2 * math.pi * theta**exponents)
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors


def llama3_scaling(factors: Tensor, theta: float) -> dict[str, Any] | None:
    """Return the parameters whose factors these are, or None where Llama 3's formula does not give them."""
    factors = factors.float()
    factor = round(float(factors.max()), 4)
    exponents = torch.arange(len(factors), dtype=torch.float32) / len(factors)
    smooth = (1 / factors - 1 / factor) / (1 - 1 / factor)
    between = (smooth > 0.01) & (smooth < 0.99)
    # smooth is linear in original / wavelength: every frequency in between tells the original length
    told = (smooth * (HIGH - LOW) + LOW) * 2 * math.pi * theta**exponents
    original = round(float(told[between].median())) if bool(between.any()) else ORIGINAL
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": original,
    }
    again = llama3_factors(theta, 2 * len(factors), scaling)
    return scaling if torch.allclose(again, factors, rtol=1e-3) else None


def tensors_for(config: Mapping[str, Any], head_dim: int) -> dict[str, Tensor]:
    """Return the factor tensors that llama.cpp wants for a config (none for most)."""
    theta, scaling = theta_and_scaling(config)
    if scaling is None:
        return {}
    if scaling["rope_type"] == "llama3":
        return {LLAMA3: llama3_factors(theta, head_dim, scaling)}
    if scaling["rope_type"] in ("longrope", "su"):
        return {
            LONG: torch.tensor(scaling["long_factor"], dtype=torch.float32),
            SHORT: torch.tensor(scaling["short_factor"], dtype=torch.float32),
        }
    return {}


def scaling_from(tensors: Mapping[str, Tensor], theta: float) -> dict[str, Any] | None:
    """Return config.json's scaling for the factor tensors of a GGUF file; None where it is none of these."""
    if LLAMA3 in tensors:
        return llama3_scaling(tensors[LLAMA3], theta)
    if LONG in tensors and SHORT in tensors:
        return {"rope_type": "longrope", "long_factor": _short(tensors[LONG]), "short_factor": _short(tensors[SHORT])}
    return None


def _short(values: Tensor) -> list[float]:
    return [float(str(value)) for value in values.float().numpy()]
