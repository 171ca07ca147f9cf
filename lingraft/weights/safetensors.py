"""Read and write the safetensors container, lazily and in row blocks.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
Reading maps the file (nothing is copied); writing streams blocks, so a tensor is never whole in memory, and
hashes what it writes.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from lingraft.weights.safetensors_header import read_listing
from lingraft.weights.tensors import Entry, Lazy, Tensor

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Header:
    """A safetensors header: where every tensor lies, and the file's metadata."""

    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...], int, int]]  # dtype, shape, begin, end in the file
    metadata: Mapping[str, str]
    nbytes: int  # what the whole file must have


def read_header(path: Path) -> Header:
    """Read the header alone and check it against the file's size.

    Errors: `not-found`, `lfs-pointer`, `truncated-file` (says which bytes are missing), `corrupt-file`.
    """
    listing = read_listing(path)
    tensors = {name: (DTYPES[span.dtype], span.shape, span.begin, span.end) for name, span in listing.tensors.items()}
    return Header(tensors, listing.metadata, listing.nbytes)


def read_file(path: Path) -> Lazy:
    """Map one safetensors file: a lazy checkpoint under the names it was saved with."""
    head = read_header(path)
    if not head.tensors:
        return Lazy({})
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return Lazy(
        {
            name: Entry(dtype, shape, _reader(mapped, dtype, shape, begin))
            for name, (dtype, shape, begin, _) in head.tensors.items()
        }
    )


def _reader(mapped: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], begin: int) -> Any:
    def read(start: int, stop: int | None) -> Tensor:
        if prod(shape) == 0:
            return torch.empty(shape, dtype=dtype)
        if not shape:
            return view(mapped, dtype, 1, begin).reshape(())
        row = prod(shape[1:])
        count = (shape[0] if stop is None else min(stop, shape[0])) - start
        return view(mapped, dtype, row * count, begin + start * row * dtype.itemsize).reshape(count, *shape[1:])

    return read


def view(mapped: mmap.mmap | bytearray, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    """Return ``count`` elements of a mapped file from byte ``offset`` on, without a copy where they are aligned."""
    if count <= 0:
        return torch.empty(0, dtype=dtype)
    if offset % dtype.itemsize:  # torch wants aligned data; old writers did not pad their header
        return torch.frombuffer(bytearray(mapped[offset : offset + count * dtype.itemsize]), dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset)


def header_bytes(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return the length and header of a file that holds these tensors in this order, padded to 8 bytes."""
    listing: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = prod(shape) * dtype.itemsize
        listing[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    raw = json.dumps(listing, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw
