"""Packed texts know nothing of one another: their logits are those of each text alone, by transformers' own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lingraft.data.prepare import pack_items
from lingraft.data.text import Document
from lingraft.train.language import collate
from lingraft.train.supervised import Supervised

TEXTS = ["The river is wide and slow.", "春天来了，小河的冰化了，柳树发出新芽。", "Bread needs flour and water."]
SMALL = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 64}


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2)
    )


def _qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**GROUPED))


def _qwen2_sliding() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=1))


def _mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=8))


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**GROUPED))


@pytest.mark.parametrize("make", [_llama, _qwen2, _gpt2, _mistral, _qwen2_sliding], ids=lambda make: make.__name__[1:])
def test_logits_of_a_packed_document_are_those_of_the_document_alone(make: Callable[[], Any], tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    packed = pack_items([Document(text, "x") for text in TEXTS], tokenizer, 256)
    alone = [model(input_ids=torch.tensor([packed.segments.ids(i).tolist()])).logits[0] for i in range(len(TEXTS))]
    batch = collate([packed[0]])
    wrapped = Supervised(model, torch.float32).eval()
    with torch.no_grad():
        hidden = wrapped.hidden(batch["input_ids"], batch["position_ids"])
        logits = model.get_output_embeddings()(hidden)[0]
    order = packed.blocks[0]
    assert torch.allclose(logits, torch.cat([alone[i] for i in order]), atol=1e-5)
