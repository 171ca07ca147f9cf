"""Whether two tensors hold the same values, read in blocks; and whether one is a copy that passed another dtype."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lingraft.weights.tensors import Entry, Tensor, row_blocks

BLOCK = 8 << 20


def same(one: Entry, other: Entry) -> bool:
    """Tell whether two tensors of any dtype hold the same values."""
    return one.shape == other.shape and all(torch.equal(a.float(), b.float()) for a, b in _pairs(one, other))


def copy_of(base: Entry, copy: Entry) -> bool:
    """Tell whether ``copy`` is ``base`` (its first rows), as it was loaded for training.

    Training may have loaded the base in fp16 or bf16 and saved the copy in any dtype; nothing else may differ, not
    by one bit. A copy with more rows than the base is compared on the rows that both have.
    """
    if base.shape[1:] != copy.shape[1:]:
        return False
    ways = dict.fromkeys((base.dtype, copy.dtype, torch.bfloat16, torch.float16))
    return any(all(torch.equal(a.to(way).to(b.dtype), b) for a, b in _pairs(base, copy)) for way in ways)


def _pairs(one: Entry, other: Entry) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of the rows that both have."""
    if not one.shape:
        yield one.read(0, None), other.read(0, None)
        return
    count = min(one.shape[0], other.shape[0])
    for start, stop in row_blocks((count, *one.shape[1:]), 4, BLOCK):
        end = count if stop is None else stop
        yield one.read(start, end), other.read(start, end)
