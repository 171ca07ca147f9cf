"""How a merge works: an adapter is a mapping from tensor name to updates, and an update maps rows to rows.

An update knows one thing: given the tensor below it (lazily, by blocks of rows), which tensor lies on top. Everything
is computed in float32 and rounded once, when the last update has been applied. The order of operations inside an
update is peft's own, so that in float32 the result equals `merge_and_unload` bit for bit.

To merge is `reduce(apply, adapters, base)`: see `merge/merged.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from lingraft.weights.tensors import Entry, Lazy, Tensor


class Update(Protocol):
    """What an adapter does to one tensor."""

    def onto(self, below: Entry, /) -> Entry:
        """Return the tensor that lies on top of ``below``; nothing is read yet."""
        ...


class Delta(Protocol):
    """A difference that can be computed by blocks of rows."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the rows ``start:stop`` in float32, newly allocated."""
        ...


@dataclass(frozen=True)
class Replace:
    """The adapter brings the whole tensor (modules_to_save, a trained bias)."""

    value: Entry

    def onto(self, _below: Entry) -> Entry:
        return self.value


@dataclass(frozen=True)
class Rows:
    """The adapter brings some rows (trainable_token_indices); rows past the end of the base make it grow."""

    indices: tuple[int, ...]
    values: Entry

    def onto(self, below: Entry) -> Entry:
        count = max(below.shape[0], max(self.indices, default=-1) + 1)

        def read(start: int, stop: int | None) -> Tensor:
            stop = count if stop is None else min(stop, count)
            block = torch.empty(stop - start, *below.shape[1:])
            old = max(start, min(stop, below.shape[0]))
            block[: old - start] = below.read(start, old) if old > start else block[:0]
            for position, row in self._between(start, stop):
                block[row - start] = self.values.read(position, position + 1)[0]
            return block

        return Entry(torch.float32, (count, *below.shape[1:]), read)

    def _between(self, start: int, stop: int) -> list[tuple[int, int]]:
        return [(position, row) for position, row in enumerate(self.indices) if start <= row < stop]


@dataclass(frozen=True)
class Extend:
    """The adapter carries a grown copy of the base: its new rows are taken, the base's own rows stay."""

    copy: Entry

    def onto(self, below: Entry) -> Entry:
        count = max(below.shape[0], self.copy.shape[0])

        def read(start: int, stop: int | None) -> Tensor:
            stop = count if stop is None else min(stop, count)
            old = max(start, min(stop, below.shape[0]))
            kept = below.read(start, old).float() if old > start else torch.empty(0, *below.shape[1:])
            return torch.cat((kept, self.copy.read(old, stop).float())) if stop > old else kept

        return Entry(torch.float32, (count, *below.shape[1:]), read)


@dataclass(frozen=True)
class LowRank:
    """LoRA on a linear layer: W + scale * B @ A, or its transpose where the layer stores (in, out).

    ``a`` is (r, in), ``b`` is (out, r). Hu et al. 2021, section 4.1; rsLoRA only changes ``scale``.
    """

    a: Entry
    b: Entry
    scale: float
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the stored tensor that this is a difference of."""
        out, into = self.b.shape[0], self.a.shape[1]
        return (into, out) if self.transposed else (out, into)

    def rows(self, start: int, stop: int) -> Tensor:
        a = _float(self.a, 0, None)
        if self.transposed:
            return (_float(self.b, 0, None) @ a[:, start:stop]).T.mul_(self.scale)
        return (_float(self.b, start, stop) @ a).mul_(self.scale)

    def onto(self, below: Entry) -> Entry:
        return delta_onto(self, below)


@dataclass(frozen=True)
class LowRankEmbedding:
    """LoRA on an embedding: W + scale * (B @ A)ᵀ, where ``a`` is (r, rows) and ``b`` is (width, r)."""

    a: Entry
    b: Entry
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the embedding: rows, width."""
        return self.a.shape[1], self.b.shape[0]

    def rows(self, start: int, stop: int) -> Tensor:
        return (_float(self.b, 0, None) @ _float(self.a, 0, None)[:, start:stop]).T.mul_(self.scale)

    def onto(self, below: Entry) -> Entry:
        return delta_onto(self, below)


