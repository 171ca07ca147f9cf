"""Tensors out of torch pickles (.bin, .pt, .pth), lazily and without anything in the file ever running.

The structure comes from `pickle_header`, which puts inert stand-ins in the place of every name; this module
maps the storages and turns every tensor into an `Entry`. Zip files (torch 1.6 on) and the older row of pickles.
"""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from lingraft.problems import refuse
from lingraft.weights.pickle_header import PickleHeader, read_part, read_pickle
from lingraft.weights.safetensors import DTYPES, view
from lingraft.weights.tensors import Entry, Lazy, Tensor
from lingraft.weights.unpickler import Sketch

NESTED = ("state_dict", "model_state_dict", "model", "module")  # keys that trainers put their weights below


def load(path: Path, suspect: Callable[[frozenset[str]], frozenset[str]] = lambda names: names) -> Any:
    """Return what a pickle holds: dicts, lists and plain values, with an `Entry` for every tensor.

    ``suspect`` picks, out of the names beyond tensors (``package.module.Class``), those to refuse; the others come
    out as inert objects. Errors: `unsafe-pickle` (names what it would run), `lfs-pointer`, `truncated-file`,
    `corrupt-file`, `not-found`.
    """
    if not path.is_file():
        refuse("not-found", f"{path} does not exist", "check the path", path)
    found = read_pickle(path)
    _refuse_strange(path, suspect(found.strange))
    mapped = map_file(path)
    return _with_entries(found.content, lambda sketch: _entry(path, mapped, found, sketch))


def load_part(path: Path, mapped: mmap.mmap, begin: int, length: int) -> Any:
    """Return what a torch zip inside another file holds (a chunk of a distributed checkpoint). Errors: as `load`."""
    found = read_part(path, begin, length)
    _refuse_strange(path, found.strange)
    return _with_entries(found.content, lambda sketch: _entry(path, mapped, found, sketch))


def map_file(path: Path) -> mmap.mmap:
    """Map a file for reading; what is written into it stays in memory."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _refuse_strange(path: Path, strange: frozenset[str]) -> None:
    if strange:
        names = ", ".join(sorted(strange)[:5])
        refuse(
            "unsafe-pickle",
            f"{path} names {names}: code beyond tensors, which an ordinary load would run; nothing of it was run here",
            "ask its author for a .safetensors file",
            path,
        )


def read_file(path: Path) -> Lazy:
    """Map the state dict in a torch pickle, which may lie below a key such as ``state_dict``.

    Errors: those of `load`, and `corrupt-file` where it holds no tensors by name.
    """
    return Lazy(state_dict(load(path), path))


def state_dict(content: Any, path: Path) -> dict[str, Entry]:
    """Return the named tensors of a loaded pickle. Error: `unknown-format` where there are none."""
    for _ in range(3):  # {"state_dict": {"model": {…}}}
        if isinstance(content, Mapping) and not any(isinstance(value, Entry) for value in content.values()):
            held = [value for value in content.values() if _holds_tensors(value)]  # under whatever key, if it is one
            content = next(
                (content[key] for key in NESTED if isinstance(content.get(key), Mapping)),
                held[0] if len(held) == 1 else content,
            )
    entries = {str(k): v for k, v in content.items() if isinstance(v, Entry)} if isinstance(content, Mapping) else {}
    if not entries:
        refuse("unknown-format", f"{path} holds no tensors by name", "run `lingraft inspect` on its folder", path)
    return entries


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(one, Entry) for one in value.values())


def _with_entries(value: Any, entry: Callable[[Sketch], Entry]) -> Any:
    if isinstance(value, Sketch):
        return entry(value)
    if isinstance(value, Mapping):
        return {key: _with_entries(item, entry) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_entries(item, entry) for item in value]
    if type(value) is tuple:
        return tuple(_with_entries(item, entry) for item in value)
    return value


def _entry(path: Path, mapped: mmap.mmap, found: PickleHeader, sketch: Sketch) -> Entry:
    dtype = DTYPES[sketch.dtype]

    def read(start: int, stop: int | None) -> Tensor:
        if prod(sketch.shape) == 0:
            return torch.empty(sketch.shape, dtype=dtype)
        flat, base = _storage(path, mapped, found, sketch)
        shape, offset = sketch.shape, sketch.offset
        if shape:
            count = max((shape[0] if stop is None else min(stop, shape[0])) - start, 0)
            shape, offset = (count, *shape[1:]), offset + start * sketch.stride[0]
        if prod(shape) == 0:
            return torch.empty(shape, dtype=dtype)
        reach = 1 + sum((n - 1) * step for n, step in zip(shape, sketch.stride, strict=True))
        return torch.as_strided(view(flat, dtype, reach, base + offset * dtype.itemsize), shape, sketch.stride)

    return Entry(dtype, sketch.shape, read)


def _storage(path: Path, mapped: mmap.mmap, found: PickleHeader, sketch: Sketch) -> tuple[Any, int]:
    """Return the buffer that a tensor's storage lies in, and the storage's first byte there."""
    if sketch.storage in found.places:
        return mapped, found.places[sketch.storage][0]
    try:
        with zipfile.ZipFile(path) as archive:  # compressed: somebody packed it again
            name = next(n for n in archive.namelist() if n.endswith(f"/data/{sketch.storage}"))
            return bytearray(archive.read(name)), 0
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        refuse("corrupt-file", f"{path}: a storage cannot be unpacked: {error}", "download the file again", path)
