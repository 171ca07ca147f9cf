"""Tiny random models of every family, their config taken away; nothing of their values but shapes can be checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lingraft.problems import Findings, Refusal

COMMON = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
KV = {**COMMON, "num_key_value_heads": 2}
CLASSES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**KV, "rms_norm_eps": 1e-5}),
    "mistral": ("MistralForCausalLM", {**KV, "sliding_window": None, "rms_norm_eps": 1e-5}),
    "qwen2": ("Qwen2ForCausalLM", {**KV, "rope_theta": 1e6}),
    "qwen3": ("Qwen3ForCausalLM", {**KV, "head_dim": 32, "rope_theta": 1e6}),
    "gemma": ("GemmaForCausalLM", {**KV, "head_dim": 32}),
    "gemma2": ("Gemma2ForCausalLM", {**KV, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "gemma3_text": ("Gemma3ForCausalLM", {**KV, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 400, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("GPTNeoXForCausalLM", COMMON),
    "bert": ("BertForMaskedLM", COMMON),
    "roberta": (
        "RobertaForMaskedLM",
        {**COMMON, "max_position_embeddings": 130, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
}


def save(kind: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Save a tiny model of a family without its config.json, and return what that would have said."""
    import torch
    import transformers

    torch.manual_seed(0)
    name, fields = CLASSES[kind]
    model = getattr(transformers, name)
    model(model.config_class(**{**fields, **changes})).save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    return config


def problems(call: Callable[[Findings], Any], *codes: str) -> list[Any]:
    """Return the problems that a call is refused with, which must be of these codes."""
    with pytest.raises(Refusal) as refusal:
        call(Findings())
    assert {problem.code for problem in refusal.value.problems} == set(codes)
    return list(refusal.value.problems)
