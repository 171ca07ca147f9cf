"""Whether a config.json tells what its tensors are: asked before a writer trusts it with heads and layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.problems import Findings
from lingraft.weights.tensors import Weights, header
from lingraft.weights.tied import EMBEDDING

NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
REMEDY = "restore the config.json that belongs to these weights, or run `lingraft adopt`"


def require_config(config: Mapping[str, Any], weights: Weights, path: Path) -> None:
    """Refuse a config that misses a field a decoder needs, or that its tensors contradict.

    Errors, all of them told: `config-mismatch`, and `unknown-format` for weights without an embedding.
    """
    findings = Findings()
    if EMBEDDING not in weights:
        findings.problem(
            "unknown-format",
            f"{path} has no {EMBEDDING}: no decoder that this format can hold",
            "convert to hf, or use a complete model",
            path,
            EMBEDDING,
        )
    missing = [key for key in NEEDED if not isinstance(config.get(key), int) or config[key] < 1]
    if missing:
        findings.problem("config-mismatch", f"{path / 'config.json'} does not tell {', '.join(missing)}", REMEDY, path)
    findings.settle()
    for name, rows in _expected(config, weights).items():
        if name in weights and header(weights, name).shape[0] != rows:
            findings.problem(
                "config-mismatch",
                f"{name} has {header(weights, name).shape[0]} rows; config.json makes it {rows}",
                REMEDY,
                path,
                name,
            )
    layers = {int(found[1]) for name in weights if (found := re.match(r"model\.layers\.(\d+)\.", name))}
    if layers != set(range(config["num_hidden_layers"])):
        findings.problem(
            "config-mismatch",
            f"{path} holds {len(layers)} layers; config.json says {config['num_hidden_layers']}",
            REMEDY,
            path,
        )
    findings.settle()


def head_dim(config: Mapping[str, Any]) -> int:
    """Return the width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _expected(config: Mapping[str, Any], weights: Weights) -> dict[str, int]:
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or heads
    layer = "model.layers.0."
    expected = {
        f"{layer}self_attn.q_proj.weight": heads * head_dim(config),
        f"{layer}self_attn.k_proj.weight": kv * head_dim(config),
        f"{layer}self_attn.o_proj.weight": config["hidden_size"],
        f"{layer}mlp.up_proj.weight": config["intermediate_size"],
        "model.norm.weight": config["hidden_size"],
    }
    return {name: rows for name, rows in expected.items() if name in weights}
