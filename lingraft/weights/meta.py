"""Meta's own checkpoints: consolidated.NN.pth in one or more shards beside params.json (`meta_write` writes them).

Meta cuts for tensor parallelism: output rows of q, k, v, w1, w3 and the head, input columns of wo and w2; the
embedding by columns (Llama 1 and 2) or rows (Llama 3); norms are in every shard. An uneven vocabulary leaves its
remainder on the last shard. q and k lie in the interleaved rotary layout (see `rotary`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights import pickles, safetensors
from lingraft.weights.hf import read_json, side_files
from lingraft.weights.meta_names import UNUSED, config_from, hf_name, unsaid
from lingraft.weights.rotary import hf_from_pairs, reordered
from lingraft.weights.sentencepieces import told_to_transformers
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor
from lingraft.weights.tied import EMBEDDING, HEAD, is_copy

NAME = "meta"
PATTERN = re.compile(r"consolidated(?:\.(\d\d))?\.(?:pth|safetensors)")
Cut = Literal["rows", "columns", "whole"]
BY_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
BY_ROWS = (
    "q_proj.weight",
    "k_proj.weight",
    "v_proj.weight",
    "gate_proj.weight",
    "up_proj.weight",
    HEAD,
    "q_proj.bias",
    "k_proj.bias",
    "v_proj.bias",
)


def knows(path: Path) -> bool:
    """Tell whether a folder holds params.json and consolidated shards, and not the same model as Hugging Face's."""
    if not path.is_dir() or not (path / "params.json").is_file() or not _files(path):
        return False
    return not ((path / "config.json").is_file() and any(path.glob("model*.safetensors")))


def read(path: Path) -> Checkpoint:
    """Open a folder lazily.

    Errors: `missing-shard` (every one named), `corrupt-file` where the shards do not fit together,
    `config-mismatch` where params.json misses a field, and those of the containers.
    """
    files = _files(path)
    _complain_of_gaps(path, files)
    params = read_json(path / "params.json")
    if missing := [key for key in ("dim", "n_layers", "n_heads") if not isinstance(params.get(key), int)]:
        refuse(
            "config-mismatch",
            f"{path / 'params.json'} does not say {', '.join(missing)}",
            "restore params.json from its source",
            path / "params.json",
        )
    shards = _open(files)
    _complain_of_shapes(path, shards, params)
    entries = {
        hf: _joined(path, name, [shard[name] for shard in shards], params)
        for name in shards[0]
        if (hf := _known(name, path)) is not None
    }
    weights = Lazy(entries)
    config = config_from(params, {name: entry.shape for name, entry in entries.items()})
    tied = HEAD not in entries or is_copy(weights)
    if tied:
        weights = Lazy({name: entry for name, entry in entries.items() if name != HEAD})
    config |= {"tie_word_embeddings": tied, "torch_dtype": str(entries[EMBEDDING].dtype).removeprefix("torch.")}
    beside = side_files(path) or tuple(f for f in side_files(path.parent) if f.name == "tokenizer.model")
    return Checkpoint(path, NAME, weights, config, beside, partial(_settings, beside), unsaid(params))


def _settings(beside: Sequence[Path]) -> dict[str, bytes]:
    """Say how Meta reads its SentencePiece model: without this, transformers adds neither <s> nor the first space."""
    model = next((file for file in beside if file.name == "tokenizer.model"), None)
    if model is None or any(file.name in ("tokenizer.json", "tokenizer_config.json") for file in beside):
        return {}
    told = told_to_transformers(model.read_bytes())
    return {"tokenizer_config.json": (json.dumps(told, indent=2) + "\n").encode()} if told else {}


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if PATTERN.fullmatch(file.name))


def _complain_of_gaps(path: Path, files: Sequence[Path]) -> None:
    numbers = [int(found[1]) for file in files if (found := PATTERN.fullmatch(file.name)) and found[1]]
    missing = [f"consolidated.{i:02d}.pth" for i in range(max(numbers, default=-1) + 1) if i not in numbers]
    if missing:
        _refuse_missing(path, missing, len(numbers) + len(missing))


def _refuse_missing(path: Path, missing: Sequence[str], total: int) -> None:
    refuse(
        "missing-shard",
        f"{path} has {total - len(missing)} of {total} shards; missing: {', '.join(missing)}",
        "download the missing shards into the same folder",
        path / missing[0],
    )


