"""A peft LoRA as llama.cpp's LoRA adapter: a small GGUF that a server loads beside the base, with a scale a request.

    lingraft export ADAPTER --to gguf-adapter --out FILE.gguf

A GGUF adapter holds low-rank pairs for matrices of the base and one alpha for all; it has no place for anything
else that peft can train. What an adapter brings is asked of the merge itself (`merge/`), so that nothing is lost
unseen: whatever is no low-rank pair refuses the export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from lingraft.export.source import Source
from lingraft.merge import updates as u
from lingraft.problems import Findings, refuse
from lingraft.weights.gguf_models import Family, family_for, gguf_name
from lingraft.weights.gguf_write import laid_out
from lingraft.weights.tensors import Tensor

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WHAT = {
    u.Replace: "a module saved whole (modules_to_save, or a bias)",
    u.Rows: "trained token rows",
    u.Extend: "new token rows",
    u.Dora: "DoRA's magnitudes",
    u.Scale: "IA3 factors",
    u.Add: "a bias of LoRA (lora_bias)",
}


@dataclass(frozen=True)
class Pair:
    """One matrix's difference, scale * b @ a, in GGUF's row order: a is (r, in), b is (out, r)."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def alpha(self) -> float:
        return self.scale * self.a.shape[0]


@dataclass(frozen=True)
class Made:
    """A GGUF adapter that was decided and not yet written."""

    name: str
    family: Family
    pairs: Mapping[str, Pair]  # by GGUF name
    below: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum((p.a.numel() + p.b.numel()) * 4 for p in self.pairs.values()) + (1 << 16)


def kind_of(kind: str | None) -> str:
    """Return a type as GGUF spells it, F32 where none is asked for. Error: `unknown-format`."""
    name = (kind or "F32").upper()
    if name not in TYPES:
        refuse("unknown-format", f"{kind!r} is not a type for a GGUF adapter here", f"use one of {', '.join(TYPES)}")
    return name


def plan(source: Source, findings: Findings) -> Made:
    """Turn the last adapter of a source into GGUF's pairs.

    Errors: `unsupported-adapter` for everything that is no low-rank pair (every tensor told) and for adapters on an
    embedding that is the head, too; `unknown-format` for an architecture that llama.cpp has no place for here.
    """
    if source.decided is None:
        refuse(
            "unsupported-adapter",
            f"{source.path} is a model, not an adapter",
            "name the adapter: lingraft export ADAPTER --to gguf-adapter",
            source.path,
        )
    family = family_for(str(source.base.config.get("model_type")))
    if family is None:
        refuse(
            "unknown-format",
            f"{source.stack.base} is a {source.base.config.get('model_type')!r} model, which "
            "lingraft does not write as GGUF",
            "convert the adapter with llama.cpp's own script",
            source.stack.base,
        )
    model = source.decided.model
    pairs: dict[str, Pair] = {}
    for name, some in model.plans[-1].updates.items():
        why = _why_not(some, model.ends.tied)
        place = gguf_name(name, family)
        if why is None and place is None:
            why = f"a tensor that GGUF's {family.gguf} does not have"
        if why is None and place is not None:
            pairs[place] = _pair(name, some, family, source.base.config)
        else:
            findings.problem(
                "unsupported-adapter",
                f"{source.path}: {name} brings {why}, which a GGUF adapter cannot hold",
                f"merge it: lingraft merge {source.stack.base} "
                f"{' '.join(map(str, source.stack.adapters))} --out DIR; or export the merged model "
                f"without writing it: lingraft export {source.path} --to gguf",
                source.path,
                name,
            )
    findings.settle()
    below = tuple(str(path) for path in source.stack.adapters[:-1])
    if below:
        findings.warn(
            "wrong-order",
            f"{source.path} was trained on top of {', '.join(below)}: alone it answers otherwise than it did",
            "export those, too, and load them beside it, each with scale 1",
            source.path,
        )
    return Made(source.path.name, family, pairs, below)


def _why_not(some: Sequence[object], tied: bool) -> str | None:
    for update in some:
        if isinstance(update, u.LowRankEmbedding):
            if tied:
                return "a LoRA on an embedding that is the head, too"
        elif not isinstance(update, u.LowRank):
            return WHAT.get(type(update), "a start that was cut out of the base (PiSSA, OLoRA)")
        elif update.transposed:
            return "a LoRA on a transposed layer (Conv1D)"
    return None


def _pair(name: str, some: Sequence[Any], family: Family, config: Mapping[str, Any]) -> Pair:
    """Return a tensor's difference as one pair: several (fused ones) are stacked, their scales inside b."""
    a = [update.a.read(0, None).float() for update in some]
    b = [laid_out(name, update.b, family, config).read(0, None).float() for update in some]
    if len(some) == 1:
        return Pair(a[0], b[0], some[0].scale)
    scaled = [part * update.scale for part, update in zip(b, some, strict=True)]
    return Pair(torch.cat(a), torch.cat(scaled, dim=1), 1.0)


def write(made: Made, out: Path, kind: str) -> dict[str, Any]:
    """Write the adapter to ``out`` and return {"type", "tensors", "alpha", "below"}.

    llama.cpp scales every pair by alpha / r. Where peft's scales are not all of that form (rsLoRA, alpha_pattern),
    alpha is 1 and b carries the rest.
    """
    alphas = {pair.alpha for pair in made.pairs.values()}
    alpha = alphas.pop() if len(alphas) == 1 else 1.0
    writer = GGUFWriter(out, made.family.gguf)
    try:
        writer.add_type("adapter")
        writer.add_name(made.name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, pair in made.pairs.items():
            b = pair.b if pair.alpha == alpha else pair.b * (pair.alpha / alpha)
            # llama.cpp looks rows up in an embedding's a, so that one lies the other way round
            a = pair.a.T if name == "token_embd.weight" else pair.a
            _add(writer, f"{name}.lora_a", a, kind)
            _add(writer, f"{name}.lora_b", b, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return {"type": kind, "tensors": 2 * len(made.pairs), "alpha": alpha, "below": list(made.below)}


def _add(writer: GGUFWriter, name: str, tensor: Tensor, kind: str) -> None:
    value = tensor.to(TYPES[kind]).contiguous()
    if kind == "BF16":
        raw = value.view(torch.uint8).numpy().reshape(*value.shape[:-1], -1)
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, np.ascontiguousarray(value.numpy()))
