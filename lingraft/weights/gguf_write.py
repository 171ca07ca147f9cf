"""Write a checkpoint as one GGUF file for llama.cpp, tensor by tensor, with tokenizer, template and rotary scaling.

Matrices take the type asked for; norms and biases stay fp32, as llama.cpp wants them. Where nothing is lost by
that, the file records the tensors' own dtypes, so that reading it back gives every bit again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFValueType, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from lingraft.problems import refuse
from lingraft.weights import gguf_rope, gguf_tokenizer_write
from lingraft.weights.fingerprint import is_buffer
from lingraft.weights.gguf import DTYPES_KEY, NORM_KEY
from lingraft.weights.gguf_models import FAMILIES, KEYS, Family, family_for, gguf_name, is_query_or_key
from lingraft.weights.hf import dtype_of
from lingraft.weights.llama_shape import head_dim, require_config
from lingraft.weights.rotary import pairs_from_hf, reordered, theta_and_scaling
from lingraft.weights.safetensors import DTYPE_NAMES
from lingraft.weights.tensors import Checkpoint, Entry, Tensor, header, row_blocks
from lingraft.weights.tied import drop_tied_head

Q = GGMLQuantizationType
TYPES = {name: Q[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")}
FILE_TYPES = {name: LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"] for name in TYPES}
PLAIN = {Q.F32: torch.float32, Q.F16: torch.float16, Q.BF16: torch.bfloat16}
BLOCK = 32 << 20  # bytes of fp32 in one go


def write(
    checkpoint: Checkpoint, out: Path, kind: str | None = None, progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """Write ``checkpoint`` to the file ``out``; ``kind`` is one of TYPES, by default the weights' own dtype.

    Returns {"type", "exact"}; ``exact`` tells whether no bit is lost. Errors: `unknown-format` for an architecture,
    tokenizer or type that llama.cpp has no place for here, `config-mismatch` where its arithmetic would differ,
    `vocab-mismatch`.
    """
    config = checkpoint.config
    family = family_of(checkpoint.config, checkpoint.path)
    require_config(config, checkpoint.tensors, checkpoint.path)
    kind = kind or DTYPE_NAMES.get(dtype_of(checkpoint.tensors), "F32")
    if kind not in TYPES:
        refuse("unknown-format", f"{kind} is not a type that GGUF is written in here", f"use one of {', '.join(TYPES)}")
    entries = _entries(checkpoint, family)
    types = {name: _type(name, entry, TYPES[kind], entries) for name, entry in entries.items()}
    writer = GGUFWriter(out, family.gguf)
    try:
        _describe(writer, checkpoint, family, kind)
        _tokenizer(writer, checkpoint, entries["token_embd.weight"].shape[0])
        narrow = _narrow(checkpoint, family, types)
        _keep_norms(writer, checkpoint, family)
        if narrow:
            writer.add_string(DTYPES_KEY, json.dumps(narrow))
        for name, tensor in gguf_rope.tensors_for(config, head_dim(config)).items():
            entries[name], types[name] = header({name: tensor}, name), Q.F32
        _write_tensors(writer, entries, types, progress)
    finally:
        writer.close()
    return {"type": kind, "exact": narrow is not None}


def family_of(config: Mapping[str, Any], path: Path) -> Family:
    """Return how a model is written as GGUF. Errors: `unknown-format`, `config-mismatch` where it cannot be."""
    family = family_for(str(config.get("model_type")))
    if family is None:
        refuse(
            "unknown-format",
            f"{path} is a {config.get('model_type')!r} model; lingraft writes "
            f"{', '.join(f.model_type for f in FAMILIES)} as GGUF",
            "export with llama.cpp's own converter",
            path,
        )
    for key, value in family.fixed.items():
        if config.get(key) not in (None, value) and not (family.model_type == "gemma" and key == "hidden_act"):
            refuse(
                "config-mismatch",
                f"{key} is {config[key]!r}; llama.cpp computes {family.gguf} with {value!r}",
                "this model cannot be run by llama.cpp as it is",
                path / "config.json",
            )
    return family


def _entries(checkpoint: Checkpoint, family: Family) -> dict[str, Entry]:
    """Return the tensors under GGUF names, in GGUF's layout."""
    entries = {}
    for name in drop_tied_head(checkpoint.tensors, checkpoint.config):
        if is_buffer(name):
            continue
        gguf = gguf_name(name, family)
        if gguf is None:
            refuse(
                "unknown-format",
                f"tensor {name} has no place in GGUF's {family.gguf}",
                "export with llama.cpp's own converter",
                checkpoint.path,
                name,
            )
        entries[gguf] = laid_out(name, header(checkpoint.tensors, name), family, checkpoint.config)
    return entries


def laid_out(name: str, entry: Entry, family: Family, config: Mapping[str, Any]) -> Entry:
    """Return a tensor's rows in the order (and its norms with the offset) that llama.cpp's ``family`` wants."""
    if family.pairs and is_query_or_key(name):
        heads = config["num_attention_heads"]
        heads = heads if "q_proj" in name else config.get("num_key_value_heads") or heads
        return reordered(entry, pairs_from_hf(entry.shape[0], heads))
    if family.norm_offset and name.endswith("norm.weight"):
        return Entry(torch.float32, entry.shape, lambda start, stop: entry.read(start, stop).float() + 1)
    return entry


def _type(name: str, entry: Entry, wanted: GGMLQuantizationType, all_: Mapping[str, Entry]) -> GGMLQuantizationType:
    if len(entry.shape) < 2 or name.endswith("norm.weight"):
        return Q.F32
    if wanted in PLAIN:
        return wanted
    if name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in all_):
        wanted = Q.Q8_0  # the head decides every token: llama.cpp's quantiser keeps it finer, too
    return wanted if entry.shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else Q.F16


