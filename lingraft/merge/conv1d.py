"""Which layers keep their matrix as (in, out): transformers' Conv1D, told by the kind of model and the layer's name.

adapter_config.json has a field for it, `fan_in_fan_out`, which says nothing: peft sets it anew for every layer that it
wraps, so that the file holds what the last one was (a LoRA on GPT-2's c_attn and lm_head saves either value).
"""

from __future__ import annotations

FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
LAYERS = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})


def stored_transposed(model_type: str, module: str, flag: bool) -> bool:
    """Tell whether a layer's matrix is stored as (in, out).

    ``flag`` is the adapter's fan_in_fan_out; it decides for models alone that transformers does not know.
    """
    if model_type in FAMILIES:
        return module.rpartition(".")[2] in LAYERS
    if not flag:
        return False
    from transformers import CONFIG_MAPPING

    return model_type not in CONFIG_MAPPING
