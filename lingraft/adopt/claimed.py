"""What a config.json or --set may say at all: a value of the wrong kind is told and left out before it is used.

A wrong config is what `adopt` is for; one that says `"rope_theta": "x"` is no reason to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lingraft.adopt.family import Fields
from lingraft.problems import Findings

Test = Callable[[Any], bool]
EMPTY = (
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "n_inner",
)  # fields that null is a value of


def usable(source: Path, fields: Fields, rows: int, who: str, findings: Findings) -> dict[str, Any]:
    """Return the fields whose values are of their kind; ``rows`` is the size of the vocabulary.

    Problems where ``who`` is "--set", warnings where it is a config: `config-mismatch`.
    """
    found: dict[str, Any] = {}
    tests = _tests(rows)
    for name, value in fields.items():
        fits, what = tests.get(name, (lambda _: True, ""))
        if (value is None and name in EMPTY) or fits(value):
            found[name] = value
        elif who == "--set":
            findings.problem("config-mismatch", f"--set {name}={value}: not {what}", f"give {what}", source)
        elif value is not None:
            findings.warn(
                "config-mismatch",
                f"{source}: {who} says {name} {value!r}, which is not {what}",
                "nothing to do; the written config is corrected",
                source,
            )
    return found


def _tests(rows: int) -> dict[str, tuple[Test, str]]:
    """Return for every field that is computed with what its value has to be."""
    kinds: tuple[tuple[str, Test, tuple[str, ...]], ...] = (
        (
            "a number above zero",
            _is_positive,
            (
                "rope_theta",
                "rotary_emb_base",
                "query_pre_attn_scalar",
                "attn_logit_softcapping",
                "rope_local_base_freq",
                "final_logit_softcapping",
            ),
        ),
        (
            "a number between 0 and 1",
            lambda v: _is_positive(v) and v <= 1,
            ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rotary_pct"),
        ),
        (
            "a whole number above zero",
            lambda v: type(v) is int and v > 0,
            (
                "num_attention_heads",
                "n_head",
                "num_key_value_heads",
                "head_dim",
                "hidden_size",
                "n_embd",
                "sliding_window",
                "max_position_embeddings",
                "n_positions",
                "n_inner",
            ),
        ),
        ("true or false", lambda v: isinstance(v, bool), ("use_parallel_residual", "tie_word_embeddings")),
        ("the name of an activation", _is_activation, ("hidden_act", "hidden_activation", "activation_function")),
        ("a rotary scaling that transformers has", _is_rotary, ("rope_scaling", "rope_parameters")),
        (
            f"a token of a vocabulary of {rows}",
            lambda v: _is_token(v, rows),
            ("bos_token_id", "eos_token_id", "pad_token_id"),
        ),
    )
    return {name: (test, what) for what, test, names in kinds for name in names}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_activation(value: Any) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


def _is_rotary(value: Any) -> bool:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if not isinstance(value, Mapping):
        return False
    if value and all(isinstance(part, Mapping) for part in value.values()):  # Gemma 3: one for each kind of layer
        return all(map(_is_rotary, value.values()))
    kind = value.get("rope_type", value.get("type", "default"))
    rest = [v for name, v in value.items() if name not in ("rope_type", "type", "attn_factor", "truncate")]
    numbers = [n for v in rest if v is not None for n in (v if isinstance(v, list) else [v])]
    return kind in {"default", *ROPE_INIT_FUNCTIONS} and all(isinstance(n, int | float) for n in numbers)


def _is_token(value: Any, rows: int) -> bool:
    return all(type(one) is int and 0 <= one < rows for one in (value if isinstance(value, list) else [value]))
