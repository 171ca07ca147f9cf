"""Pack texts into blocks of at most ``length`` tokens without padding.

Best fit decreasing: longest first, each into the fullest block that still has room, in time linear in the
number of texts. Positions restart at each text; the loop keeps the texts of a block apart in attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lingraft.data.store import Ints, Longs, Segments

_WINDOW = 1 << 16  # segments packed together: more would cost memory and save nothing


@dataclass(frozen=True)
class Blocks:
    """Which segments lie in which block: block i holds ``members[edges[i]:edges[i + 1]]``."""

    members: Longs
    edges: Longs

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: int) -> list[int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.members[self.edges[index] : self.edges[index + 1]].tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Packed(Dataset[dict[str, list[int]]]):
    """Blocks of whole texts back to back.

    Item i is ``{"input_ids", "labels", "position_ids"}``, lists of equal length ≤ ``length``; positions
    restart at 0 with each text, whose first label is never supervised.
    """

    segments: Segments
    blocks: Blocks
    stats: dict[str, Any]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        for number in self.blocks[index]:
            ids += self.segments.ids(number).tolist()
            labels += self.segments.labels(number).tolist()
            positions += range(len(ids) - len(positions))
        return {"input_ids": ids, "labels": labels, "position_ids": positions}


def pack(lengths: Ints, chosen: Longs, capacity: int) -> Blocks:
    """Put the chosen segments (one may be chosen more than once) into blocks of ``capacity`` tokens."""
    members: list[Longs] = []
    sizes: list[Longs] = []
    for start in range(0, len(chosen), _WINDOW):
        window = chosen[start : start + _WINDOW]
        bins = best_fit(lengths[window].tolist(), capacity)
        members.append(window[np.array([i for one in bins for i in one], dtype=np.int64)])
        sizes.append(np.array([len(one) for one in bins], dtype=np.int64))
    none = np.zeros(0, dtype=np.int64)
    edges = np.concatenate([[0], np.cumsum(np.concatenate([none, *sizes]))]).astype(np.int64)
    return Blocks(np.concatenate([none, *members]), edges)


def best_fit(lengths: Sequence[int], capacity: int) -> tuple[tuple[int, ...], ...]:
    """Put items into as few bins of ``capacity`` as best fit decreasing finds; return their item numbers."""
    room: list[list[list[int]]] = [[] for _ in range(capacity + 1)]  # room[k]: the bins with k left
    bins: list[list[int]] = []
    open_rooms = 0  # bit k is set where room[k] has a bin
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[item]
        fitting = open_rooms >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            chosen = room[left].pop()
            if not room[left]:
                open_rooms &= ~(1 << left)
        else:
            chosen, left = [], capacity
            bins.append(chosen)
        chosen.append(item)
        if left > size:
            room[left - size].append(chosen)
            open_rooms |= 1 << (left - size)
    return tuple(tuple(sorted(b)) for b in sorted(bins, key=min))
