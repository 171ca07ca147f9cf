"""Texts as tokens in Arrow: written piece by piece, read memory-mapped, so that no corpus needs to fit into memory.

One row is one segment: ``ids`` (its tokens) and ``taught`` (pairs of [start, end) that the loss is on).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
IGNORED = -100  # torch's ignore_index
_BATCH = 1 << 20  # tokens held in memory before they go to the disk
_SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("taught", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Piece:
    """One segment: ``ids`` int32 [tokens]; ``taught`` holds pairs of [start, end) that the loss is on."""

    ids: Ints
    taught: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Segments of one Arrow batch as flat arrays: segment i is ids[at[i]:at[i+1]] and taught[marks[i]:marks[i+1]]."""

    ids: Ints
    at: Ints
    taught: Ints
    marks: Ints


@dataclass(frozen=True)
class Segments:
    """Segments in order, whether in memory or on the disk; nothing is read before it is asked for."""

    batches: tuple[Batch, ...]

    @cached_property
    def lengths(self) -> Ints:
        """Return the number of tokens of each segment, int32 [segments]."""
        return _joined([np.diff(b.at) for b in self.batches])

    @cached_property
    def supervised(self) -> Ints:
        """Return the number of supervised tokens of each segment, int32 [segments]."""
        return _joined([_supervised(b) for b in self.batches])

    @cached_property
    def _firsts(self) -> list[int]:
        return [0, *accumulate(len(b.at) - 1 for b in self.batches)]

    def __len__(self) -> int:
        return self._firsts[-1]

    def ids(self, number: int) -> Ints:
        """Return the tokens of one segment, int32 [tokens]."""
        batch, i = self._find(number)
        return batch.ids[batch.at[i] : batch.at[i + 1]]

    def labels(self, number: int) -> Ints:
        """Return the labels of one segment: its tokens where the loss is on them, else ``IGNORED``."""
        batch, i = self._find(number)
        ids = batch.ids[batch.at[i] : batch.at[i + 1]]
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        marks = batch.taught[batch.marks[i] : batch.marks[i + 1]]
        for start, end in zip(marks[::2].tolist(), marks[1::2].tolist(), strict=True):
            labels[start:end] = ids[start:end]
        return labels

    def _find(self, number: int) -> tuple[Batch, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect_right(self._firsts, number) - 1
        return self.batches[which], number - self._firsts[which]


def in_memory(pieces: Iterable[Piece]) -> Segments:
    """Keep segments in memory: for what is small."""
    return Segments(tuple(_of_arrow(batch) for batch in _batches(pieces)))


def write(pieces: Iterable[Piece], path: Path) -> None:
    """Write segments to an Arrow file as they come; at most about a million tokens are held at once."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for batch in _batches(pieces):
            writer.write_batch(batch)


def read(path: Path) -> Segments:
    """Map the segments of an Arrow file into memory."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return Segments(tuple(_of_arrow(reader.get_batch(i)) for i in range(reader.num_record_batches)))


def _batches(pieces: Iterable[Piece]) -> Iterator[Any]:
    held: list[Piece] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece.ids)
        if size >= _BATCH:
            yield _to_arrow(held)
            held, size = [], 0
    if held:
        yield _to_arrow(held)


def _to_arrow(pieces: Sequence[Piece]) -> Any:
    columns = [[p.ids for p in pieces], [np.asarray(p.taught, dtype=np.int32) for p in pieces]]
    arrays = [
        pa.ListArray.from_arrays(np.cumsum([0, *map(len, parts)], dtype=np.int32), np.concatenate(parts))
        for parts in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _of_arrow(batch: Any) -> Batch:
    ids, taught = batch.column(0), batch.column(1)
    return Batch(ids.values.to_numpy(), ids.offsets.to_numpy(), taught.values.to_numpy(), taught.offsets.to_numpy())


def _supervised(batch: Batch) -> Ints:
    sums = np.concatenate([[0], np.cumsum(batch.taught[1::2] - batch.taught[::2], dtype=np.int64)])
    return np.diff(sums[batch.marks // 2]).astype(np.int32)


def _joined(parts: Sequence[Any]) -> Ints:
    return np.concatenate([np.zeros(0, dtype=np.int32), *parts]).astype(np.int32, copy=False)