def _open(files: Sequence[Path]) -> list[dict[str, Entry]]:
    findings, shards = Findings(), []
    for file in files:
        try:
            lazy = safetensors.read_file(file) if file.suffix == ".safetensors" else pickles.read_file(file)
            shards.append({name: entry for name, entry in lazy.entries.items() if not name.endswith(UNUSED)})
        except Refusal as refusal:
            findings.absorb(refusal)
    findings.settle()
    return shards


def _complain_of_shapes(path: Path, shards: Sequence[Mapping[str, Entry]], params: Mapping[str, Any]) -> None:
    """Refuse shards that do not hold the same tensors, or of which the last are missing."""
    names = set(shards[0])
    for number, shard in enumerate(shards):
        if odd := sorted(names ^ set(shard)):
            refuse(
                "corrupt-file",
                f"{path}: shard {number} and shard 0 differ in the tensors they hold: {odd[0]} …",
                "download all shards from one place",
                path,
                odd[0],
            )
    output = shards[0].get("layers.0.attention.wo.weight")
    if output is None or "tok_embeddings.weight" not in names:
        refuse("unknown-format", f"{path} holds no Llama in Meta's names", "run `lingraft inspect` on it", path)
    whole = params.get("head_dim", params["dim"] // params["n_heads"]) * params["n_heads"]
    total = -(-whole // max(output.shape[1], 1))
    if total > len(shards):
        _refuse_missing(path, [f"consolidated.{i:02d}.pth" for i in range(len(shards), total)], total)


def _known(name: str, path: Path) -> str | None:
    hf = hf_name(name)
    if hf is None:
        refuse(
            "unknown-format",
            f"{path}: tensor {name} has no place in a Llama",
            "run `lingraft inspect` on it",
            path,
            name,
        )
    return hf


def cut_of(name: str) -> Cut:
    """Tell how Meta cuts a tensor (Hugging Face name); the embedding is told by shapes when reading."""
    if name.endswith(BY_COLUMNS):
        return "columns"
    return "rows" if name.endswith(BY_ROWS) else "whole"


def _joined(path: Path, name: str, parts: Sequence[Entry], params: Mapping[str, Any]) -> Entry:
    hf = hf_name(name) or name
    cut = cut_of(hf)
    if hf == EMBEDDING:
        replicated = parts[0].shape == (params.get("vocab_size"), params["dim"])
        cut = "columns" if parts[0].shape[1] != params["dim"] else "whole" if replicated else "rows"
    if len(parts) == 1 or cut == "whole":
        return _paired(hf, parts[0], params)
    axis = 0 if cut == "rows" else 1
    rest = {part.shape[:axis] + part.shape[axis + 1 :] for part in parts}
    if len(rest) > 1 or len({part.dtype for part in parts}) > 1:
        refuse(
            "corrupt-file",
            f"{path}: the shards of {name} do not fit together: {', '.join(str(list(part.shape)) for part in parts)}",
            "download all shards from one place",
            path,
            name,
        )
    return _paired(hf, (_below if axis == 0 else _beside)(parts), params)


def _below(parts: Sequence[Entry]) -> Entry:
    """Join entries along their rows; a block of rows touches only the shards that hold them."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def read(start: int, stop: int | None) -> Tensor:
        stop = shape[0] if stop is None else min(stop, shape[0])
        found, at = [], 0
        for part in parts:
            low, high = max(start - at, 0), min(stop - at, part.shape[0])
            if low < high:
                found.append(part.read(low, high))
            at += part.shape[0]
        return torch.cat(found) if found else parts[0].read(0, 0)

    return Entry(parts[0].dtype, shape, read)


def _beside(parts: Sequence[Entry]) -> Entry:
    """Join entries along their columns."""
    shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
    return Entry(parts[0].dtype, shape, lambda start, stop: torch.cat([p.read(start, stop) for p in parts], dim=1))


def _paired(name: str, entry: Entry, params: Mapping[str, Any]) -> Entry:
    heads = params["n_heads"] if ".q_proj." in name else params.get("n_kv_heads") or params["n_heads"]
    if ".q_proj." not in name and ".k_proj." not in name:
        return entry
    return reordered(entry, hf_from_pairs(entry.shape[0], heads))
