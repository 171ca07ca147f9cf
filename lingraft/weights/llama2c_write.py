"""Write llama2c's .bin files v0, v1 and v2 (see `llama2c` for the layout), and the tokenizer beside them.

run.c fixes two numbers in its source: a rotary base of 10,000 and an epsilon of 1e-5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from lingraft.problems import Findings, refuse
from lingraft.weights.fingerprint import is_buffer, raw_bytes
from lingraft.weights.llama2c import MAGIC, Shape
from lingraft.weights.llama2c_tokenizer import tokenizer_bytes
from lingraft.weights.llama_shape import require_config
from lingraft.weights.rotary import pairs_from_hf, reordered, theta_and_scaling
from lingraft.weights.tensors import Checkpoint, Entry, Tensor, header, row_blocks
from lingraft.weights.tied import EMBEDDING, HEAD, drop_tied_head

BLOCK = 32 << 20
LONGEST_CONTEXT = 1 << 20  # v0 writes a table of angles for every position
EPSILON, THETA = 1e-5, 10000.0


def write(
    checkpoint: Checkpoint,
    out: Path,
    version: int = 0,
    group: int = 64,
    findings: Findings | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Write the model to the file ``out``; returns {"version", "exact"}.

    ``group`` is how many values share a scale in v2; it is halved until it divides the width. Errors:
    `unknown-format` for anything but a plain Llama, `config-mismatch` where run.c would compute something else.
    """
    findings = findings or Findings()
    shape = _shape(checkpoint, version, group)
    _check(checkpoint, shape, findings)
    findings.settle()
    with out.open("wb") as file:
        file.write(_header(shape))
        for name in shape.order():
            if name == "freq_cis":
                file.write(_angles(shape))
                continue
            _write_tensor(file, _source(checkpoint, name, shape), shape.group if shape.quantised(name) else 0)
            if progress is not None:
                progress(header(checkpoint.tensors, name).nbytes)
    exact = version < 2 and all(header(checkpoint.tensors, n).dtype == torch.float32 for n in checkpoint.tensors)
    return {"version": version, "exact": exact}


def write_tokenizer(checkpoint: Checkpoint, out: Path) -> bool:
    """Write the tokenizer of a SentencePiece model to ``out`` in llama2.c's form; tell whether there was one."""
    files = checkpoint.side_content()
    if "tokenizer.model" not in files:
        return False
    out.write_bytes(tokenizer_bytes(files["tokenizer.model"]))
    return True


def _shape(checkpoint: Checkpoint, version: int, group: int) -> Shape:
    config, weights = checkpoint.config, checkpoint.tensors
    if config.get("model_type") not in ("llama", "mistral") or version not in (0, 1, 2):
        refuse(
            "unknown-format",
            f"{checkpoint.path} is a {config.get('model_type')!r} model; llama2.c holds Llamas "
            "in its versions 0, 1 and 2",
            "convert to hf or gguf",
            checkpoint.path,
        )
    require_config(config, weights, checkpoint.path)
    dim, heads = config["hidden_size"], config["num_attention_heads"]
    while group > 1 and (dim % group or config["intermediate_size"] % group):
        group //= 2
    tied = HEAD not in drop_tied_head(weights, config)
    return Shape(
        version,
        dim,
        config["intermediate_size"],
        config["num_hidden_layers"],
        heads,
        config.get("num_key_value_heads") or heads,
        header(weights, EMBEDDING).shape[0],
        min(config.get("max_position_embeddings", 2048), LONGEST_CONTEXT),
        tied,
        group if version == 2 else 0,
    )


def _check(checkpoint: Checkpoint, shape: Shape, findings: Findings) -> None:
    config = checkpoint.config
    theta, scaling = theta_and_scaling(config)
    if theta != THETA or scaling is not None:
        findings.problem(
            "config-mismatch",
            f"llama2.c rotates with base {THETA:.0f}; this model has {theta:.0f}"
            + (" and scales positions" if scaling else ""),
            "convert to gguf instead",
            checkpoint.path,
        )
    if (epsilon := config.get("rms_norm_eps", 1e-6)) != EPSILON:
        findings.warn(
            "config-mismatch",
            f"llama2.c adds {EPSILON} under its norms; this model has {epsilon}",
            "answers can differ in late decimals",
            checkpoint.path,
        )
    wanted = set(shape.order()) - {"freq_cis"}
    held = {name for name in drop_tied_head(checkpoint.tensors, config) if not is_buffer(name)}
    for name in sorted(wanted ^ held):
        side = "has no tensor" if name in wanted else "has a tensor that llama2.c has no place for:"
        findings.problem(
            "unknown-format", f"{checkpoint.path} {side} {name}", "convert to hf or gguf", checkpoint.path, name
        )
    for name in sorted(wanted & held):
        found = header(checkpoint.tensors, name).shape
        if found != shape.of(name):
            findings.problem(
                "config-mismatch",
                f"{name} has the shape {list(found)}; llama2.c needs {list(shape.of(name))}",
                "convert to hf or gguf",
                checkpoint.path,
                name,
            )


def _header(shape: Shape) -> bytes:
    numbers = (shape.dim, shape.hidden, shape.layers, shape.heads, shape.kv_heads)
    if shape.version == 0:
        return struct.pack("<7i", *numbers, shape.vocab if shape.tied else -shape.vocab, shape.context)
    raw = struct.pack("<Ii7iB", MAGIC, shape.version, *numbers, shape.vocab, shape.context, shape.tied)
    raw += struct.pack("<i", shape.group) if shape.version == 2 else b""
    return raw.ljust(256, b"\0")


def _angles(shape: Shape) -> bytes:
    half = torch.arange(0, shape.head_dim, 2)[: shape.head_dim // 2].float() / shape.head_dim
    angles = torch.outer(torch.arange(shape.context), 1.0 / (THETA**half))
    return bytes(raw_bytes(angles.cos())) + bytes(raw_bytes(angles.sin()))


def _source(checkpoint: Checkpoint, name: str, shape: Shape) -> Entry:
    entry = header(checkpoint.tensors, name)
    if ".q_proj." in name or ".k_proj." in name:
        heads = shape.heads if ".q_proj." in name else shape.kv_heads
        return reordered(entry, pairs_from_hf(entry.shape[0], heads))
    return entry


def _write_tensor(file: IO[bytes], entry: Entry, group: int) -> None:
    scales = []
    for start, stop in row_blocks(entry.shape, 4, BLOCK):
        block = entry.read(start, stop).float()
        if group:
            block, scale = _quantise(block, group)
            scales.append(scale)
        file.write(raw_bytes(block))
    for scale in scales:
        file.write(raw_bytes(scale))


def _quantise(block: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return int8 values and one fp32 scale a group: the largest magnitude becomes 127 (Q8_0, symmetric)."""
    values = block.reshape(-1, group)
    scale = values.abs().amax(dim=1) / 127.0
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (values / safe[:, None]).round().to(torch.int8), scale
