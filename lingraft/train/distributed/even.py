"""The same number of batches for every process, with no text lost and none seen twice.

Blocks go round the processes in the order in which one process would see them. Where their number does not come out
even, the last processes get an empty block: one token, nothing supervised, no gradient. (accelerate would repeat the
first blocks of the epoch instead.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from lingraft.train.supervised import IGNORED

Item = dict[str, list[int]]
_EMPTY: Item = {"input_ids": [0], "labels": [IGNORED], "position_ids": [0]}


@dataclass(frozen=True)
class Even(Dataset[Item]):
    """A dataset of packed blocks, followed by empty ones up to a multiple of ``batch`` (all processes' together)."""

    blocks: Any
    batch: int

    @property
    def stats(self) -> dict[str, Any]:
        """Return what is known of the blocks."""
        stats: dict[str, Any] = self.blocks.stats
        return stats

    def __len__(self) -> int:
        return -(-len(self.blocks) // self.batch) * self.batch

    def __getitem__(self, index: int) -> Item:
        item: Item = self.blocks[index] if index < len(self.blocks) else _EMPTY
        return item


class Order(Sampler[int]):
    """An epoch's order: the one that accelerate's sampler takes in a single process, the empty blocks last."""

    def __init__(self, data: Even, seed: int) -> None:
        self.data = data
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, as the Trainer's loader does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        count = len(self.data.blocks)
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        yield from drawn.tolist()
        yield from range(count, len(self.data))
