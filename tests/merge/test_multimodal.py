"""Adapters on models that see: the text's config nested in theirs, their language model under other names on disk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from merge_models import by_peft, codes, load_model, same

TEXT = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def seeing(kind: str) -> Any:
    """Return a tiny model of a family that takes pictures."""
    import transformers as t

    if kind == "llava":
        return t.LlavaForConditionalGeneration(
            t.LlavaConfig(
                text_config=t.LlamaConfig(**TEXT), vision_config=t.CLIPVisionConfig(**SIGHT), image_token_id=159
            )
        )
    if kind == "gemma3":
        layers = {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
        return t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(text_config={**TEXT, **layers}, vision_config=SIGHT, mm_tokens_per_image=4)
        )
    rope = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    sight = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8, "in_channels": 3}
    return t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config={**TEXT, **rope}, vision_config=sight))


@pytest.fixture
def below(request, tmp_path):
    torch.manual_seed(0)
    model = seeing(request.param)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


LANGUAGE = {"target_modules": r".*language_model.*\.(q_proj|v_proj|down_proj)"}
CASES = [
    ("llava", LANGUAGE),
    ("llava", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "multi_modal_projector"]}),
    ("gemma3", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9]}),
    ("qwen2-vl", LANGUAGE),
]


@pytest.mark.parametrize(("below", "config"), CASES, indirect=["below"])
def test_it_equals_peft_bit_for_bit(below, adapter, run, config):
    made = adapter(below, **config)
    assert same(load_model(run(below, made)).state_dict(), by_peft(below, made))


@pytest.mark.parametrize("below", ["qwen2-vl"], indirect=True)
def test_a_lora_on_a_convolution_is_refused_by_name(below, adapter, run):
    made = adapter(below, target_modules=["q_proj", "patch_embed.proj"])
    assert codes(lambda: run(below, made)) == {"unsupported-adapter"}
