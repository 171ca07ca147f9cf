"""Pack texts into blocks of at most ``length`` tokens without padding, and describe what came of it.

Best fit decreasing: longest first, each into the fullest block that still has room, in time linear in the
number of texts. Positions restart at each text; the loop keeps the texts of a block apart in attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from lingraft.data.answers import Turns, render
from lingraft.data.clean import Told
from lingraft.data.conversations import Conversation
from lingraft.data.templates import resolve
from lingraft.data.text import Document
from lingraft.data.tokens import IGNORED, Segments, cut, of_conversations, of_documents
from lingraft.problems import Findings, refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EXAMPLES = 5
_NAMED = 5  # sources named in a message; the rest are counted


@dataclass(frozen=True)
class Packed(Dataset[dict[str, list[int]]]):
    """Blocks of whole texts back to back; ``blocks[i]`` holds the numbers of block i's segments.

    Item i is ``{"input_ids", "labels", "position_ids"}``, lists of equal length ≤ ``length``; positions
    restart at 0 with each text, whose first label is never supervised.
    """

    segments: Segments
    blocks: tuple[tuple[int, ...], ...]
    stats: dict[str, Any]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        for number in self.blocks[index]:
            start, end = int(self.segments.starts[number]), int(self.segments.starts[number + 1])
            ids += self.segments.ids[start:end].tolist()
            labels += self.segments.labels[start:end].tolist()
            positions += range(end - start)
        return {"input_ids": ids, "labels": labels, "position_ids": positions}


def pack_documents(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, length: int) -> Packed:
    """Pack plain texts for language modelling; a long text is cut into pieces and no tail is dropped."""
    listed = list(documents)
    return pack(of_documents(listed, tokenizer, length), tokenizer, length, rows_in=len(listed))


def pack_conversations(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase,
                       template: str, length: int, turns: Turns, findings: Findings) -> Packed:  # fmt: skip
    """Pack conversations with the loss on answers only.

    Errors: `nothing-supervised` for conversations whose answers lie beyond ``length`` (left out where
    allowed); those merely cut are told as a warning.
    """
    segments = segments_of(conversations, tokenizer, template, length, turns, findings)
    return pack(segments, tokenizer, length, rows_in=len(conversations))


def segments_of(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, template: str,
                length: int, turns: Turns, findings: Findings) -> Segments:  # fmt: skip
    """Render, tokenise and cut conversations to ``length``, and say which. Errors as above."""
    jinja = resolve(template, tokenizer)
    rendered = [r for c in conversations for r in render(c, tokenizer, jinja, turns)]
    kept, over, emptied = cut(of_conversations(rendered, tokenizer), length)
    if len(emptied):
        findings.problem("nothing-supervised", f"{len(emptied)} of {len(rendered)} conversations have no answer "
                         f"left within {length} tokens: {_name(rendered, emptied)}",
                         "raise `length`, or leave them out knowingly with --allow nothing-supervised",
                         rendered[int(emptied[0])].source)  # fmt: skip
    merely_cut = np.setdiff1d(over, emptied)
    if len(merely_cut):
        findings.warn("data-invalid", f"{len(merely_cut)} of {len(rendered)} conversations are longer than "
                      f"{length} tokens and lose their end: {_name(rendered, merely_cut)}",
                      "raise `length` to keep them whole", rendered[int(merely_cut[0])].source)  # fmt: skip
    findings.settle()
    if not len(kept):
        refuse("nothing-supervised", "no conversation has a label left to learn from", "raise `length`")
    return kept


def pack(segments: Segments, tokenizer: PreTrainedTokenizerBase, length: int, rows_in: int,
         cleaned: Sequence[Told] = ()) -> Packed:  # fmt: skip
    """Pack segments (each of at most ``length`` tokens) into blocks, and count; ``cleaned`` joins the count."""
    blocks = best_fit(segments.lengths.tolist(), length)
    stats = _stats(segments, blocks, tokenizer, length, rows_in)
    return Packed(segments, blocks, {**stats, "clean": [asdict(told) for told in cleaned]} if cleaned else stats)


def best_fit(lengths: Sequence[int], capacity: int) -> tuple[tuple[int, ...], ...]:
    """Put items into as few bins of ``capacity`` as best fit decreasing finds; return their item numbers."""
    room: list[list[list[int]]] = [[] for _ in range(capacity + 1)]  # room[k]: the bins with k left
    bins: list[list[int]] = []
    open_rooms = 0  # bit k is set where room[k] has a bin
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[item]
        fitting = open_rooms >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            chosen = room[left].pop()
            if not room[left]:
                open_rooms &= ~(1 << left)
        else:
            chosen, left = [], capacity
            bins.append(chosen)
        chosen.append(item)
        if left > size:
            room[left - size].append(chosen)
            open_rooms |= 1 << (left - size)
    return tuple(tuple(sorted(b)) for b in sorted(bins, key=min))


def _stats(segments: Segments, blocks: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase,
           length: int, rows_in: int) -> dict[str, Any]:  # fmt: skip
    tokens = len(segments.ids)
    counts, edges = np.histogram(segments.lengths, bins=10, range=(0, length))
    return {
        "rows_in": rows_in,
        "rows_out": len(segments),
        "blocks": len(blocks),
        "length": length,
        "tokens": tokens,
        "supervised_tokens": int((segments.labels != IGNORED).sum()),
        "padding_share": 1 - tokens / (len(blocks) * length) if blocks else 0.0,
        "lengths": [
            {"from": int(edges[i]), "to": int(edges[i + 1]), "rows": int(n)} for i, n in enumerate(counts)
        ],
        "examples": [_marked(segments, i, tokenizer) for i in range(min(_EXAMPLES, len(segments)))],
    }


def _marked(segments: Segments, number: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode a segment, its supervised stretches between ⟦ and ⟧."""
    part = slice(int(segments.starts[number]), int(segments.starts[number + 1]))
    ids, taught = segments.ids[part], segments.labels[part] != IGNORED
    edges = [0, *(np.flatnonzero(np.diff(taught)) + 1).tolist(), len(ids)]
    texts = []
    for start, end in pairwise(edges):
        text = tokenizer.decode(ids[start:end].tolist())
        texts.append(f"⟦{text}⟧" if end > start and taught[start] else text)
    return "".join(texts)


def _name(rendered: Sequence[Any], numbers: Iterable[int]) -> str:
    listed = [rendered[int(i)].source for i in numbers]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
