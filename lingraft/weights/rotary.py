"""The two layouts of rotary embeddings, and how rows of q and k pass from one to the other.

Meta's code, GGUF's llama family and llama2.c rotate neighbouring pairs of a head's rows (2i, 2i+1); Hugging Face
rotates row i with row i + half. The same weights in the other order: a permutation inside every head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lingraft.problems import refuse
from lingraft.weights.tensors import Entry, Tensor


def hf_from_pairs(rows: int, heads: int) -> Tensor:
    """Return ``index`` of shape [rows] with ``hf = pairs[index]``. Error: `config-mismatch`."""
    _check(rows, heads)
    return torch.arange(rows).view(heads, rows // heads // 2, 2).transpose(1, 2).reshape(-1)


def pairs_from_hf(rows: int, heads: int) -> Tensor:
    """Return ``index`` of shape [rows] with ``pairs = hf[index]``. Error: `config-mismatch`."""
    _check(rows, heads)
    return torch.arange(rows).view(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def _check(rows: int, heads: int) -> None:
    if heads < 1 or rows % (2 * heads):
        refuse(
            "config-mismatch",
            f"{rows} rows of q or k cannot be {heads} heads of an even width",
            "restore the config that belongs to these weights",
        )


def reordered(entry: Entry, index: Tensor) -> Entry:
    """Return the entry whose row i is row ``index[i]`` of ``entry``; reads only the rows that a block needs."""

    def read(start: int, stop: int | None) -> Tensor:
        wanted = index[start:stop]
        if wanted.numel() == 0:
            return entry.read(0, 0)
        low, high = int(wanted.min()), int(wanted.max()) + 1
        return entry.read(low, high)[wanted - low]

    return Entry(entry.dtype, entry.shape, read)


def theta_and_scaling(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Return the rotary base and its scaling from a config of either spelling (transformers 4 and 5).

    The scaling's kind is under ``rope_type``; None where positions are not scaled.
    """
    raw = config.get("rope_parameters") or config.get("rope_scaling") or {}
    raw = raw.get("full_attention", raw)  # Gemma 3 tells them per kind of layer
    scaling = {"rope_type" if key == "type" else key: value for key, value in raw.items() if key != "rope_theta"}
    theta = float(raw.get("rope_theta", config.get("rope_theta", 10000.0)))
    return theta, None if scaling.get("rope_type", "default") == "default" else scaling
