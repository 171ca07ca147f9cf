"""Every new row is a few old rows added up, with the coefficients that rebuild it in another space.

Orthogonal matching pursuit as a tokenizer transplant (Goddard & Fernandes Neto 2025, "Training-free tokenizer
transplantation via orthogonal matching pursuit", arXiv:2506.06607): a donor's row of the new piece is approximated by
few rows of tokens that donor and base share, and the same coefficients add up the base's rows. The paper's donor is
a model that has the piece; here it is the space counted from the user's corpus (`meanings`), so a piece it knows too
little of begins at the mean of its old pieces.
"""

from __future__ import annotations

import torch

from lingraft.vocab.grown import Grown, Rows
from lingraft.vocab.meanings import read
from lingraft.vocab.starts import pieces

NAME = "omp"
TERMS = 16  # anchors a piece
Tensor = torch.Tensor


def start(grown: Grown) -> Rows:
    """Return sums of ``TERMS`` anchors' rows, per matrix."""
    usual, found = pieces.start(grown), read(grown)
    if not len(found.pieces) or not len(found.anchors):
        return usual
    chosen, weight = pursue(found.pieces, found.anchors, TERMS)
    known = torch.tensor(found.known, dtype=torch.long)

    def mix(old: Tensor, first: Tensor) -> Tensor:
        rows = old[found.anchor_ids[chosen]].float()  # [pieces, terms, width]
        return first.index_copy(0, known, (weight[:, None] @ rows)[:, 0])

    head = None if grown.head is None or usual.head is None else mix(grown.head, usual.head)
    return Rows(mix(grown.embedding, usual.embedding), head)


def pursue(targets: Tensor, atoms: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Return, for each target, the atoms chosen greedily and their least-squares coefficients, both [targets, terms].

    ``targets`` [n, width] and ``atoms`` [m, width] are unit rows. Source: Pati, Rezaiifar & Krishnaprasad 1993.
    """
    terms = min(terms, *atoms.shape)
    chosen = torch.empty(len(targets), 0, dtype=torch.long)
    weight = torch.empty(len(targets), 0)
    left = targets
    for _ in range(terms):
        fit = (left @ atoms.T).abs().scatter(1, chosen, -1.0)  # an atom is taken once
        chosen = torch.cat([chosen, fit.argmax(1, keepdim=True)], 1)
        basis = atoms[chosen].transpose(1, 2)  # [targets, width, taken]
        weight = torch.linalg.lstsq(basis, targets[..., None]).solution[..., 0]
        left = targets - (basis @ weight[..., None])[..., 0]
    return chosen, weight
