"""A Llama forward pass as Meta's release defines it (complex rotation of neighbouring pairs), on whole tensors.

Written from the paper and Meta's description alone, to judge that shards mean what Meta's code takes them to mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Tensor = torch.Tensor
ROWS = ("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight", "output.weight")
COLUMNS = ("wo.weight", "w2.weight")


def joined(folder: Path, dim: int) -> dict[str, Tensor]:
    """Load every shard with torch and join them as tensor parallelism does."""
    shards = [torch.load(file, weights_only=True) for file in sorted(folder.glob("consolidated.*.pth"))]
    return {name: _join([shard[name] for shard in shards], name, dim).float() for name in shards[0]}


def _join(parts: Sequence[Tensor], name: str, dim: int) -> Tensor:
    by_rows = name.endswith(ROWS) or (name.startswith("tok_") and parts[0].shape[1] == dim)
    by_columns = name.endswith(COLUMNS) or (name.startswith("tok_") and not by_rows)
    return torch.cat(list(parts), 0 if by_rows else 1) if by_rows or by_columns else parts[0]


def logits(w: Mapping[str, Tensor], params: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Return the logits [tokens, vocabulary] of one text of ids [tokens]."""
    x, heads = w["tok_embeddings.weight"][ids], params["n_heads"]
    kv, width = params.get("n_kv_heads", heads), params["dim"] // heads
    angles = params.get("rope_theta", 10000.0) ** (-torch.arange(0, width, 2).float() / width)
    turn = torch.polar(torch.ones(len(ids), width // 2), torch.outer(torch.arange(len(ids)).float(), angles))
    mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
    for i in range(params["n_layers"]):
        layer = {name.removeprefix(f"layers.{i}."): t for name, t in w.items() if name.startswith(f"layers.{i}.")}
        h = _norm(x, layer["attention_norm.weight"], params["norm_eps"])
        q = _turned((h @ layer["attention.wq.weight"].T).view(len(ids), heads, width), turn)
        k = _turned((h @ layer["attention.wk.weight"].T).view(len(ids), kv, width), turn)
        k = k.repeat_interleave(heads // kv, 1)
        v = (h @ layer["attention.wv.weight"].T).view(len(ids), kv, width).repeat_interleave(heads // kv, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / width**0.5 + mask
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(ids), -1)
        x = x + mixed @ layer["attention.wo.weight"].T
        h = _norm(x, layer["ffn_norm.weight"], params["norm_eps"])
        gate = torch.nn.functional.silu(h @ layer["feed_forward.w1.weight"].T)
        x = x + (gate * (h @ layer["feed_forward.w3.weight"].T)) @ layer["feed_forward.w2.weight"].T
    return _norm(x, w["norm.weight"], params["norm_eps"]) @ w["output.weight"].T


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2)
