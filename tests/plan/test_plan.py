"""A plan answers by the contract, and its counts are those of transformers, peft and bitsandbytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lingraft.plan.hardware import find
from lingraft.plan.memory import Model, look, weigh
from lingraft.plan.run import plan
from lingraft.plan.show import table
from lingraft.plan.skeleton import build, read_config
from lingraft.plan.step import Work, nf4_bytes
from lingraft.plan.strategies import NAMED
from lingraft.problems import Refusal
from lingraft.sizes import parse_size

NAMES = ["full", "freeze", "lora", "qlora", "lora+embed", "qlora+embed"]


def strategy(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in answer["strategies"] if s["name"] == name)


def test_the_answer_is_json_with_the_six_names_of_the_contract(on_a_24gb_card: dict[str, Any]) -> None:
    answer = json.loads(json.dumps(on_a_24gb_card))
    assert [s["name"] for s in answer["strategies"]] == NAMES
    assert set(strategy(answer, "lora")["memory"]) == {"weights", "gradients", "optimizer", "activations", "total"}


def test_full_training_takes_sixteen_bytes_a_parameter(on_a_24gb_card: dict[str, Any]) -> None:
    memory = strategy(on_a_24gb_card, "full")["memory"]
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * 6_738_415_616


def test_the_parts_add_up_to_the_total_on_a_card(on_a_24gb_card: dict[str, Any]) -> None:
    for item in on_a_24gb_card["strategies"]:
        assert sum(v for k, v in item["memory"].items() if k != "total") == item["memory"]["total"]


def test_a_24_gb_card_holds_lora_of_7b_but_not_full_training(on_a_24gb_card: dict[str, Any]) -> None:
    fit = {s["name"]: s["fits"] for s in on_a_24gb_card["strategies"]}
    assert fit["lora"] and fit["qlora"] and not fit["full"]
    assert on_a_24gb_card["recommended"] == "lora"
    assert "Full training would need 1" in on_a_24gb_card["why"]


def test_embedding_and_head_are_what_breaks_a_24_gb_card(on_a_24gb_card: dict[str, Any]) -> None:
    item = strategy(on_a_24gb_card, "lora+embed")
    assert item["parts"]["trained_embedding"] == item["parts"]["trained_head"] == 32000 * 4096 * 16
    assert item["trainable_parameters"] == strategy(on_a_24gb_card, "lora")["trainable_parameters"] + 2 * 32000 * 4096


def test_the_card_is_called_computed_and_the_table_says_so(on_a_24gb_card: dict[str, Any]) -> None:
    assert on_a_24gb_card["hardware"]["speed"] == "computed"
    assert "computed, not measured" in table(on_a_24gb_card)


def test_nothing_is_recommended_where_nothing_fits(tiny_untied: Path) -> None:
    answer = plan(tiny_untied, hardware="T4", memory="1KB", length=16)
    assert answer["recommended"] is None
    assert "Nothing fits" in answer["why"]


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_untied"])
def test_parameters_are_those_of_the_loaded_model(fixture: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(fixture)
    assert look(read_config(folder)).parameters == AutoModelForCausalLM.from_pretrained(folder).num_parameters()


@pytest.mark.parametrize("name", ["lora", "lora+embed"])
def test_trained_parameters_are_those_that_peft_counts(name: str, tiny_untied: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    save = ["embed_tokens", "lm_head"] if name == "lora+embed" else None
    config = LoraConfig(r=16, target_modules="all-linear", modules_to_save=save, task_type="CAUSAL_LM")
    judge = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_untied), config)
    assert cost_of(look(read_config(tiny_untied)), name).trained == judge.get_nb_trainable_parameters()[0]


def cost_of(model: Model, name: str, whole: bool = False, **layout: Any) -> Any:
    work = Work(**{"length": 32, "blocks": 2, "micro_steps": 2, **layout})
    card = find("A100-40GB", None)
    return weigh(model, NAMED[name].techniques, work, card, NAMED[name].quantised, whole)


@pytest.mark.parametrize(
    ("kind", "more", "depths"),
    [
        ("gemma2", {"num_hidden_layers": 10}, (4, 6)),
        (
            "deepseek_v2",
            {
                "num_hidden_layers": 9,
                "first_k_dense_replace": 2,
                "q_lora_rank": None,
                "kv_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
            },
            (4, 5),
        ),
    ],
)
def test_blocks_of_several_kinds_are_continued_by_their_repetition(
    kind: str, more: dict[str, Any], depths: tuple[int, ...]
) -> None:
    from transformers import AutoConfig

    small = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    }
    model = look(AutoConfig.for_model(kind, **{**small, **more}))
    assert model.depths == depths
    assert cost_of(model, "freeze") == cost_of(model, "freeze", whole=True)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_prompts_and_prefixes_cost_their_own_vectors(kind: str, tiny_untied: Path) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lingraft.train.techniques.prompt import Prompt

    make = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind]
    judge = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_untied), make(num_virtual_tokens=7, task_type="CAUSAL_LM")
    )
    technique: Any = Prompt(kind=kind, tokens=7)  # type: ignore[arg-type]
    made = [
        weigh(look(read_config(tiny_untied)), lambda *_: [technique], Work(n, blocks=2), find("L4", None))
        for n in (32, 64)
    ]
    assert made[0].trained == judge.get_nb_trainable_parameters()[0]
    assert made[0].activations < made[1].activations and made[0].logits < made[1].logits


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "num_layers": 2, "d_model": 32}')
    with pytest.raises(Refusal, match="encoder with a decoder"):
        plan(tmp_path, hardware="L4")


@pytest.mark.parametrize("name", ["full", "freeze", "qlora+embed"])
def test_a_deep_model_continued_from_two_depths_equals_the_whole_traced(name: str) -> None:
    from transformers import Qwen2Config

    model = look(
        Qwen2Config(
            vocab_size=500,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=9,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    assert model.depths == (3, 4)
    assert cost_of(model, name) == cost_of(model, name, whole=True)


def test_checkpointing_holds_less_and_computes_more(tiny_untied: Path) -> None:
    model = look(read_config(tiny_untied))
    plain, again = (cost_of(model, "lora", length=128, checkpointing=c) for c in (False, True))
    assert again.activations < plain.activations
    assert again.seconds_per_1k_tokens > plain.seconds_per_1k_tokens


def test_dropout_is_paid_for(tiny_untied: Path) -> None:
    from lingraft.train.techniques.lora import Lora

    model, card = look(read_config(tiny_untied)), find("A100-40GB", None)
    with_it, without = (weigh(model, lambda *_, p=p: [Lora(dropout=p)], Work(64), card) for p in (0.1, 0.0))
    assert with_it.activations > without.activations


def test_nf4_weights_have_the_size_that_bitsandbytes_gives_them() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(256, 512, bias=False, quant_type="nf4", compress_statistics=True)
    layer.weight = bnb.nn.Params4bit(
        torch.randn(512, 256), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    state = layer.to("cpu").weight.quant_state
    held = layer.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert nf4_bytes(torch.empty(512, 256, device="meta")) == held


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "gemma2"])
def test_other_architectures_are_planned_too(kind: str) -> None:
    from transformers import AutoConfig

    small = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = AutoConfig.for_model(kind, **(small if kind != "gpt2" else {"n_embd": 32, "n_layer": 2, "n_head": 2}))
    assert cost_of(look(config), "full").activations > 0


def test_config_json_alone_is_enough_and_no_code_of_a_model_is_run(llama2_7b: Path, tmp_path: Path) -> None:
    values = json.loads((llama2_7b / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "auto_map": {"AutoConfig": "evil.Config"}}))
    assert build(read_config(tmp_path)).num_parameters() == 6_738_415_616


def test_a_config_without_its_kind_is_a_config_mismatch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Refusal, match="config-mismatch"):
        read_config(tmp_path)


@pytest.mark.parametrize(("text", "size"), [("24GB", 24e9), ("24", 24e9), ("16GiB", 16 * 2**30), ("800 MB", 8e8)])
def test_memory_is_read_in_powers_of_ten(text: str, size: float) -> None:
    assert parse_size(text, bare="G") == size


def test_an_unknown_card_is_a_wrong_usage_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match="RTX 4090"):
        find("RTX 9999", None)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090", "rtx4090", "4090"])
def test_cards_are_found_by_the_names_people_use(name: str) -> None:
    assert find(name, None).name == "RTX 4090"
