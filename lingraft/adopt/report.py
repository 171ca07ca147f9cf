"""The written config.json, and the answer that says of every value how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.adopt.answers import Decision
from lingraft.adopt.infer import SCALING, Outline
from lingraft.adopt.tokenizer import context_of

# Fields of an old config that are written anew, in one spelling, or that no longer hold.
REPLACED = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "quantization_config", "dtype",
            "torch_dtype", "auto_map", "_name_or_path", "transformers_version", "layer_types", "architectures",
            "hidden_act", "hidden_activation", "head_dim", "n_inner")  # fmt: skip
OTHER_TYPE = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "initializer_range")
CONTEXT = "max_position_embeddings"
# Fields of --set that are answers to a question, or follow from one.
ANSWERED = ("head_dim", "num_attention_heads", "n_head", "num_key_value_heads", "rope_theta", "model_type")
ASSUMED = (CONTEXT, "sliding_window", "query_pre_attn_scalar")


def config_of(
    outline: Outline,
    decision: Decision,
    architecture: str,
    claimed: Mapping[str, Any],
    given: Mapping[str, Any],
    tokenizer: Any,
    files: Mapping[str, bytes],
    dtype: str,
) -> dict[str, Any]:
    """Put config.json together: what an old one says and nothing contradicts, then what was found."""
    chosen = decision.chosen() | _published_extras(outline, decision)
    same = claimed.get("model_type") == outline.family.model_type
    kept = {k: v for k, v in claimed.items() if (k not in REPLACED if same else k in OTHER_TYPE)}
    found = outline.family.config(outline.sizes, chosen)
    config = {"architectures": [architecture], **kept, **found, "torch_dtype": dtype}
    if outline.family.model_type == "mistral" and "sliding_window" in claimed:
        config["sliding_window"] = claimed["sliding_window"]
    if CONTEXT not in config and "n_positions" not in config:
        config[CONTEXT] = chosen.get(CONTEXT) or context_of(files) or 2048
    for role in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{role}_token_id", None)
        if number is not None and f"{role}_token_id" not in kept:
            config[f"{role}_token_id"] = number
    return config | {name: value for name, value in given.items() if name not in ANSWERED}


def _published_extras(outline: Outline, decision: Decision) -> dict[str, Any]:
    """Return what a published model of these shapes adds, if it agrees with everything that was decided."""
    chosen = decision.chosen()
    for known in outline.published:
        told = {**known.fields, "head_dim": known.head_dim}
        agrees = all(told.get(name, chosen[name]) == chosen[name] for name in chosen if name != "rms_norm_eps")
        if agrees and known.fields.get(SCALING) == chosen.get(SCALING):
            return {name: known.fields[name] for name in (CONTEXT, "sliding_window") if name in known.fields}
    return {}


def answer_of(out: Path, outline: Outline, decision: Decision, family: tuple[str, str], config: Mapping[str, Any],
              has_tokenizer: bool) -> dict[str, Any]:  # fmt: skip
    """Return the JSON answer of the contract."""
    values: list[dict[str, Any]] = [
        {"name": "model_type", "value": outline.family.model_type, "how": family[0], "from": family[1]}]  # fmt: skip
    decided = {answer.name: answer for answer in decision.answers}
    heads = decided.get("head_dim")
    for name, value in config.items():
        if name in ("model_type", "architectures", "transformers_version"):
            continue
        key = {"rotary_emb_base": "rope_theta", "hidden_activation": "hidden_act"}.get(name, name)
        if name in ("num_attention_heads", "num_key_value_heads", "n_head") and heads is not None:
            key = "head_dim"
        if key in decided:
            found = decided[key]
            values.append({"name": name, "value": value, "how": found.how, "from": found.source,
                           **({} if found.margin is None else {"margin": found.margin})})  # fmt: skip
        else:
            values.append({"name": name, "value": value, **_how(name, value, outline)})
    return {
        "out": str(out), "family": outline.family.model_type, "config": dict(config), "values": values,
        "candidates": [candidate.as_json() for candidate in decision.candidates],
        "bits_per_character": None if decision.bits is None else round(decision.bits, 5),
        "missing": [] if has_tokenizer else ["tokenizer"],
    }  # fmt: skip


def _how(name: str, value: Any, outline: Outline) -> dict[str, str]:
    if name in outline.sizes or name in ("n_ctx", "num_attention_heads", "num_key_value_heads", "torch_dtype",
                                         "head_dim"):  # fmt: skip
        return {"how": "inferred", "from": "names and shapes"}
    if name.endswith("_token_id"):
        return {"how": "read", "from": "config or tokenizer"}
    if name in outline.claims:
        return {"how": "read", "from": outline.claims[name][1]}
    if any(known.fields.get(name) == value for known in outline.published):
        return {"how": "assumed", "from": f"as published with {outline.published[0].name}"}
    return {"how": "assumed", "from": "the usual value"} if name in ASSUMED else {"how": "read", "from": "config"}
