"""Do config.json, the tokenizer and the shapes of the tensors tell the same story?

Shapes decide: whatever config.json says otherwise is named, with the tensor that contradicts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lingraft.problems import Findings
from lingraft.weights.headers import Header
from lingraft.weights.shards import few

EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "token_embd.weight",
)
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
LAYER = re.compile(r"(.*?)(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
FLOATS = ("F64", "F32", "F16", "BF16")
ALIASES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "positions": ("max_position_embeddings", "n_positions"),
}
# Families whose linear layers have exactly the sizes below; others put gates or several matrices into one.
LLAMA_LIKE = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "smollm3",
    "olmo",
    "olmo2",
    "granite",
    "cohere",
    "stablelm",
    "internlm2",
    "yi",
    "baichuan",
}
# suffix → (dimension, what it must equal)
SHAPES: dict[str, tuple[tuple[int, str], ...]] = {
    "self_attn.q_proj.weight": ((0, "queries"), (1, "hidden_size")),
    "self_attn.k_proj.weight": ((0, "keys"), (1, "hidden_size")),
    "self_attn.v_proj.weight": ((0, "keys"), (1, "hidden_size")),
    "self_attn.o_proj.weight": ((0, "hidden_size"), (1, "queries")),
    "mlp.gate_proj.weight": ((0, "intermediate_size"), (1, "hidden_size")),
    "mlp.up_proj.weight": ((0, "intermediate_size"), (1, "hidden_size")),
    "mlp.down_proj.weight": ((0, "hidden_size"), (1, "intermediate_size")),
    "attn.c_attn.weight": ((0, "hidden_size"), (1, "3 × hidden_size")),
    "mlp.c_fc.weight": ((0, "hidden_size"), (1, "intermediate_size")),
    "wpe.weight": ((0, "positions"), (1, "hidden_size")),
    "attention.self.query.weight": ((1, "hidden_size"),),
    "intermediate.dense.weight": ((0, "intermediate_size"), (1, "hidden_size")),
    "embeddings.position_embeddings.weight": ((0, "positions"), (1, "hidden_size")),
    "attention.query_key_value.weight": ((1, "hidden_size"),),
    "mlp.dense_h_to_4h.weight": ((0, "intermediate_size"), (1, "hidden_size")),
}
PER_LAYER = tuple(suffix for suffix in SHAPES if suffix.startswith(("self_attn", "mlp.gate", "mlp.up", "mlp.down")))
REMEDY = "restore config.json from the model's source, or run `lingraft adopt` to infer it from the weights"


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def embedding_of(headers: Mapping[str, Header]) -> str | None:
    """Return the name of the input embedding."""
    return next((n for ending in EMBEDDINGS for n in headers if n == ending or n.endswith("." + ending)), None)


def head_of(headers: Mapping[str, Header]) -> str | None:
    """Return the name of the output head, where it is saved apart."""
    return next((n for ending in HEADS for n in headers if n == ending or n.endswith("language_model." + ending)), None)


def check_config(path: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    """Note `config-mismatch` for every size that the shapes contradict, and for layers that are not there."""
    text = text_config(config)
    if not headers or not text:
        return
    _check_width(path, text, headers, findings)
    _check_layers(path, text, headers, findings)
    if not config.get("quantization_config"):
        _check_shapes(path, text, headers, findings)
    _check_ids(path, text, headers, findings)


def _value(text: Mapping[str, Any], name: str) -> int | None:
    for alias in ALIASES.get(name, (name,)):
        if isinstance(text.get(alias), int):
            return int(text[alias])
    return None


def _wanted(text: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Return what each size must be, and how config.json comes to it."""
    found: dict[str, tuple[int, str]] = {}
    for name in ("hidden_size", "intermediate_size", "positions"):
        if (number := _value(text, name)) is not None:
            alias = next(a for a in ALIASES[name] if isinstance(text.get(a), int))
            found[name] = (number, f"{alias} {number:,}")
    hidden, heads = _value(text, "hidden_size"), _value(text, "num_attention_heads")
    if hidden is None:
        return found
    found["3 × hidden_size"] = (3 * hidden, f"3 × hidden size {hidden:,}")
    if "intermediate_size" not in found and text.get("model_type") == "gpt2":
        found["intermediate_size"] = (4 * hidden, f"4 × n_embd {hidden:,}")
    if heads:
        kv = text.get("num_key_value_heads")
        kv = heads if not isinstance(kv, int) else kv
        size = text.get("head_dim")
        size = hidden // heads if not isinstance(size, int) else size
        found["queries"] = (heads * size, f"{heads} heads × head size {size}")
        found["keys"] = (kv * size, f"{kv} key-value heads × head size {size}")
    return found


