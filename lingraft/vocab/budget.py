"""Choose how many pieces a training budget can pay for: `size: auto`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lingraft.vocab.learn_bpe import Merge

NEEDED = 12  # times that a new piece should be met in training


@dataclass(frozen=True)
class Choice:
    """A number of new pieces and the reason for it, in plain words."""

    size: int
    why: str


def choose(merges: Sequence[Merge], corpus_tokens: int, budget_tokens: int | None) -> Choice:
    """Return how many of the merges (most frequent first) occur often enough within the budget."""
    budget = corpus_tokens if budget_tokens is None else budget_tokens
    share = budget / max(1, corpus_tokens)
    size = sum(1 for merge in merges if merge.count * share >= NEEDED)
    last = merges[size - 1] if size else None
    least = "" if last is None else f" The rarest of them, {last.text}, is expected {last.count * share:.0f} times."
    more = _larger(merges, size, share, budget)
    return Choice(size, f"{size} new pieces: training sees about {budget:,} tokens, and a new piece should be met at "
                  f"least {NEEDED} times to be learnt.{least}{more}")  # fmt: skip


def _larger(merges: Sequence[Merge], size: int, share: float, budget: int) -> str:
    wanted = min(len(merges), max(2 * size, 1000))
    if wanted <= size or not merges[wanted - 1].count * share:
        return ""
    tokens = budget * NEEDED / (merges[wanted - 1].count * share)
    return f" {wanted:,} pieces would need about {tokens:,.0f} tokens of training."
