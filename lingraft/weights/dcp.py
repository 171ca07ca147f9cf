"""Torch's distributed checkpoints (FSDP): a `.metadata` pickle and `__N_0.distcp` files, read lazily on one machine.

torch's own reader unpickles `.metadata` with nothing to stop it; here its few known classes become inert records.
Every chunk of a tensor is a small torch file inside a .distcp; a block of rows touches only the chunks it needs.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from lingraft.problems import Refusal, refuse
from lingraft.weights import adapter, hf, names, pickles
from lingraft.weights.safetensors import DTYPES
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor
from lingraft.weights.unpickler import DTYPES as DTYPE_NAMES

NAME = "dcp"
METADATA = ".metadata"
INERT = {  # what stands in a .metadata file beyond tensors' dtypes and sizes
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "device"),
    ("builtins", "set"),
}
PACKAGE = "torch.distributed.checkpoint."
WEIGHTS = ("model", "state_dict", "module", "app")
OTHERS = ("optimizer", "optim", "optimizer_state_dict", "lr_scheduler", "scheduler")


class Chunk(NamedTuple):
    """A box of a tensor: where it begins, its sizes, and the bytes of the file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    begin: int
    length: int


class Record:
    """Stands for one of torch's metadata classes: keeps the fields that were pickled, and nothing else."""

    fields: Any

    def __new__(cls, *arguments: Any) -> Record:
        record = object.__new__(cls)
        record.fields = arguments
        return record

    def __setstate__(self, state: Any) -> None:
        self.fields = state

    def get(self, name: str) -> Any:
        return self.fields.get(name) if isinstance(self.fields, Mapping) else None


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in DTYPE_NAMES:
            return DTYPE_NAMES[name]
        known = module.startswith(PACKAGE) and name.lstrip("_")[:1].isupper()
        if known or (module, name) in INERT:
            return type(name, (Record,), {})  # a class of its own, so that nothing set on it outlives the file
        return refuse(
            "unsafe-pickle",
            f"{self.path} names {module}.{name}, which no distributed checkpoint needs; nothing of it was run",
            "do not load it; ask its author for .safetensors files",
            self.path,
        )


def knows(path: Path) -> bool:
    """Tell whether a folder is a distributed checkpoint, or holds one (pytorch_model_fsdp_0) and no weights beside."""
    return _home(path) is not None


def _home(path: Path) -> Path | None:
    if not path.is_dir():
        return None
    if (path / METADATA).is_file():
        return path
    inside = sorted(path.glob(f"pytorch_model_fsdp_*/{METADATA}"))
    here = adapter.home(path) or hf.has_weights(path)
    return inside[0].parent if inside and not here else None


def read(path: Path) -> Checkpoint:
    """Open a distributed checkpoint lazily; of a training state the weights alone.

    Errors: `missing-shard` (every .distcp named), `truncated-file`, `corrupt-file`, `unsafe-pickle`.
    """
    folder = _home(path) or path
    metadata = _metadata(folder / METADATA)
    try:
        entries = _entries(folder, metadata)
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        refuse("corrupt-file", f"{folder / METADATA} contradicts itself: {error}", "copy the folder again", folder)
    around = next((p for p in (folder, *folder.parents[:2]) if hf.read_config(p)), folder)
    return Checkpoint(path, NAME, Lazy(names.without_wrappers(entries)), hf.read_config(around), hf.side_files(around))


def _entries(folder: Path, metadata: Record) -> dict[str, Entry]:
    chunks, missing = _chunks(folder, metadata)
    if missing:
        refuse("missing-shard", f"{folder} misses {', '.join(sorted(missing))}", "copy the files of every rank", folder)
    files = {chunk.file: pickles.map_file(chunk.file) for parts in chunks.values() for chunk in parts}
    tensors: Mapping[str, Any] = metadata.get("state_dict_metadata")
    plan: Mapping[str, Any] = metadata.get("planner_data") or {}
    return {
        _name(key, plan): _entry(folder, key, item, chunks.get(key, []), files)
        for key, item in tensors.items()
        if item.get("chunks") and not _is_other(key, plan)
    }


