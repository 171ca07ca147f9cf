"""Every new row is the mean of all old rows.

A new logit then never exceeds the old ones by much: Hewitt 2021, "Initializing new word embeddings for pretrained
language models", shows that the mean bounds the divergence from the old model. It tells nothing about the piece.
"""

from __future__ import annotations

import torch

from lingraft.vocab.grown import Grown, Rows

NAME = "mean"


def start(grown: Grown) -> Rows:
    """Return rows that are all the old rows' mean, per matrix."""
    return grown.rows(lambda old: old.float().mean(0).expand(grown.count, -1).clone())


def mean_of(old: torch.Tensor) -> torch.Tensor:
    """Return the mean row, in float32."""
    return old.float().mean(0)
