"""Learn Chinese pieces for a byte-level BPE tokenizer: more merges, on top of the ones it has.

Byte-pair encoding (Sennrich, Haddow & Birch 2016, section 3.2) simply goes on where the base tokenizer stopped: the
corpus is encoded with the old merges, and the most frequent pair of neighbouring tokens becomes one token, again
and again. A pair qualifies only if the result is Han characters and nothing else, and, where it joins whole characters,
a word rather than two that happen to meet: pointwise mutual information decides (Sproat & Shih 1990, "A statistical
method for finding word boundaries in Chinese text", section 3), so that 的人 is no piece though it is frequent.

This suits a base whose Han characters are whole tokens already (Qwen, Llama-3): a merge that ranks after all old ones
acts only where the old ones leave off, and every runtime reads it alike. Where characters are broken into bytes,
every step towards a word is a token of its own, most of them single characters and halves of characters: there
`learn_words` is the better way.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log2

from tokenizers import Tokenizer

from lingraft.vocab.han import is_han

LONGEST = 6  # characters in a piece
COHESION = 3.0  # bits of pointwise mutual information that two parts of a word share at least
Pair = tuple[str, str]


@dataclass(frozen=True)
class Merge:
    """One new merge: the tokens it joins (in the byte alphabet), and how often it applied while learning."""

    left: str
    right: str
    count: int

    @property
    def token(self) -> str:
        return self.left + self.right

    @property
    def text(self) -> str:
        """The piece as a reader sees it."""
        return to_bytes(self.token).decode()


def byte_alphabet() -> dict[int, str]:
    """Return the character that stands for each byte in a byte-level vocabulary (Radford et al. 2019, GPT-2).

    Printable Latin-1 bytes stand for themselves, the rest for code points from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(rest)}}


_BYTE = {char: byte for byte, char in byte_alphabet().items()}


def to_bytes(token: str) -> bytes:
    """Return the bytes of a token in the byte alphabet; characters outside it (special tokens) as UTF-8."""
    try:
        return bytes(_BYTE[char] for char in token)
    except KeyError:
        return token.encode()


def learn(runs: Mapping[str, int], tokenizer: Tokenizer, size: int, least: int = 2) -> list[Merge]:
    """Return at most ``size`` merges in their order, each of a pair that occurs at least ``least`` times.

    ``runs`` counts the corpus' runs of Han characters. The result is the same for the same counts and tokenizer.
    """
    order = sorted(runs)
    encoded = tokenizer.encode_batch(order, add_special_tokens=False)
    state = _State(
        [(item.tokens, runs[run]) for run, item in zip(order, encoded, strict=True)], set(tokenizer.get_vocab())
    )
    merges: list[Merge] = []
    while len(merges) < size:
        found = state.best(least)
        if found is None:
            break
        merges.append(Merge(*found, count=state.pairs[found]))
        state.apply(found)
    return merges


class _State:
    """The corpus while it is being merged: token sequences, counts of pairs, and where each pair occurs."""

    def __init__(self, sequences: Iterable[tuple[Sequence[str], int]], known: set[str]) -> None:
        self.words: list[list[str]] = []
        self.counts: list[int] = []
        self.known = known
        self.pairs: Counter[Pair] = Counter()
        self.units: Counter[str] = Counter()
        self.where: dict[Pair, set[int]] = defaultdict(set)
        self.judged: dict[Pair, bool] = {}
        self.refused: dict[str, set[Pair]] = defaultdict(set)  # by either part: judged anew when its count falls
        for tokens, count in sequences:
            self.words.append(list(tokens))
            self.counts.append(count)
            for token in tokens:
                self.units[token] += count
            self._count(len(self.words) - 1, +1)
        self.total = sum(self.units.values())
        self.heap = [(-count, pair) for pair, count in self.pairs.items() if self._allowed(pair)]
        heapq.heapify(self.heap)

    def best(self, least: int) -> Pair | None:
        """Return the most frequent pair that may be merged (ties in code point order), or None."""
        while self.heap:
            negative, pair = heapq.heappop(self.heap)
            count = self.pairs[pair]
            if count < least:
                continue
            if count != -negative:  # stale: its count fell since it was queued
                heapq.heappush(self.heap, (-count, pair))
            elif self._coheres(pair):
                return pair
            else:
                self.refused[pair[0]].add(pair)
                self.refused[pair[1]].add(pair)
        return None

    def apply(self, pair: Pair) -> None:
        """Merge a pair wherever it occurs and queue the pairs that this makes."""
        token = pair[0] + pair[1]
        self.known.add(token)
        changed: set[Pair] = set()
        for index in list(self.where[pair]):
            self._count(index, -1)
            before = len(self.words[index])
            self.words[index] = _merged(self.words[index], pair, token)
            times = (before - len(self.words[index])) * self.counts[index]
            self.units.update({token: times, pair[0]: -times})
            self.units[pair[1]] -= times
            changed |= self._count(index, +1)
        fresh = {new for new in changed if token in new}
        for new in sorted(fresh | self.refused.pop(pair[0], set()) | self.refused.pop(pair[1], set())):
            if self._allowed(new):
                heapq.heappush(self.heap, (-self.pairs[new], new))

    def _count(self, index: int, sign: int) -> set[Pair]:
        tokens, count = self.words[index], self.counts[index]
        seen = set(pairwise(tokens))
        for pair in pairwise(tokens):
            self.pairs[pair] += sign * count
        for pair in seen:
            (self.where[pair].add if sign > 0 else self.where[pair].discard)(index)
        return seen

    def _allowed(self, pair: Pair) -> bool:
        if pair not in self.judged:
            token = pair[0] + pair[1]
            self.judged[pair] = token not in self.known and _is_good(to_bytes(token))
        return self.judged[pair]

    def _coheres(self, pair: Pair) -> bool:
        if not (is_han(_text(pair[0])) and is_han(_text(pair[1]))):
            return True  # bytes of one character
        together = self.pairs[pair] * self.total / max(1, self.units[pair[0]] * self.units[pair[1]])
        return together > 0 and log2(together) >= COHESION


def _is_good(raw: bytes) -> bool:
    text = raw.decode("utf-8", "replace")
    return is_han(text) and len(text) <= LONGEST


def _text(token: str) -> str:
    return to_bytes(token).decode("utf-8", "replace")


def _merged(tokens: Sequence[str], pair: Pair, token: str) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(tokens):
        if tokens[at] == pair[0] and at + 1 < len(tokens) and tokens[at + 1] == pair[1]:
            out.append(token)
            at += 2
        else:
            out.append(tokens[at])
            at += 1
    return out
