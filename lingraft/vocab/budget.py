"""Choose how many pieces a training budget can pay for: `size: auto`.

A new row is learnt from the places where its piece occurs. Pieces that training will meet a few times only are better
left as the old pieces that the model knows, so the budget, in tokens, decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingraft.vocab.learn import Pieces

NEEDED = 6  # times that a new piece should be met in training, once its row has a good start


@dataclass(frozen=True)
class Choice:
    """A number of new pieces and the reason for it, in plain words."""

    size: int
    why: str


def choose(pieces: Pieces, corpus_tokens: int, budget_tokens: int | None,
           share: float = 1.0) -> tuple[Pieces, Choice]:  # fmt: skip
    """Return the pieces that occur often enough within the budget, in their order, and why so many.

    ``corpus_tokens`` is the whole corpus in old tokens, ``budget_tokens`` what training will see of it (None: all of
    it once), ``share`` the part of the corpus that the pieces were counted in.
    """
    budget = corpus_tokens if budget_tokens is None else budget_tokens
    rate = budget / max(1.0, corpus_tokens * share)  # times in training per time in the sample
    kept = [piece for piece in pieces if piece.count * rate >= NEEDED]
    where = "one pass over the corpus" if budget_tokens is None else "the training budget"
    text = [f"{len(kept):,} new pieces: {where} is about {budget:,} tokens, and a piece pays when training meets it "
            f"at least {NEEDED} times."]  # fmt: skip
    if kept:
        rarest = min(kept, key=lambda piece: piece.count)
        text.append(f"The rarest of them, {rarest.text}, is expected {rarest.count * rate:.0f} times.")
    return kept, Choice(len(kept), " ".join([*text, *_larger(pieces, len(kept), rate, budget)]))


def _larger(pieces: Pieces, size: int, rate: float, budget: int) -> list[str]:
    """Say what the next larger vocabulary of a round number would need."""
    wanted = next((n for n in (100, 300, 1_000, 3_000, 10_000) if n > 1.5 * size and n <= len(pieces)), None)
    if wanted is None or not rate:
        return []
    least = sorted((piece.count for piece in pieces), reverse=True)[wanted - 1]
    tokens = float(f"{budget * NEEDED / (least * rate):.2g}")
    return [f"{wanted:,} pieces would need about {tokens:,.0f} tokens of training."]
