"""The tiny Llama that stands beside a tokenizer under test."""

from __future__ import annotations

from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM


def model_beside(folder: Path, size: int) -> None:
    """Save an untied Llama with a row for each of ``size`` tokens into a folder."""
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