def _check_width(path: Path, text: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    name, hidden = embedding_of(headers), _value(text, "hidden_size")
    if name is None or hidden is None or headers[name].dtype not in FLOATS or len(headers[name].shape) != 2:
        return
    width = headers[name].shape[1]
    if width not in (hidden, text.get("embedding_size"), text.get("word_embed_proj_dim")):
        findings.problem(
            "config-mismatch", f"{path} says hidden_size {hidden:,}; {name} has {width:,} columns", REMEDY, path, name
        )


def _check_layers(path: Path, text: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    layers = _value(text, "num_hidden_layers")
    groups: dict[str, set[int]] = {}
    for name in headers:
        if found := LAYER.match(name):
            groups.setdefault(found[1], set()).add(int(found[2]))
    if layers is None or not groups:
        return
    extra = text.get("num_nextn_predict_layers")
    most = layers + (extra if isinstance(extra, int) else 0)
    if not any(len(group) in (layers, most) and max(group) < most for group in groups.values()):
        group = max(groups.values(), key=len)
        gaps = sorted(set(range(max(group) + 1)) - group)
        told = f"; missing: {few([str(i) for i in gaps])}" if gaps else ""
        findings.problem(
            "config-mismatch",
            f"{path} says num_hidden_layers {layers}; the tensors have {len(group)} layers, 0 to {max(group)}{told}",
            REMEDY,
            path,
        )
    if text.get("model_type") in LLAMA_LIKE and not text.get("quantization_config"):
        _check_complete(path, headers, findings)


def _check_complete(path: Path, headers: Mapping[str, Header], findings: Findings) -> None:
    """A matrix that some layers have and one has not was lost."""
    for suffix in PER_LAYER:
        having = {int(f[2]) for n in headers if n.endswith("." + suffix) and (f := LAYER.match(n))}
        every = {int(f[2]) for n in headers if (f := LAYER.match(n)) and "vision" not in f[1]}
        lost = sorted(every - having)
        if having and lost:
            where = few([str(i) for i in lost])
            findings.problem(
                "config-mismatch",
                f"{path.parent}: {suffix} is missing in layers {where}",
                "download the model again: a shard or a part of one is from elsewhere",
                path.parent,
                suffix,
            )


def _check_shapes(path: Path, text: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    wanted = _wanted(text)
    kind = text.get("model_type")
    wrong: dict[str, list[str]] = {}
    for name, item in headers.items():
        suffix = next((s for s in SHAPES if name == s or name.endswith("." + s)), None)
        if suffix is None or item.dtype not in FLOATS or "vision" in name or "expert" in name:
            continue
        if suffix in PER_LAYER and kind not in LLAMA_LIKE:
            continue
        for axis, size in SHAPES[suffix]:
            if size in wanted and axis < len(item.shape) and item.shape[axis] != wanted[size][0]:
                side = "rows" if axis == 0 else "columns"
                told = f"{wanted[size][1]}" + (f" = {wanted[size][0]:,}" if "×" in wanted[size][1] else "")
                wrong.setdefault(f"{told}|{item.shape[axis]:,} {side}", []).append(name)
    for told, names in wrong.items():
        says, has = told.split("|")
        findings.problem(
            "config-mismatch",
            f"{path} says {says}; {names[0]} has {has} ({len(names)} tensors disagree)",
            REMEDY,
            path,
            names[0],
        )


def _check_ids(path: Path, text: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    """An id past the last row: a padding id breaks loading; others break generation, if anyone uses them."""
    name = embedding_of(headers)
    if name is None:
        return
    rows = headers[name].shape[0]
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        given = text.get(key)
        ids: Sequence[Any] = given if isinstance(given, list) else [given]
        if any(isinstance(i, int) and i >= rows for i in ids):
            tell = findings.problem if key == "pad_token_id" else findings.warn
            tell(
                "config-mismatch",
                f"{path} says {key} {given}; {name} has {rows:,} rows",
                "give an id that exists, or add the row",
                path,
                name,
            )


def check_vocabulary(path: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    """Note `vocab-mismatch` where config.json's vocab_size is not the number of embedding or head rows."""
    size = text_config(config).get("vocab_size")
    for name in (embedding_of(headers), head_of(headers)):
        if name is None or not isinstance(size, int) or headers[name].dtype not in FLOATS:
            continue
        rows = headers[name].shape[0]
        if rows != size:
            findings.problem(
                "vocab-mismatch",
                f"{path} says vocab_size {size:,}; {name} has {rows:,} rows",
                f"set vocab_size to {rows} in config.json",
                path,
                name,
            )


def check_tokenizer(path: Path, size: int, rows: int, tensor: str, findings: Findings) -> None:
    """Hold a tokenizer against the rows it needs.

    Problem `tokenizer-mismatch`: more tokens than rows. Warning of the same code: far fewer, beyond any padding.
    """
    if size > rows:
        findings.problem(
            "tokenizer-mismatch",
            f"{path} has {size:,} tokens; {tensor} has {rows:,} rows: the last {size - rows:,} tokens have none",
            "take the tokenizer that belongs to these weights, or the weights whose vocabulary was extended",
            path,
            tensor,
        )
    elif rows - size > 1024 or (rows - size > 128 and rows - size > 0.05 * rows):
        findings.warn(
            "tokenizer-mismatch",
            f"{path} has {size:,} tokens; {tensor} has {rows:,} rows: {rows - size:,} "
            "rows no token uses, more than padding explains",
            "check that this is the tokenizer that the model was trained with",
            path,
            tensor,
        )
