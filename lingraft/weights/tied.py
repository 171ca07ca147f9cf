"""Whether the head is the embedding: told by config.json, and by the bytes where both are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lingraft.weights.tensors import Weights, header, row_blocks

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
BLOCK = 8 << 20


def is_copy(weights: Weights, one: str = HEAD, other: str = EMBEDDING) -> bool:
    """Tell whether two tensors hold the same bytes; stops at the first block that differs."""
    if one not in weights or other not in weights:
        return False
    a, b = header(weights, one), header(weights, other)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return all(
        torch.equal(a.read(start, stop).view(torch.uint8), b.read(start, stop).view(torch.uint8))
        for start, stop in row_blocks(a.shape, a.dtype.itemsize, BLOCK)
    )


def drop_tied_head(weights: Weights, config: Mapping[str, Any]) -> Iterable[str]:
    """List the names without a head that config.json ties to the embedding and that equals it."""
    tied = config.get("tie_word_embeddings", False) and is_copy(weights)
    return [name for name in weights if not (tied and name == HEAD)]
