"""Hugging Face model directories: safetensors and .bin, single and sharded, with or without an index.

Writing streams: shards are cut by size, every tensor passes in row blocks, and the fingerprint of what was
written comes out of the same pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from lingraft.output import write_json
from lingraft.problems import Findings, Refusal
from lingraft.weights import pickles, safetensors
from lingraft.weights.fingerprint import Listing, is_buffer
from lingraft.weights.json_file import read_json as read_json
from lingraft.weights.kinds import TOKENIZER_PARTS
from lingraft.weights.shards import shards_of
from lingraft.weights.stream import write_shards
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Weights, header

NAME = "hf"
SIDE_FILES = (*TOKENIZER_PARTS, "generation_config.json", "preprocessor_config.json")


def knows(path: Path) -> bool:
    """Tell whether a directory holds a Hugging Face model (weights beside or without a config.json)."""
    return path.is_dir() and not (path / "adapter_config.json").exists() and has_weights(path)


def read(path: Path) -> Checkpoint:
    """Open a directory lazily; an index decides where two shards hold a tensor of the same name.

    Errors, all of them told: `missing-shard`, `truncated-file`, `lfs-pointer`, `corrupt-file` (also for tensors that
    the index names and no shard holds), `unsafe-pickle`.
    """
    findings, entries = Findings(), dict[str, Entry]()
    shards = shards_of(path, findings)
    told = _weight_map(None if findings.problems else shards.index)
    for file in shards.files:
        try:
            held = _open(file).entries
        except Refusal as refusal:
            findings.absorb(refusal)
            continue
        here = shards.named(file)
        entries.update({name: entry for name, entry in held.items() if name not in entries or told.get(name) == here})
        if absent := sorted(name for name, where in told.items() if where == here and name not in held):
            findings.problem(
                "corrupt-file",
                f"{file} does not hold {len(absent)} tensors that the index says it does: {', '.join(absent[:3])}",
                "download the shards and the index of one version",
                file,
                absent[0],
            )
    findings.settle()
    return Checkpoint(
        path, NAME, Lazy({n: e for n, e in entries.items() if not is_buffer(n)}), read_config(path), side_files(path)
    )


def has_weights(path: Path) -> bool:
    """Tell whether a directory holds, or by an index or by its shards' numbers should hold, a model's weights."""
    shards = shards_of(path, Findings())
    return bool(shards.files or shards.missing)


def _weight_map(index: Path | None) -> dict[str, str]:
    told = read_json(index).get("weight_map") if index else None
    return {str(name): str(file) for name, file in told.items()} if isinstance(told, dict) else {}


def _open(file: Path) -> Lazy:
    return safetensors.read_file(file) if file.suffix == ".safetensors" else pickles.read_file(file)


def read_config(path: Path) -> dict[str, Any]:
    """Return config.json's fields, or an empty dict where there is none."""
    return read_json(path / "config.json") if (path / "config.json").is_file() else {}


def side_files(path: Path) -> tuple[Path, ...]:
    """List the files that go with the weights and are copied byte for byte: tokenizer, template, generation."""
    return tuple(path / name for name in SIDE_FILES if (path / name).is_file())


class Observer(Protocol):
    """Told about every block that was written (for progress)."""

    def __call__(self, nbytes: int, /) -> object: ...


def write(
    checkpoint: Checkpoint,
    out: Path,
    shard_size: int = 5_000_000_000,
    cast: Callable[[str, torch.dtype], torch.dtype] = lambda _, dtype: dtype,
    progress: Observer | None = None,
) -> Listing:
    """Write a complete model directory into the existing, empty ``out``; return what was written, by digest.

    ``shard_size`` is in bytes; ``cast`` maps a tensor's name and dtype to the dtype to store. Weights are
    streamed in row blocks; config.json and the side files are written beside them.
    """
    result = write_weights(checkpoint.tensors, out, shard_size, cast, progress)
    if checkpoint.config:
        write_json(out / "config.json", checkpoint.config)
    for name, content in checkpoint.made().items():
        (out / name).write_bytes(content)
    for file in checkpoint.side_files:
        shutil.copyfile(file, out / file.name)
    return result


def write_weights(
    weights: Weights,
    out: Path,
    shard_size: int = 5_000_000_000,
    cast: Callable[[str, torch.dtype], torch.dtype] = lambda _, dtype: dtype,
    progress: Observer | None = None,
    stem: str = "model",
) -> Listing:
    """Write sharded safetensors (and an index where there is more than one shard); return every tensor's digest."""
    plan: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    total = filled = 0
    for name in weights:
        entry = header(weights, name)
        dtype = cast(name, entry.dtype)
        nbytes = Entry(dtype, entry.shape, entry.read).nbytes
        if filled and filled + nbytes > shard_size:
            plan.append({})
            filled = 0
        plan[-1][name] = (dtype, entry.shape)
        filled += nbytes
        total += nbytes
    names = shard_names(len(plan), stem)
    lines = write_shards(weights, [(out / file, part) for file, part in zip(names, plan, strict=True)], progress)
    if len(plan) > 1:
        weight_map = {name: file for file, part in zip(names, plan, strict=True) for name in part}
        write_json(
            out / f"{stem}.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )
    return Listing(tuple(lines))


def shard_names(count: int, stem: str = "model") -> list[str]:
    """Return the file names of a model in ``count`` shards, as transformers writes them."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def dtype_of(weights: Weights) -> torch.dtype:
    """Return the dtype that holds most of the parameters."""
    count: dict[torch.dtype, int] = {}
    for name in weights:
        entry = header(weights, name)
        count[entry.dtype] = count.get(entry.dtype, 0) + entry.nbytes // entry.dtype.itemsize
    return max(count, key=lambda dtype: count[dtype]) if count else torch.float32
