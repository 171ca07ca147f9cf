"""Texts as one flat array of tokens with labels: what packing, mixing and counting work on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from lingraft.data.answers import Rendered
from lingraft.data.text import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Item = TypeVar("Item")
IGNORED = -100  # torch's ignore_index
_BATCH = 256  # texts handed to the tokenizer at once


@dataclass(frozen=True)
class Segments:
    """Texts back to back: ``ids`` and ``labels`` int32 [tokens]; segment i is [starts[i], starts[i+1])."""

    ids: Ints
    labels: Ints
    starts: Longs

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Longs:
        """Return the number of tokens of each segment, int64 [segments]."""
        return np.diff(self.starts)

    def take(self, chosen: npt.NDArray[np.intp] | Sequence[int]) -> Segments:
        """Return the chosen segments, in that order; one may be chosen more than once."""
        parts = [slice(int(self.starts[i]), int(self.starts[i + 1])) for i in chosen]
        return _join([self.ids[p] for p in parts], [self.labels[p] for p in parts])


def of_documents(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, length: int) -> Segments:
    """Tokenise documents for language modelling: every token is a label but the first of each piece.

    A document begins with BOS and ends with EOS where the tokenizer has them; a long one is cut into
    pieces of at most ``length`` tokens, and no tail is dropped.
    """
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pieces: list[Ints] = []
    for batch in _batches(documents):
        for found in _encode([d.text for d in batch], tokenizer):
            ids = np.asarray([*before, *found, *after], dtype=np.int32)
            pieces.extend(ids[at : at + length] for at in range(0, len(ids), length))
    return _join(pieces, [_all_but_first(p) for p in pieces])


def of_conversations(rendered: Iterable[Rendered], tokenizer: PreTrainedTokenizerBase) -> Segments:
    """Tokenise rendered conversations: only tokens that lie wholly inside an answer are labels."""
    ids: list[Ints] = []
    labels: list[Ints] = []
    for batch in _batches(rendered):
        encoded = tokenizer([r.text for r in batch], add_special_tokens=False, return_offsets_mapping=True,
                            return_attention_mask=False, verbose=False)  # fmt: skip
        for one, found, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            row = np.asarray(found, dtype=np.int32)
            ids.append(row)
            labels.append(_only_answers(row, np.asarray(offsets, dtype=np.int64).reshape(-1, 2), one.spans))
    return _join(ids, labels)


def cut(segments: Segments, length: int) -> tuple[Segments, Longs, Longs]:
    """Cut segments at ``length``; return those that keep a label, and the numbers of those cut and emptied."""
    bounds = np.minimum(segments.starts[1:], segments.starts[:-1] + length)
    parts = [slice(int(a), int(b)) for a, b in zip(segments.starts[:-1], bounds, strict=True)]
    kept = np.array([bool((segments.labels[p] != IGNORED).any()) for p in parts], dtype=bool)
    over = np.flatnonzero(segments.lengths > length)
    whole = _join([segments.ids[p] for p, k in zip(parts, kept, strict=True) if k],
                  [segments.labels[p] for p, k in zip(parts, kept, strict=True) if k])  # fmt: skip
    return whole, over, np.flatnonzero(~kept)


def mix(parts: Sequence[tuple[Segments, float]], seed: int) -> Segments:
    """Mix sources so that their tokens stand in proportion to their weights.

    The source of the greatest weight is used once and whole; the others are drawn at random, repeated or
    left out in part, to fit it.
    """
    anchor, heaviest = max(parts, key=lambda part: part[1])
    per_weight = len(anchor.ids) / heaviest
    rngs = [np.random.default_rng((seed, number)) for number in range(len(parts))]
    drawn = [part if part is anchor else _draw(part, weight * per_weight, rng)
             for (part, weight), rng in zip(parts, rngs, strict=True)]  # fmt: skip
    return concatenate(drawn)


def concatenate(parts: Sequence[Segments]) -> Segments:
    """Return the segments of several sources one after another."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([p.lengths for p in parts])
    return Segments(
        np.concatenate([p.ids for p in parts]), np.concatenate([p.labels for p in parts]), _starts(lengths)
    )


def _draw(part: Segments, tokens: float, rng: np.random.Generator) -> Segments:
    if not len(part) or not len(part.ids):
        return part
    chosen: list[int] = []
    have = 0
    while have < tokens:
        for i in rng.permutation(len(part)):
            if have >= tokens:
                break
            chosen.append(int(i))
            have += int(part.lengths[i])
    return part.take(chosen)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    # encode_batch_fast leaves out the offsets, which nobody needs here.
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _only_answers(ids: Ints, offsets: Longs, spans: Sequence[tuple[int, int]]) -> Ints:
    inside = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        inside |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > start)
    inside[:1] = False
    return np.where(inside, ids, np.int32(IGNORED)).astype(np.int32)


def _all_but_first(ids: Ints) -> Ints:
    labels = ids.copy()
    labels[:1] = IGNORED
    return labels


def _join(ids: Sequence[Ints], labels: Sequence[Ints]) -> Segments:
    lengths = np.array([len(i) for i in ids], dtype=np.int64)
    empty = np.zeros(0, dtype=np.int32)
    return Segments(np.concatenate([empty, *ids]), np.concatenate([empty, *labels]), _starts(lengths))


def _starts(lengths: Longs) -> Longs:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
