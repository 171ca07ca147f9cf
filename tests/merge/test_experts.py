"""LoRA on fused experts equals peft, whether the base's files hold the experts fused or one by one."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as t
from merge_models import by_peft, codes, load_model, same

FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(params=["mixtral", "qwen3_moe", "gpt_oss"])
def moe(request, tmp_path):
    torch.manual_seed(0)
    model = {
        "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(num_local_experts=4, intermediate_size=48, **SMALL)),
        "qwen3_moe": lambda: t.Qwen3MoeForCausalLM(
            t.Qwen3MoeConfig(
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=24,
                intermediate_size=48,
                head_dim=8,
                **SMALL,
            )
        ),
        "gpt_oss": lambda: t.GptOssForCausalLM(
            t.GptOssConfig(num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, head_dim=8, **SMALL)
        ),
    }[request.param]()
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_lora_on_fused_experts_equals_peft(moe, adapter, run):
    made = adapter(moe, target_modules=["q_proj"], target_parameters=FUSED)
    assert same(dict(load_model(run(moe, made)).state_dict()), by_peft(moe, made))


def test_one_fused_parameter_of_two_equals_peft(moe, adapter, run):
    made = adapter(moe, target_modules=["q_proj"], target_parameters=FUSED[1:])
    assert same(dict(load_model(run(moe, made)).state_dict()), by_peft(moe, made))


def test_all_linear_on_a_mixture_of_experts_equals_peft(moe, adapter, run):
    made = adapter(moe, target_modules="all-linear")
    assert same(dict(load_model(run(moe, made)).state_dict()), by_peft(moe, made))


def test_a_pair_that_fits_no_fused_parameter_is_refused(moe, adapter, run):
    made = adapter(moe, target_modules=["q_proj"], target_parameters=FUSED[:1])
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": FUSED[1:]}))
    assert codes(lambda: run(moe, made)) & {"unsupported-adapter", "base-mismatch"}
