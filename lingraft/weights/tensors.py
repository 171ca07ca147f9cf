"""A checkpoint is a lazy mapping from Hugging Face names to tensors; a plain dict is one too.

A value is read when it is asked for and never kept. Readers hand out `Lazy` mappings whose entries know their
dtype and shape without reading anything, and can give a block of rows without reading the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

Tensor = torch.Tensor
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """One tensor on disk: its header, and how to read it.

    ``read(start, stop)`` returns the rows ``start:stop`` of the first dimension (everything for ``0, None``;
    scalars ignore both). It may return a read-only view of a mapped file: never write into it.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[int, int | None], Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Lazy(Mapping[str, Tensor]):
    """A checkpoint whose values are read when asked for and never kept."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Tensor:
        return self.entries[name].read(0, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries


@dataclass(frozen=True)
class Checkpoint:
    """What a path holds: tensors under Hugging Face names, config.json's fields, and the files that go with them.

    ``config`` is empty where nothing tells it. ``side_files`` are copied byte for byte beside a written model:
    tokenizer, chat template, generation config. A container that holds them inside itself (GGUF, llama2.c) gives
    them by ``made``, which builds them when asked: file name to content. ``unsaid`` names the fields of ``config``
    that the container does not tell and its reader filled in as usual.
    """

    path: Path
    format: str
    tensors: Weights
    config: Mapping[str, Any] = field(default_factory=dict)
    side_files: tuple[Path, ...] = ()
    made: Callable[[], Mapping[str, bytes]] = dict
    unsaid: frozenset[str] = frozenset()

    def side_content(self) -> dict[str, bytes]:
        """Return every side file's bytes by name, whether it lies on disk or is made from the container."""
        return {**self.made(), **{file.name: file.read_bytes() for file in self.side_files}}


def header(weights: Weights, name: str) -> Entry:
    """Return dtype, shape and reader of one tensor; of a lazy checkpoint without reading it."""
    entries = getattr(weights, "entries", None)
    if entries is not None:
        return entries[name]  # type: ignore[no-any-return]
    tensor = weights[name]
    return Entry(tensor.dtype, tuple(tensor.shape), lambda start, stop: _rows(tensor, start, stop))


def row_blocks(shape: tuple[int, ...], itemsize: int, block_bytes: int) -> list[tuple[int, int | None]]:
    """Cut the first dimension into (start, stop) blocks of about ``block_bytes`` (at least one row each).

    Blocks are whole multiples of 64 rows unless rows are very long, and no remainder is smaller: a matrix product
    by such blocks gives the same bits as in one piece, whereas BLAS takes other paths for a few odd rows.
    """
    if not shape or prod(shape) * itemsize <= block_bytes:
        return [(0, None)]
    row_bytes = max(1, prod(shape[1:]) * itemsize)
    rows = max(1, block_bytes // row_bytes)
    rows = rows // 64 * 64 or (64 if 64 * row_bytes <= 8 * block_bytes else rows)
    starts = list(range(0, shape[0], rows))
    if len(starts) > 1 and shape[0] - starts[-1] < min(64, rows):
        starts.pop()
    return [(start, stop) for start, stop in zip(starts, [*starts[1:], shape[0]], strict=True)]


def _rows(tensor: Tensor, start: int, stop: int | None) -> Tensor:
    return tensor if tensor.ndim == 0 or (start == 0 and stop is None) else tensor[start:stop]
