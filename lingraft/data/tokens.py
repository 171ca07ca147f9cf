"""From texts to tokens with labels, as a stream: the tokenizer's own threads use every core, a batch ahead of us."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lingraft.data.answers import Rendered
from lingraft.data.seams import Cutter, Encode, Part
from lingraft.data.store import Ints, Piece
from lingraft.data.text import Document
from lingraft.problems import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Given = TypeVar("Given")
Result = TypeVar("Result")
_CHARACTERS = 125_000  # of text handed to the tokenizer at once for each core: what it returns is large
_CONVERSATIONS = 256
_NAMED = 5  # sources named in a message; the rest are counted


@dataclass
class Cuts:
    """Conversations that did not fit into the length: how many lost their end, how many their last label."""

    rendered: int = 0
    cut: int = 0
    emptied: int = 0
    cut_first: list[str] = field(default_factory=list)
    emptied_first: list[str] = field(default_factory=list)

    def empty(self, source: str) -> None:
        """Note one that has no label left."""
        self.emptied += 1
        self.emptied_first += [source] * (len(self.emptied_first) < _NAMED)

    def shorten(self, source: str) -> None:
        """Note one that loses its end."""
        self.cut += 1
        self.cut_first += [source] * (len(self.cut_first) < _NAMED)


def of_documents(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[Piece]:
    """Tokenise documents for language modelling: every token is a label but the first of each piece.

    A document begins with BOS and ends with EOS where the tokenizer has them; a long one is cut into
    pieces of at most ``length`` tokens, and no tail is dropped.
    """
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    cutter = Cutter(encoder(tokenizer))
    held: list[Ints] = [_ints(before)]
    size = len(before)
    for parts, found in _ahead(_batches(_parts(documents, cutter)), lambda batch: _encode(cutter, batch)):
        for part, ids in zip(parts, found, strict=True):
            held.append(_ints(after if part is None else ids))
            size += len(held[-1])
            if part is None or size >= length:
                whole = np.concatenate(held)
                stop = len(whole) if part is None else len(whole) // length * length
                yield from (_piece(whole[at : at + length]) for at in range(0, stop, length))
                held = [_ints(before) if part is None else whole[stop:]]
                size = len(held[0])


def of_conversations(
    rendered: Iterable[Rendered], tokenizer: PreTrainedTokenizerBase, length: int, cuts: Cuts
) -> Iterator[Piece]:
    """Tokenise rendered conversations: only tokens that lie wholly inside an answer are labels.

    What is longer than ``length`` is cut there, and left out where no label remains; ``cuts`` keeps count.
    """
    encode = _with_offsets(tokenizer)
    source = iter(rendered)
    batches = iter(lambda: list(islice(source, _CONVERSATIONS)), [])
    for batch, found in _ahead(batches, lambda batch: encode([r.text for r in batch])):
        for one, (ids, offsets) in zip(batch, found, strict=True):
            taught = _answers(np.asarray(offsets, dtype=np.int64).reshape(-1, 2), one.spans)
            piece = _fitted(_ints(ids), taught, length, one.source, cuts)
            if piece is not None:
                yield piece


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """Return a function from texts to tokens, without special tokens and without any cut."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])
    # A tokenizer.json may carry a truncation of its own; nothing is to be cut in silence.
    backend.no_truncation()
    backend.no_padding()
    # encode_batch_fast leaves out the offsets, which nobody needs here.
    return lambda texts: [found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _with_offsets(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[str]], list[tuple[list[int], Any]]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        refuse(
            "tokenizer-mismatch",
            f"{type(tokenizer).__name__} cannot say which characters a token stands for",
            "give the base a tokenizer.json: transformers makes one on save_pretrained",
        )
    backend.no_truncation()
    backend.no_padding()
    return lambda texts: [(e.ids, e.offsets) for e in backend.encode_batch(list(texts), add_special_tokens=False)]


def _parts(documents: Iterable[Document], cutter: Cutter) -> Iterator[Part | None]:
    """Yield the parts of each document, and None behind its last."""
    source = iter(documents)

    def blocks(first: Document) -> Iterator[str]:
        yield first.text
        while first.more:
            first = next(source)
            yield first.text

    for document in source:
        yield from cutter.cut(blocks(document))
        yield None


def _batches(parts: Iterable[Part | None]) -> Iterator[list[Part | None]]:
    batch: list[Part | None] = []
    size, enough = 0, _CHARACTERS * (os.cpu_count() or 1)
    for part in parts:
        batch.append(part)
        size += 0 if part is None else len(part.text)
        if size >= enough:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(cutter: Cutter, batch: Sequence[Part | None]) -> list[list[int]]:
    found = iter(cutter.tokens([part for part in batch if part is not None]))
    return [[] if part is None else next(found) for part in batch]


def _ahead(batches: Iterable[Given], work: Callable[[Given], Result]) -> Iterator[tuple[Given, Result]]:
    """Yield each batch with what ``work`` makes of it, the next one in work meanwhile."""
    waiting: deque[tuple[Given, Future[Result]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(work, batch)))
            if len(waiting) > 1:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()


def _fitted(ids: Ints, taught: Sequence[int], length: int, source: str, cuts: Cuts) -> Piece | None:
    cuts.rendered += 1
    spans = [(a, min(b, length)) for a, b in pairwise(taught) if a < length][::2]
    if not spans:
        cuts.empty(source)
        return None
    if len(ids) > length:
        cuts.shorten(source)
    return Piece(ids[:length], tuple(edge for span in spans for edge in span))


def _answers(offsets: Any, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return where runs of tokens inside ``spans`` begin and end; the first token of a text is never one."""
    inside = np.zeros(len(offsets) + 2, dtype=bool)
    for start, end in spans:
        inside[1:-1] |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > start)
    inside[:2] = False
    return np.flatnonzero(np.diff(inside)).tolist()


def _piece(ids: Ints) -> Piece:
    return Piece(ids, (1, len(ids)) if len(ids) > 1 else ())


def _ints(ids: Sequence[int]) -> Ints:
    return np.array(ids, dtype=np.int32)
