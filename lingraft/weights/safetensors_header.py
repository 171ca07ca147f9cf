"""Read the header of a safetensors file: which tensors it holds and where they lie.

Apart from the reader of the data so that looking at a folder does not wait two seconds for torch.
Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lingraft.problems import refuse

ITEMSIZES: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "C64": 8,
    "U16": 2,
    "U32": 4,
    "U64": 8,
}
LONGEST = 100_000_000  # bytes of header; the reference implementation has the same limit


@dataclass(frozen=True)
class Span:
    """One tensor in a file: its dtype as safetensors spells it, its shape, and its bytes ``begin:end``."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Listing:
    """What a safetensors file says it holds, its metadata, and how many bytes the whole file must have."""

    tensors: Mapping[str, Span]
    metadata: Mapping[str, str]
    nbytes: int


def read_listing(path: Path) -> Listing:
    """Read the header alone and check it against the file's size.

    Errors: `not-found`, `lfs-pointer`, `truncated-file` (says which bytes are missing), `corrupt-file`.
    """
    if not path.is_file():
        refuse("not-found", f"{path} does not exist", "check the path", path)
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if first.startswith(b"version "):
            refuse(
                "lfs-pointer",
                f"{path} is a Git LFS pointer of {size} bytes, not the weights",
                "run `git lfs pull` in that repository, or download the file itself",
                path,
            )
        if len(first) < 8:
            refuse(
                "truncated-file",
                f"{path} has {size} bytes; a safetensors header needs at least 8",
                "download the file again",
                path,
            )
        (length,) = struct.unpack("<Q", first)
        if length > LONGEST or length < 2:
            refuse(
                "corrupt-file",
                f"{path} does not begin with a safetensors header (length {length:,})",
                "download the file again, or convert it if it is another format",
                path,
            )
        raw = file.read(length)
    if len(raw) < length:
        refuse(
            "truncated-file",
            f"{path} ends inside its header: {size:,} bytes of at least {8 + length:,}",
            "download the file again",
            path,
        )
    try:
        return _parse(json.loads(raw), 8 + length, path, size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refuse("corrupt-file", f"{path} has a broken safetensors header: {error}", "download the file again", path)


def _parse(listing: dict[str, Any], start: int, path: Path, size: int) -> Listing:
    metadata = listing.pop("__metadata__", {}) or {}
    tensors = {name: _span(name, item, start) for name, item in listing.items()}
    end = start
    for name, span in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != end:
            raise ValueError(f"tensor {name} begins at byte {span.begin:,}; the one before it ends at {end:,}")
        end = span.end
    if size < end:
        cut = sorted(name for name, span in tensors.items() if span.end > size)
        refuse(
            "truncated-file",
            f"{path} has {size:,} of {end:,} bytes: {end - size:,} are missing, "
            f"from {cut[0]} on ({len(cut)} of {len(tensors)} tensors)",
            "download the file again",
            path,
            cut[0],
        )
    if size > end:
        raise ValueError(f"{size - end:,} bytes follow the last tensor")
    return Listing(tensors, metadata, end)


def _span(name: str, item: Mapping[str, Any], start: int) -> Span:
    if item["dtype"] not in ITEMSIZES:
        raise ValueError(f"tensor {name} has the unknown dtype {item['dtype']}")
    shape = tuple(int(n) for n in item["shape"])
    begin, end = (start + int(offset) for offset in item["data_offsets"])
    needed = prod(shape) * ITEMSIZES[item["dtype"]]
    if end - begin != needed or begin < start or min(shape, default=0) < 0:
        raise ValueError(f"tensor {name} spans {end - begin:,} bytes; its shape {list(shape)} needs {needed:,}")
    return Span(item["dtype"], shape, begin, end)
