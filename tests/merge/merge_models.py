"""Tiny real models, what peft makes of them, and what a merge is held against."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from lingraft.problems import Refusal

VOCAB = 160
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def tiny(kind: str, tied: bool = False) -> Any:
    """Return a tiny model of a family, drawn from the current seed."""
    import transformers as t

    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=tied))
    if kind == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=64))
    if kind == "gpt_neox":
        return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SIZES))
    if kind == "bert":
        return t.BertForMaskedLM(t.BertConfig(**SIZES))
    if kind == "bert-pooled":
        return t.BertForPreTraining(t.BertConfig(**SIZES))
    raise ValueError(kind)


def move(model: Any, scale: float = 0.05) -> None:
    """Move every trainable parameter, as training would."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += scale * torch.randn_like(parameter)


def load_model(path: Path, load: Any = None, dtype: torch.dtype | None = None) -> Any:
    """Load a saved model by its own class, or by ``load``."""
    import transformers

    if load is None:
        config = transformers.AutoConfig.from_pretrained(path)
        load = getattr(transformers, config.architectures[0])
    return load.from_pretrained(path, dtype=dtype or "auto")


def by_peft(
    base: Path, *adapters: Path, resize: int | None = None, load: Any = None, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Merge with peft, one adapter after the other, and return the state dict."""
    import peft

    model = load_model(base, load, dtype)
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    for adapter in adapters:
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return dict(model.state_dict())


def codes(call: Callable[[], Any]) -> set[str]:
    """Return the problem codes that a call is refused with."""
    with pytest.raises(Refusal) as refusal:
        call()
    return {problem.code for problem in refusal.value.problems}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts hold the same names and the same bits."""
    return one.keys() == other.keys() and all(
        torch.equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one
    )
