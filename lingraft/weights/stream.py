"""Write tensors as they are computed: reading and arithmetic, hashing, writing and the disk all at the same time.

A tensor passes in blocks of rows and is never whole in memory. A few threads read and compute blocks, one hashes
them in order, one writes them in order, and one keeps asking the disk to begin (a kernel left alone begins when it is
told to finish). Every block is computed by one thread alone: torch's own threads wait for each other in busy loops,
which costs several times the work on a machine that has other things to do.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from blake3 import blake3

from lingraft.weights import safetensors
from lingraft.weights.direct import LargeFile
from lingraft.weights.fingerprint import line, raw_bytes
from lingraft.weights.tensors import Entry, Weights, header, row_blocks

BLOCK = 4 << 20  # bytes of a block in float32, in which it is computed
WORKERS = max(1, min(4, os.cpu_count() or 1))
AHEAD = 24  # blocks that are computed, or wait for hashing and writing: the disk takes several at a time
LARGE = 256 << 20  # bytes from which on a model is written past the page cache; a smaller one is soon read again

Shard = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def write_shards(
    weights: Weights, shards: Sequence[tuple[Path, Shard]], progress: Callable[[int], object] | None = None
) -> list[str]:
    """Write safetensors files and return the fingerprint's line of every tensor; all files are on disk at the end."""
    lines = []
    large = sum(prod(shape) * dtype.itemsize for _, shard in shards for dtype, shape in shard.values()) >= LARGE
    with single_threaded(), _Sink(progress) as sink:
        for path, shard in shards:
            file = LargeFile(path, direct=large)
            sink.write(file, safetensors.header_bytes(shard, {"format": "pt"}))
            for name, (dtype, shape) in shard.items():
                lines.append(_Line(name, dtype, shape, _write_tensor(weights, name, dtype, file, sink)))
            sink.finish(file)
    return [item.text() for item in lines]


@dataclass(frozen=True)
class _Line:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    hasher: blake3

    def text(self) -> str:
        return line(self.name, self.dtype, self.shape, self.hasher.hexdigest())


def _write_tensor(weights: Weights, name: str, dtype: torch.dtype, file: LargeFile, sink: _Sink) -> blake3:
    entry, hasher = header(weights, name), blake3(max_threads=blake3.AUTO)
    for start, stop in row_blocks(entry.shape, max(4, entry.dtype.itemsize), BLOCK):
        sink.put(file, hasher, partial(_block, entry, start, stop, dtype))
    return hasher


def _block(entry: Entry, start: int, stop: int | None, dtype: torch.dtype) -> memoryview:
    return raw_bytes(entry.read(start, stop).to(dtype))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep torch from starting threads of its own within a `with` block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Sink:
    """Computes, hashes and writes blocks in order; a failure of any surfaces at a later block, or at the end."""

    def __init__(self, progress: Callable[[int], object] | None) -> None:
        self.progress = progress
        self.room = threading.Semaphore(AHEAD)
        self.computing = ThreadPoolExecutor(WORKERS)
        self.hashing, self.writing, self.syncing = (ThreadPoolExecutor(1) for _ in range(3))
        self.writes: deque[Future[None]] = deque()  # seen by the calling thread alone
        self.syncs: list[Future[None]] = []  # seen by the writing thread alone, until it has ended

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pool in (self.computing, self.hashing, self.writing, self.syncing):
            pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for future in (*self.writes, *self.syncs):
                future.result()

    def put(self, file: LargeFile, hasher: blake3, block: Callable[[], memoryview]) -> None:
        """Take over a block: it is computed soon, and hashed and written in the order in which blocks come."""
        self.room.acquire()
        while self.writes and self.writes[0].done():
            self.writes.popleft().result()
        computed = self.computing.submit(block)
        hashed = self.hashing.submit(lambda: _hash(hasher, computed.result()))
        self.writes.append(self.writing.submit(self._write, file, computed, hashed))

    def write(self, file: LargeFile, data: bytes) -> None:
        """Write bytes that are not part of a tensor."""
        self.writes.append(self.writing.submit(file.write, memoryview(data)))

    def finish(self, file: LargeFile) -> None:
        """Put a file on the disk for good once all of it is written."""
        self.writes.append(self.writing.submit(lambda: self.syncs.append(self.syncing.submit(file.finish))))

    def _write(self, file: LargeFile, computed: Future[memoryview], hashed: Future[None]) -> None:
        try:
            data = computed.result()
            file.write(data)
            if file.due():
                self.syncs.append(self.syncing.submit(os.fdatasync, file.file))
            hashed.result()
        finally:
            self.room.release()
        if self.progress is not None:
            self.progress(len(data))


def _hash(hasher: blake3, data: memoryview) -> None:
    hasher.update(data)
