"""Every new row is the mean of the rows of the old pieces that it replaces.

The usual start since Chinese-LLaMA (Cui, Yang & Yao 2023, arXiv:2304.08177, section 2.1).
"""

from __future__ import annotations

import torch

from lingraft.vocab.grown import Grown, Rows

NAME = "pieces"


def start(grown: Grown) -> Rows:
    """Return the mean of the old pieces' rows, per matrix."""
    return grown.rows(lambda old: torch.stack([old[list(ids)].float().mean(0) for ids in grown.old_pieces]))
