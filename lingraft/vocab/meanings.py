"""Vectors of what tokens keep company with: an auxiliary space in which new pieces and old tokens can be compared.

FOCUS and OMP both borrow from a space that knows the new pieces already (fastText, or another model's embedding).
Where only the user's corpus is at hand, it is counted: positive pointwise mutual information of tokens within a
window, and its leading singular vectors, which is what skip-gram vectors factorise (Levy & Goldberg 2014, "Neural
word embedding as implicit matrix factorization", sections 3 and 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tokenizers
import torch

from lingraft.vocab.grown import Grown

Tensor = torch.Tensor
LOOK = 2_000_000  # characters of the sample that are counted
ANCHORS = 6_000  # old tokens, the most frequent ones; new pieces are always in
WINDOW = 5  # tokens to each side
WIDTH = 128
LEAST = 3  # occurrences below which a token's company says nothing


@dataclass(frozen=True)
class Meanings:
    """Unit vectors [tokens, width] in the auxiliary space: ``anchors`` of old ids, ``pieces`` of new ones.

    ``known[i]`` is the number of the new piece that row i of ``pieces`` belongs to; rarer pieces have none.
    """

    anchor_ids: Tensor
    anchors: Tensor
    known: tuple[int, ...]
    pieces: Tensor


def read(grown: Grown) -> Meanings:
    """Count the corpus in new tokens and return the vectors of what is frequent enough."""
    tokenizer = tokenizers.Tokenizer.from_file(str(grown.tokenizer / "tokenizer.json"))
    encoded = list(_encoded(tokenizer, grown.texts))
    counts = Counter(i for ids in encoded for i in ids)
    frequent = [i for i, n in counts.most_common() if n >= LEAST]
    old = [i for i in frequent if i < grown.old_size][:ANCHORS]
    new = sorted(i for i in frequent if i >= grown.old_size)
    vectors = _vectors(encoded, [*old, *new], grown.seed)
    return Meanings(
        torch.tensor(old, dtype=torch.long),
        vectors[: len(old)],
        tuple(i - grown.old_size for i in new),
        vectors[len(old) :],
    )


def _encoded(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    left = LOOK
    for text in texts:
        yield tokenizer.encode(text[:left], add_special_tokens=False).ids
        left -= len(text)
        if left <= 0:
            return


def _vectors(encoded: Sequence[Sequence[int]], ids: Sequence[int], seed: int) -> Tensor:
    places = {i: place for place, i in enumerate(ids)}
    together = torch.zeros(len(ids), len(ids))
    for row in encoded:
        at = torch.tensor([places.get(i, -1) for i in row])
        for step in range(1, WINDOW + 1):
            left, right = at[:-step], at[step:]
            both = (left >= 0) & (right >= 0)
            weight = torch.full((int(both.sum()),), 1 / step)  # nearer neighbours count for more, as in GloVe
            together.index_put_((left[both], right[both]), weight, accumulate=True)
    together = together + together.T
    each = together.sum(1)
    shared = (together * each.sum() / (each[:, None] * each[None, :]).clamp(min=1e-9)).clamp(min=1.0).log()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the factorisation starts from random directions
        u, s, _ = torch.svd_lowrank(shared, min(WIDTH, len(ids)), niter=4)
    return torch.nn.functional.normalize(u * s.sqrt(), dim=1)
