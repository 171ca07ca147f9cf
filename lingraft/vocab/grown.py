"""A vocabulary that has grown: what a start may look at to give the new rows their first values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Rows:
    """First values of the new rows, float32 [new pieces, width]; ``head`` is None where it is tied."""

    embedding: Tensor
    head: Tensor | None = None


@dataclass(frozen=True)
class Grown:
    """The base's matrices and tokenizer beside the grown tokenizer.

    ``embedding`` and ``head`` are [old rows, width] (``head`` None where tied), ``old_pieces[i]`` the old ids that
    new id ``old_size + i`` replaces, ``texts`` a sample of the corpus.
    """

    base: Path
    tokenizer: Path
    embedding: Tensor
    head: Tensor | None
    old_size: int
    old_pieces: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    seed: int = 42

    @property
    def count(self) -> int:
        return len(self.old_pieces)

    def rows(self, make: Callable[[Tensor], Tensor]) -> Rows:
        """Make rows out of each old matrix in the same way; only rows of real tokens are shown."""
        head = None if self.head is None else make(self.head[: self.old_size])
        return Rows(make(self.embedding[: self.old_size]), head)
