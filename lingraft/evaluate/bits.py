"""Bits per character: how many bits a model needs for a text, comparable between models of any tokenizer.

The sum of −log2 p over the tokens of a document, divided by its characters. BOS stands first where the tokenizer
has one; else the first token has nothing to be predicted from, and neither its bits nor its characters count, so
that no document start is penalised. Windows of min(context, 2,048) tokens with half a window of stride.
Perplexity per token is given beside it, but two tokenizers' perplexities cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from lingraft import accelerator
from lingraft.evaluate.head import scorer
from lingraft.evaluate.windows import LONGEST, Window, batches, cut

BLOCK = 500  # characters: what a lone document is cut into where noise is estimated
PADDING = 0


@dataclass(frozen=True)
class Scored:
    """One document's figures: bits and characters that count, all tokens, and bits by block of 500 characters."""

    bits: float
    characters: int
    bytes: int
    tokens: int
    scored_tokens: int
    all_characters: int
    blocks: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the fields, as the cache keeps them."""
        return {**asdict(self), "blocks": list(self.blocks)}

    @staticmethod
    def of_json(value: dict[str, Any]) -> Scored:
        """Return what `as_json` wrote."""
        return Scored(**{**value, "blocks": tuple(value["blocks"])})


@dataclass(frozen=True)
class _Encoded:
    ids: list[int]  # BOS first where there is one
    ends: list[tuple[int, int]]  # characters start:stop of every id; BOS has (0, 0)
    text: str
    bos: bool


def score(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    window: int | None = None,
    batch_tokens: int | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> list[Scored]:
    """Score every document under a causal model; ``advance`` is told the tokens scored.

    ``window`` is in tokens (None: min(context, 2,048)), ``batch_tokens`` bounds a batch (None: by free memory).
    Source: bits per character as in Shannon 1951; the stride as in transformers' perplexity guide.
    """
    encoded = [_encode(tokenizer, text) for text in documents]
    size = window or context(model)
    windows = [w for number, one in enumerate(encoded) for w in cut(number, len(one.ids), size)]
    log_probs = scorer(model)
    found = [[0.0] * len(one.ids) for one in encoded]
    with torch.inference_mode():
        for batch in batches(windows, batch_tokens or batch_bound(model, size)):
            _score_batch(model, log_probs, batch, encoded, found)
            advance(sum(w.stop - w.first for w in batch))
    return [_summary(one, bits) for one, bits in zip(encoded, found, strict=True)]


def context(model: Any) -> int:
    """Return the window for a model: its context, at most 2,048 tokens."""
    config = model.config.get_text_config()
    known = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length"))
    return min(next((int(value) for value in known if value), LONGEST), LONGEST)


def summary(scored: Sequence[Scored]) -> dict[str, float]:
    """Return the figures of a whole text: bits per character and byte, tokens per character, perplexity."""
    bits = sum(one.bits for one in scored)
    tokens = sum(one.scored_tokens for one in scored)
    return {
        "bits_per_character": bits / max(sum(one.characters for one in scored), 1),
        "bits_per_byte": bits / max(sum(one.bytes for one in scored), 1),
        "tokens_per_character": sum(one.tokens for one in scored) / sum(one.all_characters for one in scored),
        "token_perplexity": 2 ** min(bits / max(tokens, 1), 1000.0),
    }


def token_ids(tokenizer: Any, documents: Sequence[str]) -> list[list[int]]:
    """Encode every document without special tokens, as it is scored."""
    return [list(tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"]) for one in documents]


def _encode(tokenizer: Any, text: str) -> _Encoded:
    fast = bool(getattr(tokenizer, "is_fast", False))
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    ids: list[int] = list(made["input_ids"])
    ends = [(int(a), int(b)) for a, b in made["offset_mapping"]] if fast else _spread(len(ids), len(text))
    if tokenizer.bos_token_id is None:
        return _Encoded(ids, ends, text, False)
    return _Encoded([tokenizer.bos_token_id, *ids], [(0, 0), *ends], text, True)


def _spread(tokens: int, characters: int) -> list[tuple[int, int]]:
    """Place tokens evenly where the tokenizer does not say where they stand (only blocks and one token use it)."""
    edges = [round(characters * i / max(tokens, 1)) for i in range(tokens + 1)]
    return list(pairwise(edges))


def _score_batch(
    model: Any, log_probs: Any, batch: Sequence[Window], encoded: Sequence[_Encoded], found: list[list[float]]
) -> None:
    longest = max(w.inputs for w in batch)
    inputs = torch.full((len(batch), longest), PADDING)
    positions, targets = [], []
    for row, w in enumerate(batch):
        ids = encoded[w.document].ids
        inputs[row, : w.inputs] = torch.tensor(ids[w.start : w.stop - 1])
        positions += [(row, place - w.start - 1) for place in range(w.first, w.stop)]
        targets += ids[w.first : w.stop]
    device = model.device
    nats = log_probs(inputs.to(device), torch.tensor(positions, device=device), torch.tensor(targets, device=device))
    bits = (nats.double() / -math.log(2)).tolist()
    for w in batch:
        count = w.stop - w.first
        found[w.document][w.first : w.stop] = bits[:count]
        bits = bits[count:]


def _summary(one: _Encoded, bits: Sequence[float]) -> Scored:
    unscored = 0 if one.bos or not one.ids else one.ends[0][1]
    blocks = [0.0] * -(-len(one.text) // BLOCK)
    for value, (start, _) in zip(bits, one.ends, strict=True):
        blocks[min(start // BLOCK, len(blocks) - 1)] += value
    counted = one.text[unscored:]
    return Scored(
        bits=sum(bits),
        characters=len(counted),
        bytes=len(counted.encode("utf-8", "surrogatepass")),
        tokens=len(one.ids) - one.bos,
        scored_tokens=max(len(one.ids) - 1, 0),
        all_characters=len(one.text),
        blocks=tuple(blocks),
    )


def batch_bound(model: Any, window: int) -> int:
    """Bound a batch by free memory; beyond a few thousand tokens a larger one is not faster."""
    config = model.config.get_text_config()
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    per_token = 4 * (8 * config.hidden_size + 3 * width)
    bound: int = free_bytes(model) // 4 // per_token
    return max(window, min(4 * LONGEST, bound))


def free_bytes(model: Any) -> int:
    """Return the free memory of the model's device in bytes."""
    there = accelerator.free_memory(model.device)
    if there is not None:
        return there
    import psutil

    free: int = psutil.virtual_memory().available
    return free
