"""GGUF files: llama.cpp's container, read lazily under Hugging Face names with config, tokenizer and template.

Quantised tensors come out as fp32 (what the gguf package can dequantise); F32, F16 and BF16 stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from lingraft.problems import refuse
from lingraft.weights import gguf_rope
from lingraft.weights.gguf_header import Header, Info, is_gguf, read_header
from lingraft.weights.gguf_models import FAMILIES, Family, config_from, family_of, hf_name, is_query_or_key, unsaid
from lingraft.weights.gguf_tokenizer import tokenizer_files
from lingraft.weights.rotary import hf_from_pairs, reordered
from lingraft.weights.safetensors import DTYPES
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor, header

NAME = "gguf"
Q = GGMLQuantizationType
PLAIN: dict[GGMLQuantizationType, torch.dtype] = {
    Q.F32: torch.float32,
    Q.F16: torch.float16,
    Q.BF16: torch.bfloat16,
    Q.F64: torch.float64,
    Q.I8: torch.int8,
    Q.I16: torch.int16,
    Q.I32: torch.int32,
    Q.I64: torch.int64,
}
DTYPES_KEY = "lingraft.dtypes"  # JSON {name: dtype}: tensors that were stored wider than they are, without loss
NORM_KEY = "lingraft.norm."  # + name: a norm as it was before 1 was added, where the sum loses bits


REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def knows(path: Path) -> bool:
    """Tell whether a path is a GGUF file, or a folder that holds one model as GGUF and nothing else."""
    parts = _parts(path)
    return bool(parts) and is_gguf(next((part for part in parts if part.is_file()), path))


def read(path: Path) -> Checkpoint:
    """Open a GGUF file, or all the parts of a split one, lazily.

    Errors: those of `read_header`; `missing-shard` (every part named); `unknown-format` for an architecture or a
    tensor that has no Hugging Face name here, and for a type that cannot be dequantised.
    """
    parts = _parts(path)
    if missing := [part.name for part in parts if not part.is_file()]:
        refuse(
            "missing-shard",
            f"{path} is one of {len(parts)} parts; missing: {', '.join(missing)}",
            "download all parts into the same folder",
            parts[0].with_name(missing[0]),
        )
    heads = [read_header(part) for part in parts]
    head = heads[0]
    architecture = str(head.metadata.get("general.architecture"))
    family = family_of(architecture)
    if family is None:
        refuse(
            "unknown-format",
            f"{path} holds the architecture {architecture!r}; lingraft reads "
            f"{', '.join(f.gguf for f in FAMILIES)} out of GGUF",
            "use the original Hugging Face model",
            path,
        )
    config = config_from(head.metadata, family)
    if missing := [name for name in REQUIRED if not isinstance(config.get(name), int)]:
        refuse("corrupt-file", f"{path} does not tell {', '.join(missing)}", "download the file again", path)
    entries = {name: entry for part in heads for name, entry in _entries(part, family, config).items()}
    _scale(head, config)
    _complete(config, entries)
    return Checkpoint(
        path,
        NAME,
        Lazy(entries),
        config,
        made=partial(tokenizer_files, head.metadata, config),
        unsaid=unsaid(head.metadata, family),
    )


def _parts(path: Path) -> list[Path]:
    """Return the files that a path stands for: itself, all parts of a split model, a folder's only model."""
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        models = {SPLIT.sub(r"\1", file.name) for file in files}
        return _parts(files[0]) if len(models) == 1 else []
    if found := SPLIT.fullmatch(path.name):
        return [path.with_name(f"{found[1]}-{i:05d}-of-{found[3]}.gguf") for i in range(1, int(found[3]) + 1)]
    return [path]


def write_tokenizer(path: Path, out: Path) -> None:
    """Write the tokenizer, chat template and generation config of a GGUF file into the folder ``out``."""
    for name, content in read(path).made().items():
        (out / name).write_bytes(content)


