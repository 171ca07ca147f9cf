"""Short windows of the corpus that show every new piece, in the new tokens and in the old ones side by side."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from lingraft.vocab.grown import Grown

WIDTH = 128  # new tokens in a window
LOOK = 400_000  # characters of the sample that windows are drawn from
SEEN = 6  # windows that show a piece before others have their turn


@dataclass(frozen=True)
class Window:
    """The same text twice: ``new`` and ``old`` ids, and for each new id the place of its last old one."""

    new: tuple[int, ...]
    old: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """The windows, and by how much each piece is over-represented in them (1: as often as in the corpus)."""

    windows: tuple[Window, ...]
    excess: tuple[float, ...]


def draw(grown: Grown, old_tokens: int, first: int | None) -> Drawn:
    """Draw windows of ``old_tokens`` in all: those that show pieces not yet seen often enough, then any.

    ``first`` is the id that begins every window (the model's BOS; None: the text's own first token).
    """
    tokenizer = tokenizers.Tokenizer.from_file(str(grown.tokenizer / "tokenizer.json"))
    parts = list(_parts(tokenizer, grown))
    random.Random(grown.seed).shuffle(parts)
    corpus = Counter(i for part in parts for i in part if i >= grown.old_size)
    seen: Counter[int] = Counter()
    taken: list[tuple[int, ...]] = []
    rest: list[tuple[int, ...]] = []
    size = 0
    for part in parts:
        fresh = {i for i in part if i >= grown.old_size and seen[i] < SEEN}
        (taken if fresh else rest).append(part)
        if fresh:
            seen.update(i for i in part if i >= grown.old_size)
            size += len(part)
        if size >= old_tokens:
            break
    while rest and size < old_tokens:
        size += len(rest[-1])
        taken.append(rest.pop())
    return Drawn(tuple(_window(part, grown, first) for part in taken), _excess(taken, parts, corpus, grown))


def _parts(tokenizer: tokenizers.Tokenizer, grown: Grown) -> list[tuple[int, ...]]:
    left = LOOK
    found: list[tuple[int, ...]] = []
    for text in grown.texts:
        ids = tokenizer.encode(text[:left], add_special_tokens=False).ids
        found += [tuple(ids[at : at + WIDTH]) for at in range(0, len(ids), WIDTH)]
        left -= len(text)
        if left <= 0:
            break
    return [part for part in found if len(part) > 1]


def _window(part: Sequence[int], grown: Grown, first: int | None) -> Window:
    new: list[int] = [] if first is None else [first]
    old, last = list(new), [0] * len(new)
    for i in part:
        old += grown.old_pieces[i - grown.old_size] if i >= grown.old_size else (i,)
        new.append(i)
        last.append(len(old) - 1)
    return Window(tuple(new), tuple(old), tuple(last))


def _excess(
    taken: Sequence[Sequence[int]], parts: Sequence[Sequence[int]], corpus: Counter[int], grown: Grown
) -> tuple[float, ...]:
    share = sum(map(len, taken)) / max(1, sum(map(len, parts)))
    here = Counter(i for part in taken for i in part if i >= grown.old_size)
    return tuple(
        here[i] / (corpus[i] * share) if here[i] else 1.0 for i in range(grown.old_size, grown.old_size + grown.count)
    )
