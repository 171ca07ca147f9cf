"""Meta's tensor names and params.json, and Hugging Face's names and config.json, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lingraft.problems import refuse
from lingraft.weights.rotary import theta_and_scaling

OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
UNUSED = ("rope.freqs", "freqs_cis")  # buffers that Meta's first releases saved along
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def hf_name(name: str) -> str | None:
    """Return the Hugging Face name of one of Meta's tensors, or None."""
    return OUTER.get(name) or _inner(name, r"layers\.(\d+)\.(.+)\.(weight|bias)", "model.layers.{}.{}.{}", INNER)


def meta_name(name: str) -> str | None:
    """Return Meta's name of a Llama tensor, or None."""
    outer = {hf: meta for meta, hf in OUTER.items()}
    inner = {hf: meta for meta, hf in INNER.items()}
    return outer.get(name) or _inner(name, r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", "layers.{}.{}.{}", inner)


def _inner(name: str, pattern: str, form: str, table: Mapping[str, str]) -> str | None:
    found = re.fullmatch(pattern, name)
    return form.format(found[1], table[found[2]], found[3]) if found and found[2] in table else None


def config_from(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return config.json's fields for params.json; ``shapes`` (Hugging Face names) tell what it leaves out."""
    heads = int(params["n_heads"])
    vocab, _ = shapes["model.embed_tokens.weight"]
    width = int(params["dim"])
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "num_hidden_layers": int(params["n_layers"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(params.get("n_kv_heads") or heads),
        "intermediate_size": shapes["model.layers.0.mlp.gate_proj.weight"][0],
        "rms_norm_eps": params.get("norm_eps", 1e-5),
        "rope_theta": params.get("rope_theta", 10000.0),
        "vocab_size": vocab,
        "max_position_embeddings": _context(params),
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
    }
    head_dim = shapes["model.layers.0.self_attn.q_proj.weight"][0] // heads
    if head_dim * heads != width:
        config["head_dim"] = head_dim
    if params.get("use_scaled_rope"):
        factor = float(params.get("rope_scaling_factor") or _usual_factor(width))
        config["rope_scaling"] = {**LLAMA3_SCALING, "factor": factor}
    if vocab == 128256:
        config |= {"bos_token_id": 128000, "eos_token_id": 128001}
    return config


def unsaid(params: Mapping[str, Any]) -> frozenset[str]:
    """Name the fields of `config_from` that params.json does not tell: what Meta's code takes by itself."""
    sources = {
        "rms_norm_eps": "norm_eps",
        "rope_theta": "rope_theta",
        "max_position_embeddings": "max_seq_len",
        "rope_scaling": "rope_scaling_factor",
    }
    return frozenset({"hidden_act", "bos_token_id", "eos_token_id"}) | {
        name for name, key in sources.items() if not params.get(key)
    }


def _usual_factor(width: int) -> float:
    """Return the stretch of Llama 3's positions that params.json leaves unsaid: 3.2's small models have 32."""
    return 32.0 if width <= 3072 else 8.0


def _context(params: Mapping[str, Any]) -> int:
    if params.get("max_seq_len"):
        return int(params["max_seq_len"])
    if params.get("use_scaled_rope"):
        return 131072
    theta = params.get("rope_theta", 10000.0)
    return {10000.0: 4096, 500000.0: 8192, 1000000.0: 16384}.get(float(theta), 4096)


def params_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return params.json's fields; multiple_of and ffn_dim_multiplier are chosen to give the right width again.

    Meta's code hands the file to a dataclass and fails on a field it does not know, so nothing more is written.
    Error: `config-mismatch` for a rotary scaling that Meta's code does not have.
    """
    theta, scaling = theta_and_scaling(config)
    heads = config["num_attention_heads"]
    params: dict[str, Any] = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "vocab_size": config["vocab_size"],
        "norm_eps": config.get("rms_norm_eps", 1e-6),
    }
    if theta != 10000.0:
        params["rope_theta"] = theta
    if (kv := config.get("num_key_value_heads") or heads) != heads:
        params["n_kv_heads"] = kv
    params |= _feed_forward(config["hidden_size"], config["intermediate_size"])
    if config.get("head_dim") and config["head_dim"] * heads != config["hidden_size"]:
        params["head_dim"] = config["head_dim"]
    if scaling is not None:
        params["use_scaled_rope"] = True
        factor = scaling.get("factor")
        if {**scaling, "factor": 8.0} != LLAMA3_SCALING:
            refuse("config-mismatch", f"Meta's code has no rotary scaling like {scaling}", "convert to another format")
        if factor != _usual_factor(config["hidden_size"]):
            params["rope_scaling_factor"] = factor
    return params


def feed_forward_width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Return the width that Meta's code computes from params.json (llama/model.py: FeedForward)."""
    width = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


def _feed_forward(dim: int, width: int) -> dict[str, Any]:
    for multiple in (256, 1024, 4096, 512, 128, 64, 32, 16, 8, 4, 2, 1):
        if width % multiple == 0 and feed_forward_width(dim, multiple, None) == width:
            return {"multiple_of": multiple}
    plain = feed_forward_width(dim, 1, None)
    for multiple in (4096, 1024, 256, 64, 16, 4, 1):
        for multiplier in (round(width / plain, 1), round(width / plain, 3), width / plain, (width + 0.5) / plain):
            if width % multiple == 0 and feed_forward_width(dim, multiple, multiplier) == width:
                return {"multiple_of": multiple, "ffn_dim_multiplier": multiplier}
    return {"multiple_of": 1, "ffn_dim_multiplier": (width + 0.5) / plain}
