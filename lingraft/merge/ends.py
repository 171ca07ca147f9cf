"""The two ends of a language model: its embedding, its head, and whether they are one tensor.

A tied model keeps one tensor for both and has no head on disk. Everything that follows from that is decided here and
in `tied.py`, so that the rest of a merge may treat the head as any other tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lingraft.merge.names import EMBEDDINGS
from lingraft.weights.tensors import Entry, Lazy, row_blocks

HEADS = ("lm_head.weight", "embed_out.weight", "cls.predictions.decoder.weight", "lm_head.decoder.weight",
         "predictions.decoder.weight", "generator_lm_head.weight")  # fmt: skip
_UNTIED_BY_DEFAULT = frozenset({"llama", "mistral", "mixtral", "qwen2", "qwen3", "phi", "phi3", "gpt_neox", "falcon",
                                "baichuan", "internlm2", "stablelm", "olmo", "olmo2"})  # fmt: skip


@dataclass(frozen=True)
class Ends:
    """Names of the embedding and of the head; ``tied`` where the head is the embedding."""

    embedding: str | None
    head: str | None
    tied: bool


def find(weights: Lazy, config: Mapping[str, Any]) -> Ends:
    """Find both ends by name; a head that is absent, or equals the embedding, is tied where the config ties it."""
    names = [n for n in weights if n.endswith(".weight") and n.split(".")[-2] in EMBEDDINGS
             and len(weights.entries[n].shape) == 2]  # fmt: skip
    embedding = min(names, key=lambda n: (n.count("."), n), default=None)
    head = next((n for n in weights if n in HEADS), None)
    if embedding is None or not _asked(config):
        return Ends(embedding, head or _name_by_class(config), False)
    if head is None:
        return Ends(embedding, _name_by_class(config), _name_by_class(config) is not None)
    return Ends(embedding, head, same(weights.entries[head], weights.entries[embedding]))


def _asked(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    nested = text.get("tie_word_embeddings") if isinstance(text, Mapping) else None
    asked = config.get("tie_word_embeddings", nested)
    return bool(asked) if asked is not None else config.get("model_type") not in _UNTIED_BY_DEFAULT


def _name_by_class(config: Mapping[str, Any]) -> str | None:
    kinds = [str(a) for a in config.get("architectures") or ()]
    if any(k.endswith(("ForMaskedLM", "ForPreTraining")) for k in kinds):
        kind = str(config.get("model_type"))
        return "lm_head.decoder.weight" if kind in ("roberta", "xlm-roberta", "camembert") else HEADS[2]
    if any(k.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for k in kinds):
        return "embed_out.weight" if config.get("model_type") == "gpt_neox" else "lm_head.weight"
    return None


def same(one: Entry, other: Entry, rows: int | None = None) -> bool:
    """Tell whether two tensors (or their first ``rows`` rows) hold the same values, in the coarser dtype of both."""
    if rows is None and one.shape != other.shape:
        return False
    if one.shape[1:] != other.shape[1:]:
        return False
    count = one.shape[0] if rows is None else rows
    coarse = min((one.dtype, other.dtype), key=lambda d: (torch.finfo(d).bits if d.is_floating_point else 0))
    blocks = row_blocks((count, *one.shape[1:]), 4, 8 << 20) if one.shape else [(0, None)]
    return all(torch.equal(_take(one, a, b, count, coarse), _take(other, a, b, count, coarse)) for a, b in blocks)


def _take(entry: Entry, start: int, stop: int | None, count: int, dtype: torch.dtype) -> torch.Tensor:
    if not entry.shape:
        return entry.read(0, None).to(dtype)
    return entry.read(start, count if stop is None else stop).to(dtype)