@dataclass(frozen=True)
class Dora:
    """DoRA: the direction of W + delta, with a learned magnitude. Liu et al. 2024, equation 5.

    ``by_row`` is true where one magnitude belongs to one row of the stored tensor (a linear layer); a Conv1D and an
    embedding have one a column, whose norm needs every row: it is computed once, from the whole tensor.
    """

    delta: Delta
    magnitude: Entry
    by_row: bool = True

    def onto(self, below: Entry) -> Entry:
        columns = None if self.by_row else _Columns(self, below)

        def read(start: int, stop: int | None) -> Tensor:
            stop = below.shape[0] if stop is None else stop
            moved = self.delta.rows(start, stop).add_(below.read(start, stop))
            if columns is not None:
                return moved.mul_(columns.factor)
            norm = torch.linalg.norm(moved, dim=1)
            return moved.mul_((_float(self.magnitude, start, stop) / norm).view(-1, 1))

        return Entry(torch.float32, below.shape, read)


@dataclass(frozen=True)
class _Columns:
    dora: Dora
    below: Entry

    @cached_property
    def factor(self) -> Tensor:
        delta = self.dora.delta.rows(0, self.below.shape[0])
        norm = torch.linalg.norm(self.below.read(0, None).T + delta.T, dim=1)
        factor: Tensor = _float(self.dora.magnitude, 0, None) / norm
        return factor.view(1, -1)


@dataclass(frozen=True)
class Scale:
    """IA3: every row (``by_row``) or every column multiplied by a learned factor. Liu et al. 2022."""

    factors: Entry
    by_row: bool

    def onto(self, below: Entry) -> Entry:
        def read(start: int, stop: int | None) -> Tensor:
            factors = self.factors.read(0, None).reshape(-1).float()
            block = below.read(start, stop).float()
            if block.ndim == 1:
                return block * factors[start:stop]
            return block * (factors[start:stop].view(-1, 1) if self.by_row else factors.view(1, -1))

        return Entry(torch.float32, below.shape, read)


@dataclass(frozen=True)
class Add:
    """A difference added to a vector: the bias of lora_B times the scale (``lora_bias``)."""

    value: Entry
    scale: float

    def onto(self, below: Entry) -> Entry:
        def read(start: int, stop: int | None) -> Tensor:
            return (_float(self.value, start, stop) * self.scale).add_(below.read(start, stop))

        return Entry(torch.float32, below.shape, read)


Updates = Mapping[str, Sequence[Update]]


def apply(weights: Lazy, updates: Updates) -> Lazy:
    """Return the checkpoint with one adapter's updates on top, still lazy; new names come last."""
    entries = dict(weights.entries)
    for name, some in updates.items():
        entry = entries.get(name, _NOTHING)
        for update in some:
            entry = update.onto(entry)
        entries[name] = entry
    return Lazy(entries)


def rounded(entry: Entry, dtype: torch.dtype) -> Entry:
    """Return a tensor in the dtype it is stored in: the one place where a merge rounds."""
    if entry.dtype == dtype:
        return entry
    return Entry(dtype, entry.shape, lambda start, stop: entry.read(start, stop).to(dtype))


_NOTHING = Entry(torch.float32, (0,), lambda _start, _stop: torch.empty(0))


def delta_onto(delta: Delta, below: Entry) -> Entry:
    """Return a tensor plus a difference, added in float32."""

    def read(start: int, stop: int | None) -> Tensor:
        block = below.read(start, stop)
        block = block.float() if block.dtype.itemsize == 1 else block  # torch adds no float8 to a float32
        return delta.rows(start, below.shape[0] if stop is None else stop).add_(block)

    return Entry(torch.float32, below.shape, read)


def _float(entry: Entry, start: int, stop: int | None) -> Tensor:
    return entry.read(start, stop).float()
