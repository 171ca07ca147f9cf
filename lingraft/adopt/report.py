"""The written config.json, and the answer that says of every value how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.adopt.answers import Decision
from lingraft.adopt.infer import SCALING, UNSAID, Outline, who_says
from lingraft.adopt.tokenizer import SETTINGS, context_of
from lingraft.weights.tensors import Checkpoint

# Fields of an old config that are written anew, in one spelling, or that no longer hold.
REPLACED = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "quantization_config",
    "dtype",
    "torch_dtype",
    "auto_map",
    "_name_or_path",
    "transformers_version",
    "layer_types",
    "architectures",
    "hidden_act",
    "hidden_activation",
    "head_dim",
    "n_inner",
)
OTHER_TYPE = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "initializer_range")
CONTEXT = "max_position_embeddings"
# Fields of --set that are answers to a question, or follow from one.
ANSWERED = ("head_dim", "num_attention_heads", "n_head", "num_key_value_heads", "rope_theta", "model_type")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What an old config says of these holds: no tensor speaks against it.
KEPT = (*TOKENS, "sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "rope_local_base_freq")
# Of heads here where no question was open.
SHAPED = ("n_ctx", "num_attention_heads", "num_key_value_heads", "torch_dtype", "head_dim", "id2label", "label2id")


@dataclass(frozen=True)
class Told:
    """Who may have said a value: what was opened, the fields of --set, the tokenizer's files and the tokenizer."""

    checkpoint: Checkpoint
    given: Mapping[str, Any]
    files: Mapping[str, bytes]
    tokenizer: Any

    def token(self, name: str) -> Any:
        """Return the id that the tokenizer gives for a field such as bos_token_id."""
        return getattr(self.tokenizer, name, None) if name in TOKENS else None


def config_of(outline: Outline, decision: Decision, architecture: str, told: Told, dtype: str) -> dict[str, Any]:
    """Put config.json together: what an old one says and nothing contradicts, then what was found."""
    claimed = told.checkpoint.config
    chosen = decision.chosen() | _published_extras(outline, decision)
    same = claimed.get("model_type") == outline.family.model_type
    kept = {k: v for k, v in claimed.items() if (k not in REPLACED if same else k in OTHER_TYPE)}
    found = outline.config(chosen)
    if outline.labels is not None and len(kept.get("id2label") or ()) == outline.labels:
        found |= {name: kept[name] for name in ("id2label", "label2id") if name in kept}  # the classes' own names
    config = {"architectures": [architecture], **kept, **found, "torch_dtype": dtype}
    config |= {name: kept[name] for name in KEPT if name in kept}
    types = claimed.get("layer_types")
    if same and isinstance(types, list) and len(types) == config.get("num_hidden_layers"):
        config["layer_types"] = types
    if CONTEXT not in config and "n_positions" not in config:
        config[CONTEXT] = chosen.get(CONTEXT) or context_of(told.files) or 2048
    for name in TOKENS:
        if told.token(name) is not None and name not in kept:
            config[name] = told.token(name)
    return config | {name: value for name, value in told.given.items() if name not in ANSWERED}


def _published_extras(outline: Outline, decision: Decision) -> dict[str, Any]:
    """Return what a published model of these shapes adds, if it agrees with everything that was decided."""
    chosen = decision.chosen()
    for known in outline.published:
        told = {**known.fields, "head_dim": known.head_dim}
        agrees = all(told.get(name, chosen[name]) == chosen[name] for name in chosen if name != "rms_norm_eps")
        if agrees and known.fields.get(SCALING) == chosen.get(SCALING):
            return {name: known.fields[name] for name in (CONTEXT, "sliding_window") if name in known.fields}
    return {}


def answer_of(
    out: Path, outline: Outline, decision: Decision, family: tuple[str, str], config: Mapping[str, Any], told: Told
) -> dict[str, Any]:
    """Return the JSON answer of the contract."""
    values: list[dict[str, Any]] = [
        {"name": "model_type", "value": outline.family.model_type, "how": family[0], "from": family[1]}
    ]
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
            values.append(
                {
                    "name": name,
                    "value": value,
                    "how": found.how,
                    "from": found.source,
                    **({} if found.margin is None else {"margin": found.margin}),
                }
            )
        else:
            values.append({"name": name, "value": value, **_how(name, value, outline, told)})
    return {
        "out": str(out),
        "family": outline.family.model_type,
        "config": dict(config),
        "values": values,
        "candidates": [candidate.as_json() for candidate in decision.candidates],
        "bits_per_character": None if decision.bits is None else round(decision.bits, 5),
        "missing": [] if told.tokenizer is not None else ["tokenizer"],
    }


def _how(name: str, value: Any, outline: Outline, told: Told) -> dict[str, str]:
    """Tell of a value that was no question how it was found: the first of those who say it."""
    said = told.checkpoint.config
    published = next((known.name for known in outline.published if known.fields.get(name) == value), None)
    if told.given.get(name, ...) == value:
        return {"how": "read", "from": "--set"}
    if name in SHAPED or (name in outline.sizes and name not in TOKENS):
        return {"how": "inferred", "from": "names and shapes"}
    if said.get(name, ...) == value and who_says(told.checkpoint, name) != UNSAID:
        return {"how": "read", "from": who_says(told.checkpoint, name)}
    if value is not None and told.token(name) == value:
        return {"how": "read", "from": "tokenizer"}
    if name == CONTEXT and context_of(told.files) == value and published is None:
        return {"how": "read", "from": SETTINGS}
    return {"how": "assumed", "from": f"as published with {published}" if published else "the usual value"}
