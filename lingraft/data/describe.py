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
    return {
        "rows_in": rows_in,
        "rows_out": len(chosen),
        "blocks": len(blocks),
        "length": length,
        "tokens": tokens,
        "supervised_tokens": int(segments.supervised[chosen].sum(dtype=np.int64)),
        "padding_share": 1 - tokens / (len(blocks) * length) if len(blocks) else 0.0,
        "lengths": histogram(lengths, length),
        "examples": [
            marked(segments.ids(number), segments.labels(number) != IGNORED, tokenizer)
            for number in dict.fromkeys(int(chosen[i]) for i in spread(len(chosen)))
        ],
    }


def spread(count: int) -> list[int]:
    """Return which of ``count`` rows are shown as examples: five, evenly over all."""
    return list(dict.fromkeys(np.linspace(0, count - 1, _EXAMPLES).astype(int).tolist())) if count else []


def histogram(lengths: Ints | Sequence[int], length: int) -> list[dict[str, int]]:
    """Count texts by their length in tokens, in ten steps up to ``length`` (longer ones are in the last)."""
    limited = np.minimum(np.asarray(lengths, dtype=np.int64), length)
    counts, edges = np.histogram(limited, bins=min(_BINS, length), range=(0, length))
    return [{"from": int(edges[i]), "to": int(edges[i + 1]), "rows": int(n)} for i, n in enumerate(counts)]


def padding_of(lengths: Any, batch: int, seed: int = 0) -> float:
    """Return the share of padding where rows are drawn at random into batches padded to their longest.

    ``lengths`` is [rows], or [rows, texts] where a row brings several texts.
    """
    order = np.asarray(lengths, dtype=np.int64)[np.random.default_rng(seed).permutation(len(lengths))]
    padded = sum(part.size * int(part.max()) for part in np.split(order, range(batch, len(order), batch)) if len(part))
    return 1 - int(order.sum()) / padded if padded else 0.0


def marked(ids: Any, taught: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode a text's ids, the stretches that are ``taught`` (bool [tokens]) between ⟦ and ⟧."""
    edges = [0, *(np.flatnonzero(np.diff(taught)) + 1).tolist(), len(ids)]
    texts = []
    for start, end in pairwise(edges):
        text = tokenizer.decode(ids[start:end].tolist())
        texts.append(f"⟦{text}⟧" if end > start and taught[start] else text)
    return "".join(texts)
