"""Which architectures GGUF and Hugging Face share: tensor names and config fields, in both directions.

A new architecture is one `Family` in `FAMILIES`. Names: GGUF calls layer 3's query projection `blk.3.attn_q.weight`
where Hugging Face says `model.layers.3.self_attn.q_proj.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
FUSED = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
KEYS = {  # GGUF key below the architecture's name -> config.json
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}


@dataclass(frozen=True)
class Family:
    """How one architecture differs from Llama's plain scheme."""

    gguf: str  # general.architecture
    model_type: str
    class_name: str
    block: Mapping[str, str] = field(default_factory=lambda: BLOCK)
    pairs: bool = False  # q and k lie in the interleaved rotary layout
    norm_offset: bool = False  # norms are stored with 1 added
    explicit_head: bool = False  # head_dim is not hidden_size / heads
    theta: float = 10000.0
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)  # config fields that GGUF does not carry
    also: tuple[str, ...] = ()  # further model types that are written as this architecture


SOFTCAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
WINDOW = {"attention.sliding_window": "sliding_window"}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}
FAMILIES = (
    Family("llama", "llama", "LlamaForCausalLM", pairs=True, also=("mistral",), fixed={"hidden_act": "silu"}),
    Family("qwen2", "qwen2", "Qwen2ForCausalLM", theta=10000.0, fixed={"hidden_act": "silu"}),
    Family(
        "qwen3", "qwen3", "Qwen3ForCausalLM", {**BLOCK, **HEAD_NORMS}, explicit_head=True, fixed={"hidden_act": "silu"}
    ),
    Family("gemma", "gemma", "GemmaForCausalLM", norm_offset=True, explicit_head=True, fixed=GEMMA),
    Family(
        "gemma2",
        "gemma2",
        "Gemma2ForCausalLM",
        {**BLOCK, **SANDWICH},
        norm_offset=True,
        explicit_head=True,
        keys={**SOFTCAPS, **WINDOW},
        fixed=GEMMA,
    ),
    Family(
        "gemma3",
        "gemma3_text",
        "Gemma3ForCausalLM",
        {**BLOCK, **SANDWICH, **HEAD_NORMS},
        norm_offset=True,
        explicit_head=True,
        theta=1_000_000.0,
        keys={**WINDOW, "final_logit_softcapping": "final_logit_softcapping"},
        fixed=GEMMA,
    ),
    Family("phi3", "phi3", "Phi3ForCausalLM", {**BLOCK, **FUSED}, keys=WINDOW, fixed={"hidden_act": "silu"}),
)


def family_of(architecture: str) -> Family | None:
    """Return the family of a GGUF's general.architecture."""
    return next((family for family in FAMILIES if family.gguf == architecture), None)


def family_for(model_type: str) -> Family | None:
    """Return the family that a config.json's model_type is written as."""
    return next((f for f in FAMILIES if model_type == f.model_type or model_type in f.also), None)


def hf_name(name: str, family: Family) -> str | None:
    """Return the Hugging Face name of a GGUF tensor, or None where the family has no such tensor."""
    stem, _, leaf = name.rpartition(".")
    if found := re.fullmatch(r"blk\.(\d+)\.(.+)", stem):
        back = {gguf: hf for hf, gguf in family.block.items()}
        return f"model.layers.{found[1]}.{back[found[2]]}.{leaf}" if found[2] in back else None
    back = {gguf: hf for hf, gguf in OUTER.items()}
    return f"{back[stem]}.{leaf}" if stem in back else None


def gguf_name(name: str, family: Family) -> str | None:
    """Return the GGUF name of a Hugging Face tensor, or None where the family has no such tensor."""
    stem, _, leaf = name.rpartition(".")
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
        inner = family.block.get(found[2])
        return f"blk.{found[1]}.{inner}.{leaf}" if inner else None
    return f"{OUTER[stem]}.{leaf}" if stem in OUTER else None


def is_query_or_key(name: str) -> bool:
    """Tell whether a Hugging Face tensor is a q or k projection (weight or bias), which rotary layouts permute."""
    return name.endswith(("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"))


def config_from(metadata: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return config.json's fields, as far as a GGUF's metadata tells them."""
    prefix = family.gguf + "."
    config: dict[str, Any] = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        **family.fixed,
        "rope_theta": family.theta,
    }
    for key, name in {**KEYS, **family.keys}.items():
        if prefix + key in metadata:
            config[name] = _plain(metadata[prefix + key])
    heads = config.get("num_attention_heads", 1)
    config.setdefault("num_key_value_heads", heads)
    head_dim = metadata.get(prefix + "attention.key_length")
    if head_dim and (family.explicit_head or head_dim * heads != config.get("hidden_size")):
        config["head_dim"] = head_dim
    if family.gguf in ("gemma2", "gemma3"):  # llama.cpp derives it: only the 27B models scale by the model's width
        whole = config.get("hidden_size", 0) // heads
        config["query_pre_attn_scalar"] = whole if config.get("num_hidden_layers") in (46, 62) else head_dim or whole
    scaling = _scaling(metadata, prefix)
    if scaling:
        config["rope_scaling"] = scaling
    for role in ("bos", "eos", "padding"):
        if (token := metadata.get(f"tokenizer.ggml.{role}_token_id")) is not None:
            config["pad_token_id" if role == "padding" else f"{role}_token_id"] = token
    return config


def unsaid(metadata: Mapping[str, Any], family: Family) -> frozenset[str]:
    """Name the fields of `config_from` that the metadata does not tell: what llama.cpp takes by itself."""
    told = {name for key, name in {**KEYS, **family.keys}.items() if f"{family.gguf}.{key}" in metadata}
    return frozenset({*family.fixed, "rope_theta", "query_pre_attn_scalar"}) - told


def _plain(value: Any) -> Any:
    """Return the shortest decimal of a 32-bit float (1e-05, not 9.999999747378752e-06)."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _scaling(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    kind = metadata.get(prefix + "rope.scaling.type")
    if kind in (None, "none"):
        return None
    scaling = {"rope_type": kind, "factor": _plain(metadata.get(prefix + "rope.scaling.factor", 1.0))}
    if (original := metadata.get(prefix + "rope.scaling.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling
