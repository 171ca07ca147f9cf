"""Choose how many pieces a training budget can pay for: `size: auto`.

A new row is learnt from the places where its piece occurs, and a model that reads one token in place of four has less
room to think. Measured with the quickstart's model and text: after 41,000 training tokens held-out Chinese ended at
5.682 bits per character without new pieces, 0.9 % higher with 16 words, 3.2 % with 160, and after 50,000 tokens 7.7 %
higher with 2,000 (docs/vocabulary.md). So a few words are taken at any budget (`FEW`), for shorter text at a price
below one percent, and more only where training meets each of them often.

Words come cheaper than characters: the old model says the rest of a word almost surely once it has begun; the choice
among thousands of characters, which it made byte by byte, has to be learnt anew (116 distilled words started at
+3.6 % bits per character, 17 words and the 70 most frequent characters at +12.7 %). Hence two thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingraft.vocab.learn import Pieces

FEW = 8  # words that any budget gets: tokens per character fall, and the price stays below one percent
NEEDED = 60  # times that training should meet any other new word
NEEDED_CHARACTER = 1_800  # and a single character
MOST = 20_000


@dataclass(frozen=True)
class Choice:
    """A number of new pieces and the reason for it, in plain words."""

    size: int
    why: str


def most(budget_tokens: int) -> int:
    """Return how many pieces are worth looking at: were there more, they could not all be met often enough."""
    met = budget_tokens // (5 * NEEDED)  # a word takes some five old tokens with what is around it
    return min(MOST, max(2 * FEW, met))


def choose(pieces: Pieces, corpus_tokens: int, budget_tokens: int | None, share: float = 1.0) -> tuple[Pieces, Choice]:
    """Return the pieces that occur often enough within the budget, in their order, and why so many.

    ``corpus_tokens`` is the whole corpus in old tokens, ``budget_tokens`` what training will see of it (None: all of
    it once), ``share`` the part of the corpus that the pieces were counted in.
    """
    budget = corpus_tokens if budget_tokens is None else budget_tokens
    rate = budget / max(1.0, corpus_tokens * share)  # times in training per time in the sample
    first = {piece.text for piece in [piece for piece in pieces if len(piece.text) > 1][:FEW]}
    kept = [piece for piece in pieces if piece.text in first or piece.count * rate >= needed(piece.text)]
    where = "one pass over the corpus" if budget_tokens is None else "the training budget"
    text = [
        f"{len(kept):,} new pieces: {where} is about {budget:,} tokens. The {FEW} most useful words are taken at "
        f"any budget: they cost less than one percent of bits per character in a short training and make text "
        f"shorter. More are taken when training meets each at least {NEEDED} times, a single character "
        f"{NEEDED_CHARACTER:,} times."
    ]
    if kept and rate:
        rarest = min(kept, key=lambda piece: piece.count / needed(piece.text))
        text.append(f"The rarest of them, {rarest.text}, is expected {rarest.count * rate:.0f} times.")
    return kept, Choice(len(kept), " ".join([*text, *_larger(pieces, len(kept), rate, budget)]))


def _larger(pieces: Pieces, size: int, rate: float, budget: int) -> list[str]:
    """Say what the next larger vocabulary of a round number would need."""
    wanted = next((n for n in (100, 300, 1_000, 3_000, 10_000) if n > 1.5 * size and n <= len(pieces)), None)
    if wanted is None or not rate:
        return []
    least = sorted((piece.count / needed(piece.text) for piece in pieces), reverse=True)[wanted - 1]
    tokens = float(f"{budget / (least * rate):.2g}")
    return [f"{wanted:,} pieces would need about {tokens:,.0f} tokens of training."]


def needed(text: str) -> int:
    """Return how often training should meet a piece before it pays."""
    return NEEDED_CHARACTER if len(text) == 1 else NEEDED
