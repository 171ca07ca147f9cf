"""Tied embeddings: the tie becomes what the live model did, or what the user chose. The judge is the live model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from merge_models import VOCAB, codes, load_model

IDS = torch.arange(2, 22)[None]
Q = {"target_modules": ["q_proj"]}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=2e-5 * float(other.abs().max()))


def tie(out) -> bool:
    return json.loads((out / "config.json").read_text())["tie_word_embeddings"]


ALONE = {
    "saved embedding": {**Q, "modules_to_save": ["embed_tokens"]},
    "saved head": {**Q, "modules_to_save": ["lm_head"]},
    "embedding lora": {"target_modules": ["q_proj", "embed_tokens"]},
    "head lora": {"target_modules": ["q_proj", "lm_head"]},
    "head rows": {**Q, "trainable_token_indices": {"lm_head": [1, 5]}},
}


@pytest.mark.parametrize("config", ALONE.values(), ids=ALONE.keys())
def test_one_end_alone_is_a_conflict(base, adapter, run, config):
    made = adapter(base(tied=True), **config)
    assert codes(lambda: run(base(tied=True), made)) == {"tied-head-conflict"}


@pytest.mark.parametrize("config", ALONE.values(), ids=ALONE.keys())
def test_untied_it_is_the_model_as_it_ran(base, adapter, run, config):
    made = adapter(base(tied=True), **config)
    out = run(base(tied=True), made, tied="untie")
    assert not tie(out) and near(logits(load_model(out)), logits(adapter.live))


@pytest.mark.parametrize("config", ALONE.values(), ids=ALONE.keys())
def test_tied_by_choice_it_has_one_tensor(base, adapter, run, config):
    out = run(base(tied=True), adapter(base(tied=True), **config), tied="tie")
    model = load_model(out)
    assert tie(out) and model.lm_head.weight is model.model.embed_tokens.weight


BOTH = {
    "saved": {**Q, "modules_to_save": ["embed_tokens", "lm_head"]},
    "lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "rows": {**Q, "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}},
}


@pytest.mark.parametrize("config", BOTH.values(), ids=BOTH.keys())
def test_two_ends_that_differ_are_untied_knowingly(base, adapter, run, config):
    made = adapter(base(tied=True), **config)
    out = run(base(tied=True), made)
    assert not tie(out) and near(logits(load_model(out)), logits(adapter.live))
    assert json.loads((out / "manifest.json").read_text())["untied"] is True


@pytest.mark.parametrize("config", BOTH.values(), ids=BOTH.keys())
def test_two_ends_that_differ_cannot_be_tied(base, adapter, run, config):
    made = adapter(base(tied=True), **config)
    assert codes(lambda: run(base(tied=True), made, tied="tie")) == {"tied-head-conflict"}


KEPT = {
    "rows": {**Q, "trainable_token_indices": [1, 5]},
    "same rows of both": {**Q, "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [1, 5]}},
    "ensured, saved": {**Q, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "ensured, saved both": {**Q, "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "ensured, lora": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "ensured, rows": {**Q, "trainable_token_indices": [1, 5], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT.keys())
def test_a_tie_that_training_kept_is_kept(base, adapter, run, config):
    out = run(base(tied=True), adapter(base(tied=True), **config))
    model = load_model(out)
    assert tie(out) and model.lm_head.weight is model.model.embed_tokens.weight
    assert near(logits(model), logits(adapter.live))


@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT.keys())
def test_a_kept_tie_can_be_untied(base, adapter, run, config):
    out = run(base(tied=True), adapter(base(tied=True), **config), tied="untie")
    assert not tie(out) and near(logits(load_model(out)), logits(adapter.live))


@pytest.mark.parametrize(
    "config", [{**Q, "modules_to_save": ["embed_tokens"]}, {"target_modules": ["q_proj", "embed_tokens"]}]
)
def test_one_end_of_a_grown_model_is_a_conflict_too(base, adapter, run, config):
    made = adapter(base(tied=True), resize=VOCAB + 8, **config)
    assert codes(lambda: run(base(tied=True), made)) == {"tied-head-conflict"}
    out = run(base(tied=True), made, tied="untie")
    assert near(logits(load_model(out)), logits(adapter.live))


def test_a_second_adapter_finds_the_model_that_the_first_untied(base, adapter, run):
    start = base(tied=True)
    one = adapter(start, "one", **BOTH["saved"])
    live = adapter.live.merge_and_unload()
    two = adapter(start, "two", on=live, seed=3, **Q, modules_to_save=["embed_tokens"])
    out = run(start, one, two)
    assert near(logits(load_model(out)), logits(adapter.live))


def test_a_bert_head_is_untied_with_its_bias(base, adapter, run):
    start = base("bert")
    made = adapter(start, target_modules=["query", "decoder", "word_embeddings"])
    out = run(start, made)
    assert near(logits(load_model(out)), logits(adapter.live))


def test_gpt2_is_untied_knowingly(base, adapter, run):
    start = base("gpt2")
    made = adapter(start, target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["wte", "lm_head"])
    out = run(start, made)
    assert not tie(out) and near(logits(load_model(out)), logits(adapter.live))


def test_a_tie_that_peft_did_not_keep_for_all_its_flag_is_a_conflict(base, adapter, run):
    made = adapter(base("gpt2"), target_modules=["c_attn", "wte"], ensure_weight_tying=True)
    assert codes(lambda: run(base("gpt2"), made)) == {"tied-head-conflict"}
    assert near(logits(load_model(run(base("gpt2"), made, tied="untie"))), logits(adapter.live))


@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_for_transposed_layers_is_whatever_the_last_layer_was(base, adapter, run, flag):
    made = adapter(base("gpt2"), target_modules=["c_attn", "c_proj", "lm_head"])
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps({**config, "fan_in_fan_out": flag}))
    assert near(logits(load_model(run(base("gpt2"), made, tied="untie"))), logits(adapter.live))