def _metadata(path: Path) -> Record:
    try:
        with path.open("rb") as file:
            found = _Reader(file, path).load()
    except Refusal:
        raise
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        refuse("corrupt-file", f"{path} cannot be read: {error or type(error).__name__}", "copy the folder again", path)
    if not isinstance(found, Record) or not isinstance(found.get("state_dict_metadata"), Mapping):
        refuse("corrupt-file", f"{path} lists no tensors", "copy the folder again", path)
    return found


def _path(key: str, plan: Mapping[str, Any]) -> tuple[str, ...]:
    told = plan.get(key)
    return tuple(str(part) for part in told) if isinstance(told, tuple) else (key,)


def _is_other(key: str, plan: Mapping[str, Any]) -> bool:
    return _path(key, plan)[0].split(".")[0] in OTHERS


def _name(key: str, plan: Mapping[str, Any]) -> str:
    parts = _path(key, plan)
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] in WEIGHTS else parts)


def _chunks(folder: Path, metadata: Record) -> tuple[dict[str, list[Chunk]], set[str]]:
    """Return every tensor's chunks, and the files that are not there."""
    sizes = {
        (key, tuple(chunk.get("offsets"))): tuple(chunk.get("sizes"))
        for key, item in metadata.get("state_dict_metadata").items()
        for chunk in item.get("chunks") or []
    }
    found: dict[str, list[Chunk]] = {}
    missing = set()
    for index, place in (metadata.get("storage_data") or {}).items():
        file = folder / Path(str(place.get("relative_path"))).name  # never out of the folder
        offset = index.get("offset")
        if not file.is_file():
            missing.add(file.name)
        elif offset is not None and (size := sizes.get((index.get("fqn"), tuple(offset)))) is not None:
            chunk = Chunk(tuple(offset), size, file, int(place.get("offset")), int(place.get("length")))
            found.setdefault(index.get("fqn"), []).append(chunk)
    return found, missing


def _entry(folder: Path, key: str, item: Record, chunks: Sequence[Chunk], files: Mapping[Path, mmap.mmap]) -> Entry:
    told = item.get("properties")
    properties: Any = told.fields if isinstance(told, Record) else None
    dtype_name = properties.get("dtype") if isinstance(properties, Mapping) else properties[0]
    dtype = DTYPES[str(dtype_name)]
    shape: tuple[int, ...] = tuple(int(n) for n in item.get("size"))
    if sum(prod(chunk.sizes) for chunk in chunks) != prod(shape):
        refuse(
            "corrupt-file",
            f"{folder}: the chunks of {key} do not cover its shape {list(shape)}",
            "copy the files of every rank",
            folder,
            key,
        )

    def read_rows(start: int, stop: int | None) -> Tensor:
        if not shape:
            return _part(chunks[0], key, files).read(0, None).reshape(())
        stop = shape[0] if stop is None else min(stop, shape[0])
        out = torch.empty((max(stop - start, 0), *shape[1:]), dtype=dtype)
        for chunk in chunks:
            low, high = max(start, chunk.offsets[0]), min(stop, chunk.offsets[0] + chunk.sizes[0])
            if low < high and 0 not in chunk.sizes:
                box = tuple(slice(o, o + s) for o, s in zip(chunk.offsets[1:], chunk.sizes[1:], strict=True))
                rows = _part(chunk, key, files).read(low - chunk.offsets[0], high - chunk.offsets[0])
                out[(slice(low - start, high - start), *box)] = rows
        return out

    return Entry(dtype, shape, read_rows)


def _part(chunk: Chunk, key: str, files: Mapping[Path, mmap.mmap]) -> Entry:
    found = pickles.load_part(chunk.file, files[chunk.file], chunk.begin, chunk.length)
    if not isinstance(found, Entry) or found.shape != chunk.sizes:
        refuse(
            "corrupt-file",
            f"{chunk.file} holds another tensor where {key} should be",
            "copy the folder again",
            chunk.file,
            key,
        )
    return found
