"""Every new row is a sparse weighted mean of old rows: those whose tokens keep the most similar company.

FOCUS (Dobler & de Melo 2023, "FOCUS: Effective embedding initialization for monolingual specialization of
multilingual models", arXiv:2305.14481, section 3): similarities to tokens that both vocabularies have, in an
auxiliary space of the target language, turned into weights by sparsemax. The paper's space is fastText on gigabytes
of text; here it is counted from the user's own corpus (`meanings`), so a piece it knows too little of begins at the
mean of its old pieces.
"""

from __future__ import annotations

import torch

from lingraft.vocab.grown import Grown, Rows
from lingraft.vocab.meanings import read
from lingraft.vocab.starts import pieces

NAME = "focus"
Tensor = torch.Tensor


def start(grown: Grown) -> Rows:
    """Return sparsemax-weighted means of the anchors' rows, per matrix."""
    usual, found = pieces.start(grown), read(grown)
    if not len(found.pieces) or not len(found.anchors):
        return usual
    weights = sparsemax(found.pieces @ found.anchors.T)
    known = torch.tensor(found.known, dtype=torch.long)

    def mix(old: Tensor, first: Tensor) -> Tensor:
        return first.index_copy(0, known, weights @ old[found.anchor_ids].float())

    head = None if grown.head is None or usual.head is None else mix(grown.head, usual.head)
    return Rows(mix(grown.embedding, usual.embedding), head)


def sparsemax(scores: Tensor) -> Tensor:
    """Project each row of ``scores`` onto the simplex (Martins & Astudillo 2016, arXiv:1602.02068, algorithm 1)."""
    ranked = scores.sort(dim=1, descending=True).values
    total = ranked.cumsum(1) - 1
    count = torch.arange(1, scores.shape[1] + 1)
    kept = (ranked * count > total).sum(1, keepdim=True)
    return (scores - total.gather(1, kept - 1) / kept).clamp(min=0)
