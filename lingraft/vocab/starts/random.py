"""Every new row is drawn from the normal distribution with the old rows' moments, column by column.

What most training scripts do by resizing; kept as the control that every other start must beat.
"""

from __future__ import annotations

import torch

from lingraft.vocab.grown import Grown, Rows

NAME = "random"


def start(grown: Grown) -> Rows:
    """Return rows drawn with ``grown.seed``."""
    generator = torch.Generator().manual_seed(grown.seed)

    def draw(old: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(grown.count, old.shape[1], generator=generator)
        return noise * old.float().std(0) + old.float().mean(0)

    return grown.rows(draw)