def _narrow(checkpoint: Checkpoint, family: Family, types: Mapping[str, GGMLQuantizationType]) -> dict[str, str] | None:
    """Return {Hugging Face name: dtype} of what is stored wider than it is, or None where anything is lost."""
    narrow: dict[str, str] = {}
    for name in checkpoint.tensors:
        kind = types.get(gguf_name(name, family) or "")
        entry = header(checkpoint.tensors, name)
        if kind is None or PLAIN.get(kind) == entry.dtype:
            continue
        if kind != Q.F32 or entry.dtype not in (torch.float16, torch.bfloat16):
            return None
        narrow[name] = DTYPE_NAMES[entry.dtype]
    return narrow


def _keep_norms(writer: GGUFWriter, checkpoint: Checkpoint, family: Family) -> None:
    """Keep the norms whose last bits are lost by adding 1 and taking it off again, as arrays that llama.cpp ignores."""
    for name in checkpoint.tensors if family.norm_offset else ():
        if name.endswith("norm.weight"):
            value = checkpoint.tensors[name].float()
            if not torch.equal((value + 1) - 1, value):
                writer.add_array(NORM_KEY + name, value.tolist())


def _describe(writer: GGUFWriter, checkpoint: Checkpoint, family: Family, kind: str) -> None:
    config = checkpoint.config
    writer.add_type("model")
    writer.add_name(checkpoint.path.resolve().name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    width = head_dim(config)
    theta, scaling = theta_and_scaling(config)
    told = {**config, "rope_theta": theta}
    told.setdefault("num_key_value_heads", config["num_attention_heads"])
    for key, name in {**KEYS, **family.keys}.items():
        _add_number(writer, f"{family.gguf}.{key}", told.get(name))
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        _add_number(writer, f"{family.gguf}.{key}", width)
    _add_number(writer, f"{family.gguf}.vocab_size", header(checkpoint.tensors, "model.embed_tokens.weight").shape[0])
    _add_scaling(writer, family, config, scaling)


def _add_number(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_uint32(key, int(value))


def _add_scaling(
    writer: GGUFWriter, family: Family, config: Mapping[str, Any], scaling: Mapping[str, Any] | None
) -> None:
    if scaling is None or scaling["rope_type"] == "llama3":  # llama3's factors are a tensor
        return
    kind = {"su": "longrope"}.get(scaling["rope_type"], scaling["rope_type"])
    if kind not in ("linear", "yarn", "longrope"):
        refuse("config-mismatch", f"llama.cpp has no rotary scaling of the kind {kind!r}", "export without it")
    prefix = f"{family.gguf}.rope.scaling."
    original = scaling.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    if kind != "longrope":
        writer.add_string(prefix + "type", kind)
        writer.add_float32(prefix + "factor", float(scaling["factor"]))
    elif original:
        stretch = config["max_position_embeddings"] / original
        factor = float(np.sqrt(1 + np.log(stretch) / np.log(original))) if stretch > 1 else 1.0
        writer.add_float32(prefix + "attn_factor", float(scaling.get("attention_factor") or factor))
    _add_number(writer, prefix + "original_context_length", original)


def _tokenizer(writer: GGUFWriter, checkpoint: Checkpoint, rows: int) -> None:
    files = checkpoint.side_content()
    found = gguf_tokenizer_write.vocabulary(files, rows)
    if found is None:
        writer.add_tokenizer_model("no_vocab")
        return
    writer.add_tokenizer_model(found.model)
    writer.add_tokenizer_pre(found.pre or "default")
    writer.add_token_list([token.encode("utf-8", "surrogateescape") for token in found.tokens])
    writer.add_token_types([int(kind) for kind in found.kinds])
    writer.add_token_merges(found.merges)
    writer.add_token_scores(found.scores)
    for key, value in gguf_tokenizer_write.metadata(files, found, checkpoint.config).items():
        flag = isinstance(value, bool)
        writer.add_key_value(f"tokenizer.ggml.{key}", value, GGUFValueType.BOOL if flag else GGUFValueType.UINT32)
    if template := gguf_tokenizer_write.chat_template(files):
        writer.add_chat_template(template)


def _write_tensors(
    writer: GGUFWriter,
    entries: Mapping[str, Entry],
    types: Mapping[str, GGMLQuantizationType],
    progress: Callable[[int], object] | None,
) -> None:
    for name, entry in entries.items():
        block, size = GGML_QUANT_SIZES[types[name]]
        writer.add_tensor_info(name, entry.shape, np.dtype(np.float32), prod(entry.shape) // block * size, types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file = writer.fout[0]
    for name, entry in entries.items():
        writer.write_padding(file, file.tell())
        for start, stop in row_blocks(entry.shape, 4, BLOCK):
            data = _encoded(entry.read(start, stop), types[name])
            file.write(data)
            if progress is not None:
                progress(len(data))
    writer.write_padding(file, file.tell())


def _encoded(tensor: Tensor, kind: GGMLQuantizationType) -> memoryview:
    if kind in PLAIN:
        flat = tensor.to(PLAIN[kind]).contiguous().reshape(-1)
        return memoryview(flat.view(torch.uint8).numpy().data)
    blocks = tensor.float().numpy().reshape(-1, GGML_QUANT_SIZES[kind][0])
    return memoryview(np.ascontiguousarray(getattr(quants, kind.name).quantize_blocks(blocks)).reshape(-1).data)
