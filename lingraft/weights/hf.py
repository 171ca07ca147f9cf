"""Hugging Face model directories: safetensors and .bin, single and sharded, with or without an index.

Writing streams: shards are cut by size, every tensor passes in row blocks, and the fingerprint of what was
written comes out of the same pass.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from lingraft.output import write_json
from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights import pickles, safetensors
from lingraft.weights.fingerprint import combine, is_buffer
from lingraft.weights.json_file import read_json as read_json
from lingraft.weights.stream import write_shards
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Weights, header

NAME = "hf"
SIDE_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "preprocessor_config.json", "tekken.json", "tokenizer.tiktoken",
)  # fmt: skip
BLOCK = 32 << 20


def knows(path: Path) -> bool:
    """Tell whether a directory holds a Hugging Face model (weights beside or without a config.json)."""
    return path.is_dir() and not (path / "adapter_config.json").exists() and bool(weight_files(path, complain=False))


def read(path: Path) -> Checkpoint:
    """Open a directory lazily.

    Errors: `missing-shard` (all of them named), `truncated-file`, `lfs-pointer`, `corrupt-file`,
    `unsafe-pickle`, `config-mismatch` for a config.json that is not JSON.
    """
    entries: dict[str, Entry] = {}
    findings = Findings()
    for file in weight_files(path):
        try:
            entries.update(_open(file).entries)
        except Refusal as refusal:
            findings.absorb(refusal)
    findings.settle()
    return Checkpoint(path, NAME, Lazy({n: e for n, e in entries.items() if not is_buffer(n)}),
                      read_config(path), side_files(path))  # fmt: skip


def weight_files(path: Path, complain: bool = True) -> list[Path]:
    """List the weight files of a model directory in order, by index where there is one.

    Error: `missing-shard` where the index or the `-0000N-of-0000M` names promise a file that is not there.
    """
    for index, single in (("model.safetensors.index.json", "model.safetensors"),
                          ("pytorch_model.bin.index.json", "pytorch_model.bin")):  # fmt: skip
        if (path / index).is_file():
            names = sorted(set(read_json(path / index).get("weight_map", {}).values()))
            return _present(path, names, f"{path / index} names", complain)
        if (path / single).is_file():
            return [path / single]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = sorted(f for f in path.glob(pattern) if not f.name.startswith((".", "adapter_model")))
        if files:
            return _present(path, _promised([f.name for f in files]), "the shards' own numbers promise", complain)
    return []


def _promised(names: list[str]) -> list[str]:
    for name in names:
        if found := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)", name):
            stem, _, total, ending = found.groups()
            return [f"{stem}-{i:05d}-of-{total}{ending}" for i in range(1, int(total) + 1)]
    return names


def _present(path: Path, names: list[str], who: str, complain: bool) -> list[Path]:
    missing = [name for name in names if not (path / name).is_file()]
    if missing and complain:
        refuse("missing-shard", f"{who} {len(names)} files; {len(missing)} are missing: {', '.join(missing)}",
               "download the missing shards into the same folder", path / missing[0])  # fmt: skip
    return [path / name for name in names]


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
) -> str:
    """Write a complete model directory into the existing, empty ``out`` and return the weights' fingerprint.

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
) -> str:
    """Write sharded safetensors (and an index where there is more than one shard); return the fingerprint."""
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
        write_json(out / f"{stem}.safetensors.index.json",
                   {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})  # fmt: skip
    return combine(lines)


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

