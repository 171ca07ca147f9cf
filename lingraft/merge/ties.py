"""TIES: trim, elect a sign, and average what agrees (Yadav et al. 2023, section 3, algorithm 1).

Of every model's difference to the base the largest ``density`` share by magnitude is kept, tensor by tensor. Each
place elects the sign of the weighted sum; the mean runs over the models that agree with it. The threshold is exact,
though the tensor is never whole in memory: magnitudes of float32 sort like their bit patterns, so that two counts, of
the upper and of the lower half of the bits, find the k-th largest. Values equal to it are all kept, as in the
authors' code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch.nn.functional import hardshrink

from lingraft.weights.tensors import Entry, Tensor, row_blocks

BLOCK = 1 << 20  # bytes: a few of them fit into a cache
HALF = 16

Halves = np.ndarray[Any, np.dtype[np.uint16]]


class Thresholds:
    """The thresholds of several models' differences in one tensor: found when first asked for, each by one thread.

    Blocks of a tensor are computed by several threads at once. The first to come finds the first model's threshold,
    the second, meanwhile, the second model's.
    """

    def __init__(self, deltas: Sequence[Entry], density: float) -> None:
        self.deltas, self.density = deltas, density
        self.found: dict[int, float] = {}
        self.locks = [threading.Lock() for _ in deltas]

    def get(self) -> list[float]:
        """Return one threshold a model."""
        for wait in (False, True):
            for i, delta in enumerate(self.deltas):
                if i not in self.found and self.locks[i].acquire(blocking=wait):
                    try:
                        if i not in self.found:
                            self.found[i] = threshold(delta, self.density)
                    finally:
                        self.locks[i].release()
        return [self.found[i] for i in range(len(self.deltas))]


def threshold(entry: Entry, density: float, block: int = BLOCK) -> float:
    """Return the magnitude of the k-th largest value of a tensor, k = density × its size (at least one)."""
    size = prod(entry.shape)
    rank = max(int(density * size), 1)
    if rank >= size:
        return 0.0
    high, above = _kth(_count(entry, block, lambda halves: halves[:, 1]), rank)
    low, _ = _kth(_count(entry, block, lambda halves: halves[halves[:, 1] == high, 0]), rank - above)
    return float(np.uint32((high << HALF) | low).view(np.float32))


def _count(entry: Entry, block: int, part: Callable[[Halves], Halves]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count a half of the bits of every magnitude; ``part`` is given (lower, upper) halves in rows."""
    counts = np.zeros(1 << HALF, dtype=np.int64)
    for start, stop in row_blocks(entry.shape, 4, block):
        bits = entry.read(start, stop).float().abs().contiguous().numpy().astype("<f4", copy=False)
        counts += np.bincount(part(bits.reshape(-1).view("<u2").reshape(-1, 2)), minlength=1 << HALF)
    return counts


def _kth(counts: np.ndarray[Any, np.dtype[np.int64]], rank: int) -> tuple[int, int]:
    """Return the bin that holds the rank-th largest value, and how many values lie in higher bins."""
    from_above = counts[::-1].cumsum()
    place = int(np.searchsorted(from_above, rank))
    number = len(counts) - 1 - place
    return number, int(from_above[place] - counts[number])


def combine(deltas: Sequence[Tensor], weights: Sequence[float], thresholds: Sequence[float]) -> Tensor:
    """Return the merged difference of one block of rows (float32)."""
    weighted: list[Tensor] = []
    for delta, weight, least in zip(deltas, weights, thresholds, strict=True):
        below = float(np.nextafter(np.float32(least), np.float32(0)))  # hardshrink keeps what lies above its limit
        weighted.append(hardshrink(delta, below).mul_(weight))
    sign = sum(weighted[1:], start=weighted[0]).sign()
    total, share = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(weighted, weights, strict=True):
        along = delta.mul_(sign)
        share.add_(along > 0, alpha=weight)
        total.add_(along.clamp_(min=0))
    return total.mul_(sign).div_(share.masked_fill_(share == 0, 1))
