"""Decoders in Llama's naming: llama, mistral, qwen2, qwen3, gemma, and Gemma's later two.

One backbone: what tells them apart are biases on q, k and v (qwen2), norms on the heads (qwen3), norms around the
feed-forward block (gemma2, gemma3). Llama and Gemma share every name: Gemma's norms multiply by 1 + weight, and its
embedding is scaled, which a look at the values or the probe decides. Mistral without a window computes as Llama.
"""

from __future__ import annotations

from typing import Any

from lingraft.adopt.family import Family, Fields, Question, Shapes, count_layers, head_sizes
from lingraft.weights.rotary import theta_and_scaling

LAYER = "model.layers.0."
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
QUERY_SCALE = "query_pre_attn_scalar"
CLASS = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
}
GEMMAS = ("gemma", "gemma2", "gemma3_text")
THETAS = dict.fromkeys(("qwen2", "qwen3", "gemma3_text"), (1e6, 1e4, 1e5, 5e5, 5e6, 1e7))
NEEDED = (
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
FOREIGN = {"input_layernorm.bias", "post_attention_layernorm.bias"}  # StableLM; all of these norm by the mean square
EPSILON = {"llama": (1e-5, 1e-6), "mistral": (1e-5, 1e-6)}


def _has(shapes: Shapes, leaf: str) -> bool:
    return LAYER + leaf in shapes


def _is_decoder(shapes: Shapes) -> bool:
    """Tell whether some layer has what every one of these families has; Phi, OPT, OLMo, Cohere share only names."""
    leaves = {name.split(".", 3)[3] for name in shapes if name.startswith("model.layers.") and name.count(".") > 3}
    return leaves.issuperset(NEEDED) and not leaves & FOREIGN


def _is_plain(shapes: Shapes) -> bool:
    qkv_bias = _has(shapes, "self_attn.q_proj.bias") and not _has(shapes, "self_attn.o_proj.bias")
    head_norm, sandwich = _has(shapes, "self_attn.q_norm.weight"), _has(shapes, "pre_feedforward_layernorm.weight")
    return not (qkv_bias or head_norm or sandwich)


def _is_qwen2(shapes: Shapes) -> bool:
    return _has(shapes, "self_attn.q_proj.bias") and not (
        _has(shapes, "self_attn.o_proj.bias") or _has(shapes, "self_attn.q_norm.weight")
    )


def _is_qwen3(shapes: Shapes) -> bool:
    norm = shapes.get(LAYER + "self_attn.q_norm.weight")  # OLMo 2 has one as wide as all heads together
    return (
        norm is not None
        and norm[0] <= shapes[LAYER + "self_attn.k_proj.weight"][0]
        and not _has(shapes, "pre_feedforward_layernorm.weight")
        and _has(shapes, "input_layernorm.weight")
    )


def _is_gemma2(shapes: Shapes) -> bool:
    return _has(shapes, "pre_feedforward_layernorm.weight") and not _has(shapes, "self_attn.q_norm.weight")


def _is_gemma3(shapes: Shapes) -> bool:
    return _has(shapes, "pre_feedforward_layernorm.weight") and _has(shapes, "self_attn.q_norm.weight")


def sizes(shapes: Shapes) -> dict[str, Any]:
    """Return what shapes tell of a decoder."""
    vocab, width = shapes[EMBEDDING]
    found: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": count_layers(shapes, "model.layers."),
        "intermediate_size": shapes[LAYER + "mlp.gate_proj.weight"][0],
        "vocab_size": vocab,
        "query_rows": shapes[LAYER + "self_attn.q_proj.weight"][0],
        "key_rows": shapes[LAYER + "self_attn.k_proj.weight"][0],
        "tie_word_embeddings": HEAD not in shapes,
        "attention_bias": _has(shapes, "self_attn.o_proj.bias"),
        "mlp_bias": _has(shapes, "mlp.gate_proj.bias"),
    }
    if norm := shapes.get(LAYER + "self_attn.q_norm.weight"):
        found["head_dim"] = norm[0]
    return found


def _questions(model_type: str) -> Any:
    def ask(shapes: Shapes) -> list[Question]:
        found = sizes(shapes)
        wanted = head_sizes(found["query_rows"], found["key_rows"])
        if model_type in GEMMAS:
            wanted = tuple(sorted(wanted, key=lambda size: size != 256))
        gelu = model_type in GEMMAS
        questions = [
            Question("rope_theta", THETAS.get(model_type, (1e4, 1e5, 5e5, 1e6, 5e6, 1e7))),
            Question("hidden_act", ("gelu_pytorch_tanh", "silu") if gelu else ("silu", "gelu_pytorch_tanh", "relu")),
            Question("rms_norm_eps", EPSILON.get(model_type, (1e-6, 1e-5))),
        ]
        if model_type in GEMMAS[1:]:  # all were published with the head's size but 27B, with the width a head
            ways = ("width", "head") if found["num_hidden_layers"] in (46, 62) else ("head", "width")
            questions.append(Question(QUERY_SCALE, ways))
        return questions if "head_dim" in found else [Question("head_dim", wanted, asked=True), *questions]

    return ask


