"""Causal attention that keeps packed texts apart by computing each text's own block, and nothing else.

A mask over the whole row would compute the products between texts only to throw them away. Here each text attends
within itself; long ones in strips of rows, so that most of the half above the diagonal is never computed. On a CPU
this beats torch's fused kernel about twofold in bf16, whose backward pass is slow there; on other devices, and for
texts so long that the kept probabilities would fill memory, each text goes to that kernel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "lingraft_texts"  # the name transformers knows this attention by
_STRIP = 128  # rows of scores computed at once
KEEP = 1024  # longest text whose probabilities are kept for the backward pass


def register() -> str:
    """Make the attention known to transformers; return its name for `set_attn_implementation`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME


def bounds(position_ids: Tensor) -> list[int]:
    """Return where each text begins, and the end of the last: [texts + 1] from position_ids [1, tokens]."""
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    return [*starts, position_ids.shape[1]]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed row.

    query [1, heads, tokens, width], key and value [1, kv heads, tokens, width] → [1, tokens, heads, value's width]; the
    texts' bounds come from ``position_ids`` [1, tokens]. Raises NotImplementedError for what is not causal softmax
    attention, so that the caller can fall back on transformers' own.
    """
    unknown = [name for name in ("softcap", "s_aux", "sliding_window") if more.get(name) is not None]
    position_ids = more.get("position_ids")
    if attention_mask is not None or unknown or dropout or position_ids is None or query.shape[0] != 1:
        raise NotImplementedError(f"{NAME} cannot attend with {unknown or 'a mask, dropout or a batch'}")
    if not getattr(module, "is_causal", True):
        raise NotImplementedError(f"{NAME} is causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast a float32 embedding leaves float32 queries and keys beside lower values: one type goes on.
    query, key = query.to(value.dtype), key.to(value.dtype)
    edges = bounds(position_ids)
    parts = [_one(query[0, :, a:b], key[0, :, a:b], value[0, :, a:b], scale) for a, b in pairwise(edges)]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return whole.transpose(0, 1).unsqueeze(0), None


def _one(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend within one text: [heads, n, width] → [heads, n, width]."""
    if query.device.type != "cpu" or query.shape[1] > KEEP:
        groups = query.shape[0] // key.shape[0]
        key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
        return functional.scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=scale
        )[0]
    result: Tensor = Strips.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return result


class Strips(torch.autograd.Function):
    """Softmax attention under the diagonal, strip by strip; grouped queries share their key without a copy of it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        kv, n, _ = key.shape
        grouped = query.reshape(kv, -1, n, key.shape[2])
        key, value = key.contiguous(), value.contiguous()
        out = grouped.new_empty(*grouped.shape[:3], value.shape[2])  # values may be narrower: DeepSeek's
        kept = []
        for a, b in _strips(n):
            scores = torch.matmul(grouped[:, :, a:b].flatten(1, 2), key[:, :b].transpose(1, 2)).mul_(scale)
            scores = scores.view(kv, -1, b - a, b)
            scores[..., a:].add_(_above(b - a, scores))
            probabilities = torch.softmax(scores, -1)
            out[:, :, a:b] = torch.matmul(probabilities.flatten(1, 2), value[:, :b]).view(kv, -1, b - a, value.shape[2])
            kept.append(probabilities)
        ctx.save_for_backward(grouped, key, value, *kept)
        ctx.scale = scale
        return out.view(*query.shape[:2], value.shape[2])

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grouped, key, value, *kept = ctx.saved_tensors
        kv, n, _ = key.shape
        given = given.reshape(*grouped.shape[:3], value.shape[2])
        d_query, d_key, d_value = torch.empty_like(grouped), torch.zeros_like(key), torch.zeros_like(value)
        for (a, b), probabilities in zip(_strips(n), kept, strict=True):
            strip, flat = given[:, :, a:b].flatten(1, 2), probabilities.flatten(1, 2)
            d_value[:, :b] += torch.matmul(flat.transpose(1, 2), strip)
            d_scores = torch.matmul(strip, value[:, :b].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_scores, flat, -1, flat.dtype).mul_(ctx.scale)
            d_query[:, :, a:b] = torch.matmul(d_scores, key[:, :b]).view(kv, -1, b - a, key.shape[2])
            d_key[:, :b] += torch.matmul(d_scores.transpose(1, 2), grouped[:, :, a:b].flatten(1, 2))
        return d_query.view(-1, n, key.shape[2]), d_key, d_value, None


def _strips(n: int) -> list[tuple[int, int]]:
    return [(a, min(a + _STRIP, n)) for a in range(0, n, _STRIP)]


def _above(rows: int, like: Tensor) -> Tensor:
    """Return [rows, rows] with minus infinity above the diagonal."""
    return torch.full((rows, rows), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)