def _entries(head: Header, family: Family, config: Mapping[str, Any]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, info in head.tensors.items():
        if name in gguf_rope.TENSORS:
            continue
        hf = hf_name(name, family)
        if hf is None:
            refuse(
                "unknown-format",
                f"{head.path}: tensor {name} has no place in {family.model_type}",
                "use the original Hugging Face model",
                head.path,
                name,
            )
        entries[hf] = _restored(hf, _entry(head, name, info), family, config, head.metadata.get(NORM_KEY + hf))
    narrow = json.loads(head.metadata.get(DTYPES_KEY, "{}"))
    return {name: _cast(entry, DTYPES[narrow[name]]) if name in narrow else entry for name, entry in entries.items()}


def _entry(head: Header, name: str, info: Info) -> Entry:
    if info.type not in PLAIN and not hasattr(quants, info.type.name):
        refuse(
            "unknown-format",
            f"{head.path}: tensor {name} is of type {info.type.name}, which the gguf package cannot dequantise",
            "use the original model, or another quantisation",
            head.path,
            name,
        )
    dtype = PLAIN.get(info.type, torch.float32)
    block, size = GGML_QUANT_SIZES[info.type]
    row_bytes = (prod(info.shape[1:]) if len(info.shape) > 1 else 1) // (block if len(info.shape) > 1 else 1) * size

    def read_rows(start: int, stop: int | None) -> Tensor:
        if len(info.shape) < 2:
            return _decode(head, info, info.begin, info.nbytes).reshape(info.shape)[start:stop]
        count = (info.shape[0] if stop is None else min(stop, info.shape[0])) - start
        raw = _decode(head, info, info.begin + start * row_bytes, count * row_bytes)
        return raw.reshape(count, *info.shape[1:])

    return Entry(dtype, info.shape, read_rows)


def _decode(head: Header, info: Info, begin: int, nbytes: int) -> Tensor:
    raw = np.frombuffer(head.mapped, dtype=np.uint8, count=nbytes, offset=begin)
    if info.type in PLAIN:
        return torch.frombuffer(bytearray(raw), dtype=PLAIN[info.type])
    kind: Any = getattr(quants, info.type.name)
    kind.init_grid()
    # The package's own dequantize() walks in groups of 16 rows, three times as slow as whole blocks of rows.
    return torch.from_numpy(kind.dequantize_blocks(raw.reshape(-1, kind.type_size)).reshape(-1))


def _restored(name: str, entry: Entry, family: Family, config: Mapping[str, Any], kept: list[float] | None) -> Entry:
    """Undo what GGUF's converters did to a tensor's values: rotary order of q and k, norms with 1 added."""
    if family.pairs and is_query_or_key(name):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        return reordered(entry, hf_from_pairs(entry.shape[0], heads))
    if family.norm_offset and kept is not None and (len(kept),) == entry.shape:
        return header({name: torch.tensor(kept, dtype=torch.float32)}, name)
    if family.norm_offset and name.endswith("norm.weight"):
        return Entry(entry.dtype, entry.shape, lambda start, stop: entry.read(start, stop) - 1)
    return entry


def _cast(entry: Entry, dtype: torch.dtype) -> Entry:
    return Entry(dtype, entry.shape, lambda start, stop: entry.read(start, stop).to(dtype))


def _scale(head: Header, config: dict[str, Any]) -> None:
    """Turn the factors of scaled rotary positions, which GGUF keeps as tensors, into config.json's parameters."""
    factors = {
        name: _entry(head, name, info).read(0, None) for name, info in head.tensors.items() if name in gguf_rope.TENSORS
    }
    if not factors:
        return
    scaling = gguf_rope.scaling_from(factors, config["rope_theta"])
    if scaling is None:
        refuse(
            "unknown-format",
            f"{head.path}: {', '.join(factors)} is no rotary scaling that config.json can tell",
            "use the original Hugging Face model",
            head.path,
        )
    original = head.metadata.get(f"{head.metadata['general.architecture']}.rope.scaling.original_context_length")
    if scaling["rope_type"] == "longrope" and original is not None:  # Phi-3 tells it beside, not in the scaling
        config["original_max_position_embeddings"] = original
    config["rope_scaling"] = scaling


def _complete(config: dict[str, Any], entries: Mapping[str, Entry]) -> None:
    """Add to the config what only the tensors tell: the vocabulary, the tied head, biases and the dtype."""
    embedding = entries.get("model.embed_tokens.weight")
    if embedding is not None:
        config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "lm_head.weight" not in entries
    if config["model_type"] == "llama":
        config["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in entries
    count: dict[torch.dtype, int] = {}
    for entry in entries.values():
        count[entry.dtype] = count.get(entry.dtype, 0) + prod(entry.shape)
    if count:
        config["torch_dtype"] = str(max(count, key=lambda dtype: count[dtype])).removeprefix("torch.")
