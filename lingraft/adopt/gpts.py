"""GPT-2 and GPT-NeoX: one fused projection for q, k and v, so that shapes tell nothing about the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lingraft.adopt.family import Family, Fields, Question, Shapes, claimed_head, count_layers, head_sizes

WTE, WPE = "transformer.wte.weight", "transformer.wpe.weight"
EMBED_IN = "gpt_neox.embed_in.weight"
NEOX_LAYER = "gpt_neox.layers.0."


def _architecture(stem: str, usual: str) -> Callable[[Shapes], str]:
    return lambda shapes: f"{stem}ForSequenceClassification" if "score.weight" in shapes else usual


def _gpt2_sizes(shapes: Shapes) -> dict[str, Any]:
    vocab, width = shapes[WTE]
    inner = shapes["transformer.h.0.mlp.c_fc.weight"][1]  # Conv1D stores (in, out)
    return {
        "n_embd": width,
        "n_layer": count_layers(shapes, "transformer.h."),
        "n_positions": shapes[WPE][0],
        "vocab_size": vocab,
        "n_inner": None if inner == 4 * width else inner,
        "tie_word_embeddings": "lm_head.weight" not in shapes,
    }


def _gpt2_questions(shapes: Shapes) -> list[Question]:
    return [
        Question("head_dim", head_sizes(shapes[WTE][1]), asked=True),
        Question("activation_function", ("gelu_new", "gelu", "relu")),
        Question("layer_norm_epsilon", (1e-5, 1e-6)),
    ]


def _gpt2_config(found: Fields, chosen: Fields) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        **found,
        "n_head": found["n_embd"] // int(chosen["head_dim"]),
        "n_ctx": found["n_positions"],
        "activation_function": chosen["activation_function"],
        "layer_norm_epsilon": chosen["layer_norm_epsilon"],
    }


def _gpt2_claims(config: Fields) -> dict[str, Any]:
    said = {key: config[key] for key in ("activation_function", "layer_norm_epsilon") if key in config}
    width, heads = config.get("n_embd", config.get("hidden_size")), config.get("n_head")
    return said | claimed_head(width, heads or config.get("num_attention_heads"))


def _neox_sizes(shapes: Shapes) -> dict[str, Any]:
    vocab, width = shapes[EMBED_IN]
    return {
        "hidden_size": width,
        "num_hidden_layers": count_layers(shapes, "gpt_neox.layers."),
        "intermediate_size": shapes[NEOX_LAYER + "mlp.dense_h_to_4h.weight"][0],
        "vocab_size": vocab,
        "tie_word_embeddings": "embed_out.weight" not in shapes,
        "attention_bias": NEOX_LAYER + "attention.query_key_value.bias" in shapes,
    }


def _neox_questions(shapes: Shapes) -> list[Question]:
    return [
        Question("head_dim", head_sizes(shapes[EMBED_IN][1]), asked=True),
        Question("use_parallel_residual", (True, False)),
        Question("rotary_pct", (0.25, 1.0, 0.5)),
        Question("rope_theta", (1e4, 1e5, 5e5, 1e6)),
        Question("hidden_act", ("gelu", "gelu_new", "relu")),
        Question("layer_norm_eps", (1e-5, 1e-6)),
    ]


def _neox_config(found: Fields, chosen: Fields) -> dict[str, Any]:
    heads = found["hidden_size"] // int(chosen["head_dim"])
    # rotary_emb_base is transformers 4's name of rope_theta here; 5 reads both
    return {
        "model_type": "gpt_neox",
        **found,
        "num_attention_heads": heads,
        **{key: chosen[key] for key in ("use_parallel_residual", "rotary_pct", "hidden_act", "layer_norm_eps")},
        "rotary_emb_base": chosen["rope_theta"],
    }


def _neox_claims(config: Fields) -> dict[str, Any]:
    keys = ("use_parallel_residual", "rotary_pct", "hidden_act", "layer_norm_eps", "max_position_embeddings")
    said = {key: config[key] for key in keys if key in config}
    rope = config.get("rope_parameters")
    rope = rope if isinstance(rope, Mapping) else {}
    theta = rope.get("rope_theta", config.get("rotary_emb_base", config.get("rope_theta")))
    share = rope.get("partial_rotary_factor", config.get("rotary_pct"))
    said |= {} if theta is None else {"rope_theta": float(theta)}
    said |= {} if share is None else {"rotary_pct": share}
    return said | claimed_head(config.get("hidden_size"), config.get("num_attention_heads"))


FAMILIES = (
    Family(
        "gpt2",
        "transformer.",
        r"h\.0\.attn\.c_attn\.weight",
        ("lm_head", "score"),
        lambda _: True,
        _gpt2_sizes,
        _gpt2_questions,
        _architecture("GPT2", "GPT2LMHeadModel"),
        _gpt2_config,
        _gpt2_claims,
        WTE,
    ),
    Family(
        "gpt_neox",
        "gpt_neox.",
        r"layers\.0\.attention\.query_key_value\.weight",
        ("embed_out", "lm_head", "score"),
        lambda _: True,
        _neox_sizes,
        _neox_questions,
        _architecture("GPTNeoX", "GPTNeoXForCausalLM"),
        _neox_config,
        _neox_claims,
        EMBED_IN,
    ),
)
