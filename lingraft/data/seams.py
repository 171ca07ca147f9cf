"""Cut long texts where a tokenizer does not notice, so that all cores work and a text of any size fits into memory.

A tokenizer encodes one text on one core. Cut behind a newline, the parts can go to all of them, if their tokens laid
end to end are those of the whole. Tokenizers differ in where that holds (some swallow newlines into the piece before,
some put a space before every text), so each seam is tried first, on the text around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

Encode = Callable[[Sequence[str]], list[list[int]]]
_CHUNK = 16_384  # characters from which on a text is cut
_AROUND = 96  # characters either side of a seam that it is tried on
_WAIT = 500_000  # characters after which a text without any seam is cut all the same
_TRIES = 3  # newlines tried for one seam


@dataclass(frozen=True)
class Part:
    """A part of a text; the tokens of ``led`` (the newline before it, or nothing) are dropped from its own."""

    text: str
    led: bool = False


@dataclass(frozen=True)
class Cutter:
    """Cut texts at seams that ``encode`` does not notice."""

    encode: Encode

    @cached_property
    def lead(self) -> int:
        """How many tokens a newline at the start of a text takes."""
        return len(self.encode(["\n"])[0])

    def cut(self, blocks: Iterable[str]) -> Iterator[Part]:
        """Yield the parts of one text that comes in blocks; a short one is a single part."""
        rest, led = "", False
        for block in blocks:
            rest += block
            seams = self._seams(rest)
            for start, end in pairwise([0, *seams]):
                yield Part(rest[start:end], led)
                led = True
            rest = rest[seams[-1] :] if seams else rest
            if len(rest) > _WAIT:
                yield Part(rest, led)
                rest, led = "", False
        if rest:
            yield Part(rest, led)

    def tokens(self, parts: Sequence[Part]) -> list[list[int]]:
        """Return the tokens of each part; end to end they are those of the text."""
        found = self.encode(["\n" + p.text if p.led else p.text for p in parts])
        return [ids[self.lead :] if p.led else ids for p, ids in zip(parts, found, strict=True)]

    def _seams(self, text: str) -> list[int]:
        """Return where ``text`` may be cut, about every _CHUNK characters and never near its end."""
        wanted = list(range(_CHUNK, len(text) - _CHUNK // 2, _CHUNK))
        tried = [list(_newlines(text, at)) for at in wanted]
        flat = [at for group in tried for at in group]
        good = iter(self._unnoticed(text, flat))
        chosen = [[at for at in group if next(good)] for group in tried]
        return list(dict.fromkeys(group[0] for group in chosen if group))

    def _unnoticed(self, text: str, seams: Sequence[int]) -> list[bool]:
        if not seams:
            return []
        around = [(text[max(0, at - _AROUND) : at], text[at : at + _AROUND]) for at in seams]
        whole = self.encode([a + b for a, b in around])
        left = self.encode([a for a, _ in around])
        right = self.tokens([Part(b, True) for _, b in around])
        return [w == a + b for w, a, b in zip(whole, left, right, strict=True)]


def _newlines(text: str, at: int) -> Iterator[int]:
    """Yield the ends of the first lines after ``at``, within one chunk."""
    stop = min(at + _CHUNK, len(text) - 1)
    for _ in range(_TRIES):
        at = text.find("\n", at, stop) + 1
        if not at:
            return
        yield at
