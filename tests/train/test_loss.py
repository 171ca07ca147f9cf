"""The short ways give the numbers of transformers' and peft's long ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from lingraft.train.head import Head, loss_sum
from lingraft.train.language import collate
from lingraft.train.linear import speed_up
from lingraft.train.supervised import Supervised

TEXTS = [[3, 50, 60, 70, 80, 90], [4, 55, 65], list(range(20, 190))]


def _row(texts: list[list[int]]) -> dict[str, list[int]]:
    return {
        "input_ids": [t for text in texts for t in text],
        "labels": [-100 if i == 0 else t for text in texts for i, t in enumerate(text)],
        "position_ids": [i for text in texts for i in range(len(text))],
    }


@pytest.fixture
def tuned(tiny_llama: Path) -> Any:
    """A tiny Llama under LoRA that does something, with three trained rows."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    config = LoraConfig(
        r=4,
        target_modules="all-linear",
        init_lora_weights=False,
        trainable_token_indices={"embed_tokens": [55, 70, 399]},
    )
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "trainable_tokens" in name:
                p.add_(0.1 * torch.randn_like(p))
    return model


def test_texts_in_one_row_have_the_hidden_states_they_have_alone(tiny_llama: Path) -> None:
    model = Supervised(AutoModelForCausalLM.from_pretrained(tiny_llama), torch.float32)
    assert model.own_attention and model.short_head
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama).model
    batch = collate([_row(TEXTS)])
    together = model.hidden(batch["input_ids"], batch["position_ids"])[0]
    alone = torch.cat([plain(torch.tensor([t])).last_hidden_state[0] for t in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "gpt_oss"])
def test_models_that_would_mix_packed_texts_get_them_one_by_one(kind: str) -> None:
    """ALiBi counts from the row's beginning, a state runs on, sinks know no blocks: the loss is still each text's."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        n_layer=2,
        n_head=4,
        pad_token_id=0,
    )
    plain = AutoModelForCausalLM.from_config(config).float()
    total = sum(plain(input_ids=torch.tensor([t]), labels=torch.tensor([t])).loss * (len(t) - 1) for t in TEXTS)
    model = Supervised(plain, torch.float32)
    assert not model.packed
    loss = model(**collate([_row(TEXTS)]))["loss"]
    torch.testing.assert_close(loss, total / sum(len(t) - 1 for t in TEXTS), atol=1e-5, rtol=1e-5)
    loss.backward()


def test_values_narrower_than_keys_are_attended_to() -> None:
    """DeepSeek's latent attention has them."""
    from torch.nn.functional import scaled_dot_product_attention

    from lingraft.train.attention import attend

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 6, n, requires_grad=True) for n in (16, 16, 8))
    ours, _ = attend(torch.nn.Identity(), q, k, v, None, position_ids=torch.arange(6)[None])
    theirs = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    slopes = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (ours, theirs))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_are_those_of_peft_over_texts_one_by_one(tuned: Any) -> None:
    total = sum(tuned(input_ids=torch.tensor([t]), labels=torch.tensor([t])).loss * (len(t) - 1) for t in TEXTS)
    count = sum(len(t) - 1 for t in TEXTS)
    (total / count).backward()
    theirs = {n: p.grad.clone() for n, p in tuned.named_parameters() if p.requires_grad}
    tuned.zero_grad()
    assert speed_up(tuned) == 15  # 7 linear layers in each of 2 blocks, and the embedding
    loss = Supervised(tuned, torch.float32)(**collate([_row(TEXTS)]))["loss"]
    loss.backward()
    torch.testing.assert_close(loss, total / count)
    for name, p in tuned.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, theirs[name], atol=1e-5, rtol=1e-4)


def test_bfloat16_training_stays_near_float32(tuned: Any) -> None:
    exact = Supervised(tuned, torch.float32)(**collate([_row(TEXTS)]))["loss"]
    rough = Supervised(tuned, torch.bfloat16)(**collate([_row(TEXTS)]))["loss"]
    assert abs(rough - exact) / exact < 0.01


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_chunked_loss_is_torchs_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(700, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    bias, labels = torch.randn(50, requires_grad=True), torch.randint(0, 50, (700,))
    ours = torch.autograd.grad(loss_sum(hidden, labels, Head(weight, bias), smoothing), (hidden, weight, bias))
    logits = hidden @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    for a, b in zip(ours, torch.autograd.grad(loss, (hidden, weight, bias)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "mistral", "gemma2", "phi3", "gpt_neox"])
def test_other_architectures_give_their_own_loss_whichever_way_is_taken(kind: str) -> None:
    from transformers import AutoConfig

    common = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": 4,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common)).eval()
    texts = [[3, 5, 7, 9, 11, 13, 15, 17], [4, 6, 8]]
    wanted = sum(model(torch.tensor([t]), labels=torch.tensor([t])).loss * (len(t) - 1) for t in texts) / 9
    ours = Supervised(model, torch.float32).eval()(**collate([_row(texts)]))["loss"]
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
