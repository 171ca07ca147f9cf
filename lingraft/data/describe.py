"""Say what a stage is fed: rows, tokens, padding, a histogram of lengths, decoded examples with the loss marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lingraft.data.pack import Blocks
from lingraft.data.store import IGNORED, Ints, Longs, Segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EXAMPLES = 5
_BINS = 10


def describe(
    segments: Segments, chosen: Longs, blocks: Blocks, tokenizer: PreTrainedTokenizerBase, length: int, rows_in: int
) -> dict[str, Any]:
    """Count what lies in the blocks; examples are spread evenly over the data, supervised parts between ⟦ and ⟧."""
    lengths = segments.lengths[chosen]
    tokens = int(lengths.sum(dtype=np.int64))
    shown = [int(chosen[i]) for i in np.linspace(0, len(chosen) - 1, _EXAMPLES).astype(int)] if len(chosen) else []
    return {
        "rows_in": rows_in,
        "rows_out": len(chosen),
        "blocks": len(blocks),
        "length": length,
        "tokens": tokens,
        "supervised_tokens": int(segments.supervised[chosen].sum(dtype=np.int64)),
        "padding_share": 1 - tokens / (len(blocks) * length) if len(blocks) else 0.0,
        "lengths": histogram(lengths, length),
        "examples": [marked(segments, number, tokenizer) for number in dict.fromkeys(shown)],
    }


def histogram(lengths: Ints | Sequence[int], length: int) -> list[dict[str, int]]:
    """Count texts by their length in tokens, in ten steps up to ``length`` (longer ones are in the last)."""
    limited = np.minimum(np.asarray(lengths, dtype=np.int64), length)
    counts, edges = np.histogram(limited, bins=min(_BINS, length), range=(0, length))
    return [{"from": int(edges[i]), "to": int(edges[i + 1]), "rows": int(n)} for i, n in enumerate(counts)]


def padding_of(lengths: Sequence[int], batch: int, seed: int = 0) -> float:
    """Return the share of padding where texts are drawn at random into batches padded to their longest."""
    order = np.asarray(lengths, dtype=np.int64)[np.random.default_rng(seed).permutation(len(lengths))]
    padded = sum(len(part) * int(part.max()) for part in np.split(order, range(batch, len(order), batch)) if len(part))
    return 1 - int(order.sum()) / padded if padded else 0.0


def marked(segments: Segments, number: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode a segment, its supervised stretches between ⟦ and ⟧."""
    ids, taught = segments.ids(number), segments.labels(number) != IGNORED
    edges = [0, *(np.flatnonzero(np.diff(taught)) + 1).tolist(), len(ids)]
    texts = []
    for start, end in pairwise(edges):
        text = tokenizer.decode(ids[start:end].tolist())
        texts.append(f"⟦{text}⟧" if end > start and taught[start] else text)
    return "".join(texts)
