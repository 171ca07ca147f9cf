"""Read the header of a GGUF file: its metadata and where every tensor lies.

Our own parser, since the gguf package's takes seconds for the tokenizer's arrays where this one takes a tenth of
one, and answers damage with a traceback. Layout: "GGUF", version, counts, key-value pairs, tensor infos, padding,
data (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from lingraft.problems import refuse

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
DEEPEST = 8  # arrays of arrays; nobody writes more than two levels


@dataclass(frozen=True)
class Info:
    """One tensor: its ggml type, its shape in row-major order (rows first) and its bytes in the file."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself, and the mapped file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Info]
    mapped: mmap.mmap


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as GGUF does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_header(path: Path) -> Header:
    """Map a GGUF file and parse its header.

    Errors: `lfs-pointer`, `truncated-file` (says which bytes and tensors are missing), `corrupt-file`,
    `unknown-format` for version 1 and for big-endian files.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(24)
        _check_start(first, path, size)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(mapped, 24)
    count, pairs = struct.unpack_from("<QQ", first, 8)
    try:
        metadata = {cursor.string(): cursor.value(cursor.number("I")) for _ in range(pairs)}
        raw = [_info(cursor) for _ in range(count)]
    except (struct.error, IndexError):
        refuse("truncated-file", f"{path} ends inside its header, at {size:,} bytes", "download the file again", path)
    except (ValueError, KeyError, OverflowError, MemoryError) as error:
        refuse("corrupt-file", f"{path} has a broken GGUF header: {error}", "download the file again", path)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        refuse("corrupt-file", f"{path} says general.alignment is {alignment!r}", "download the file again", path)
    start = cursor.at + -cursor.at % alignment
    tensors = {name: Info(kind, shape, start + offset, nbytes) for name, kind, shape, offset, nbytes in raw}
    _check_end(tensors, path, size)
    return Header(path, metadata, tensors, mapped)


def _check_start(first: bytes, path: Path, size: int) -> None:
    if first.startswith(b"version https://"):
        refuse(
            "lfs-pointer",
            f"{path} is a Git LFS pointer of {size} bytes, not the weights",
            "run `git lfs pull` in that repository, or download the file itself",
            path,
        )
    if first[:4] != MAGIC:
        refuse("corrupt-file", f"{path} does not begin with GGUF", "download the file again", path)
    if len(first) < 24:
        refuse(
            "truncated-file",
            f"{path} has {size} bytes; a GGUF header needs at least 24",
            "download the file again",
            path,
        )
    (version,) = struct.unpack_from("<I", first, 4)
    if version & 0xFFFF == 0:
        refuse("unknown-format", f"{path} is a big-endian GGUF", "convert it on the machine it was made for", path)
    if version not in (2, 3):
        refuse(
            "unknown-format",
            f"{path} is GGUF version {version}; lingraft reads 2 and 3",
            "convert it with a current llama.cpp",
            path,
        )


def _check_end(tensors: Mapping[str, Info], path: Path, size: int) -> None:
    end = max((info.begin + info.nbytes for info in tensors.values()), default=0)
    if size < end:
        cut = [name for name, info in tensors.items() if info.begin + info.nbytes > size]
        refuse(
            "truncated-file",
            f"{path} has {size:,} of {end:,} bytes: {end - size:,} are missing, from {cut[0]} on "
            f"({len(cut)} of {len(tensors)} tensors)",
            "download the file again",
            path,
            cut[0],
        )


class _Cursor:
    """Walks through the mapped header; struct.error and IndexError mean that the file ended."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    def number(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        data, at, found = self.data, self.at, []
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            (length,) = unpack(data, at)
            at += 8 + length
            if at > len(data):
                raise IndexError("the file ends inside a string")
            found.append(data[at - length : at].decode("utf-8", "surrogateescape"))
        self.at = at
        return found

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth > DEEPEST:
            raise ValueError(f"unknown value type {kind} at byte {self.at:,}")
        inner, count = self.number("I"), self.number("Q")
        if inner == STRING:
            return self._strings(count)
        if inner in SCALARS:
            return self._numbers(SCALARS[inner], count)
        return [self.value(inner, depth + 1) for _ in range(count)]

    def _numbers(self, code: str, count: int) -> list[Any]:
        nbytes = struct.calcsize("<" + code) * count
        if self.at + nbytes > len(self.data):
            raise IndexError("the file ends inside an array")
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += nbytes
        return list(values)


def _info(cursor: _Cursor) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int, int]:
    name = cursor.string()
    dims = cursor.number("I")
    if dims > 8:
        raise ValueError(f"tensor {name} has {dims} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dims))[::-1]  # ggml counts the fastest dimension first
    kind = GGMLQuantizationType(cursor.number("I"))
    block, nbytes = GGML_QUANT_SIZES[kind]
    if shape and shape[-1] % block:
        raise ValueError(f"tensor {name} of type {kind.name} has rows of {shape[-1]}, not a multiple of {block}")
    return name, kind, shape, cursor.number("Q"), prod(shape) // block * nbytes