def _architecture(model_type: str) -> Any:
    def name(shapes: Shapes) -> str:
        stem = CLASS[model_type]
        return f"{stem}ForSequenceClassification" if "score.weight" in shapes else f"{stem}ForCausalLM"

    return name


def _config(model_type: str) -> Any:
    def build(found: Fields, chosen: Fields) -> dict[str, Any]:
        head_dim = int(chosen["head_dim"] if "head_dim" in chosen else found["head_dim"])
        config: dict[str, Any] = {
            "model_type": model_type,
            "hidden_size": found["hidden_size"],
            "num_hidden_layers": found["num_hidden_layers"],
            "num_attention_heads": found["query_rows"] // head_dim,
            "num_key_value_heads": found["key_rows"] // head_dim,
            "head_dim": head_dim,
            "intermediate_size": found["intermediate_size"],
            "vocab_size": found["vocab_size"],
            "tie_word_embeddings": found["tie_word_embeddings"],
            "hidden_act": chosen["hidden_act"],
            "rms_norm_eps": chosen["rms_norm_eps"],
            "rope_theta": chosen["rope_theta"],
        }
        if chosen.get("rope_scaling"):
            config["rope_scaling"] = dict(chosen["rope_scaling"])
        return config | _special(model_type, found, chosen, head_dim)

    return build


def _special(model_type: str, found: Fields, chosen: Fields, head_dim: int) -> dict[str, Any]:
    """Return the fields that one family has and the others have not."""
    if model_type == "llama":
        return {"attention_bias": found["attention_bias"], "mlp_bias": found["mlp_bias"]}
    if model_type == "mistral":
        return {"sliding_window": chosen.get("sliding_window")}
    if model_type == "qwen3":
        return {"attention_bias": found["attention_bias"]}
    if model_type in GEMMAS:
        bias = {"attention_bias": found["attention_bias"], "hidden_activation": chosen["hidden_act"]}
        if model_type == "gemma":
            return bias
        scale = chosen[QUERY_SCALE]
        scale = {"head": head_dim, "width": found["hidden_size"] * head_dim // found["query_rows"]}.get(scale, scale)
        if model_type == "gemma2":
            return bias | {
                QUERY_SCALE: scale,
                "sliding_window": 4096,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
            }
        return bias | {
            QUERY_SCALE: scale,
            "sliding_window": 512 if found["hidden_size"] <= 1152 else 1024,
            "rope_local_base_freq": 10000.0,
        }
    return {}


def claims(config: Fields) -> dict[str, Any]:
    """Return what a config.json says about the questions, in their names."""
    said: dict[str, Any] = {
        name: config[name]
        for name in ("rms_norm_eps", "max_position_embeddings", "sliding_window", QUERY_SCALE)
        if config.get(name) is not None
    }
    if act := config.get("hidden_activation") or config.get("hidden_act"):
        said["hidden_act"] = act
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(config.get("head_dim"), int):
        said["head_dim"] = config["head_dim"]
    elif isinstance(heads, int) and isinstance(width, int) and heads > 0 and width % heads == 0:
        said["head_dim"] = width // heads
    if any(key in config for key in ("rope_theta", "rope_parameters", "rope_scaling")):
        rope = config.get("rope_parameters") or {}
        theta, scaling = theta_and_scaling(config)
        if "rope_theta" in config or "rope_theta" in str(rope):
            said["rope_theta"] = theta
        said["rope_scaling"] = scaling
    return said


def _family(model_type: str, fits: Any) -> Family:
    return Family(
        model_type,
        "model.",
        r"layers\.0\.self_attn\.q_proj\.weight",
        ("lm_head", "score"),
        lambda shapes: _is_decoder(shapes) and fits(shapes),
        sizes,
        _questions(model_type),
        _architecture(model_type),
        _config(model_type),
        claims,
        EMBEDDING,
    )


# Llama before its doubles: what fits several is the first, unless values or a config speak for another.
FAMILIES = (
    _family("llama", _is_plain),
    _family("mistral", _is_plain),
    _family("gemma", _is_plain),
    _family("qwen2", _is_qwen2),
    _family("qwen3", _is_qwen3),
    _family("gemma2", _is_gemma2),
    _family("gemma3_text", _is_gemma3),
)
