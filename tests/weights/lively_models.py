"""Tiny random models of many architectures, lively enough that a misplaced tensor shows in the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import make_tokenizer

SCALINGS: dict[str, dict[str, Any]] = {
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}


def make_model(folder: Path, family: str, changes: dict[str, Any], dtype: torch.dtype = torch.float32) -> Path:
    """Save a random model of the family: two layers, width 32, 4 heads of which 2 KV, 400 rows and tokens."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **{
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            **changes,
        }
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter * 4 if parameter.ndim > 1 else parameter + torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer(folder)
    return folder
