"""TIES: trim, elect a sign, and average what agrees (Yadav et al. 2023, section 3, algorithm 1).

Of every model's difference to the base the largest ``density`` share by magnitude is kept, tensor by tensor. Each
place elects the sign of the weighted sum; the mean runs over the models that agree with it. The threshold is exact,
though the tensor is never whole in memory: magnitudes of float32 sort like their bit patterns, so that two counts, of
the upper and of the lower half of the bits, find the k-th largest. Values equal to it are all kept, as in the
authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lingraft.weights.tensors import Entry, Tensor, row_blocks

BLOCK = 32 << 20
HALF = 16


def threshold(entry: Entry, density: float, block: int = BLOCK) -> float:
    """Return the magnitude of the k-th largest value of a tensor, k = density × its size (at least one)."""
    size = 1
    for dim in entry.shape:
        size *= dim
    rank = max(int(density * size), 1)
    if rank >= size:
        return 0.0
    upper = _count(entry, block, lambda bits: bits >> HALF)
    high, above = _kth(upper, rank)
    lower = _count(entry, block, lambda bits: bits[(bits >> HALF) == high] & ((1 << HALF) - 1))
    low, _ = _kth(lower, rank - above)
    return float(torch.tensor((high << HALF) | low, dtype=torch.int32).view(torch.float32))


def _count(entry: Entry, block: int, part: object) -> Tensor:
    counts = torch.zeros(1 << HALF, dtype=torch.int64)
    for start, stop in row_blocks(entry.shape, 4, block):
        bits = entry.read(start, stop).float().abs().contiguous().view(torch.int32).reshape(-1)
        counts += torch.bincount(part(bits).long(), minlength=1 << HALF)  # type: ignore[operator]
    return counts


def _kth(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the bin that holds the rank-th largest value, and how many values lie in higher bins."""
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.argmax((from_above >= rank).int()))
    return len(counts) - 1 - place, int(from_above[place] - counts[len(counts) - 1 - place])


def combine(deltas: Sequence[Tensor], weights: Sequence[float], thresholds: Sequence[float]) -> Tensor:
    """Return the merged difference of one block of rows (float32)."""
    weighted = torch.stack([torch.where(d.abs() >= least, d, 0) * w
                            for d, w, least in zip(deltas, weights, thresholds, strict=True)])  # fmt: skip
    sign = torch.sign(weighted.sum(0))
    agrees = (torch.sign(weighted) == sign) & (weighted != 0)
    share = (agrees * torch.tensor(list(weights)).view(-1, *[1] * sign.ndim)).sum(0)
    return (weighted * agrees).sum(0) / torch.where(share == 0, 1.0, share)
