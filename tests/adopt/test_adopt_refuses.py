"""What cannot be adopted is refused by its code and by the tensor that gave it away, and nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adopt_models import problems
from safetensors.torch import load_file, save_file

from lingraft.adopt.run import adopt
from lingraft.problems import Findings

Bare = Callable[..., tuple[Path, dict[str, Any]]]
Change = Callable[[dict[str, torch.Tensor]], None]


def gptq(w: dict[str, torch.Tensor]) -> None:
    del w["model.layers.0.mlp.up_proj.weight"]
    w["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(8, 96, dtype=torch.int32)
    w["model.layers.0.mlp.up_proj.qzeros"] = torch.zeros(1, 12, dtype=torch.int32)


def bitsandbytes(w: dict[str, torch.Tensor]) -> None:
    w["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96 * 32, 1, dtype=torch.uint8)
    w["model.layers.0.mlp.up_proj.weight.absmax"] = torch.zeros(96)


def vision(w: dict[str, torch.Tensor]) -> None:
    w["vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(4, 3, 2, 2)


def another_width(w: dict[str, torch.Tensor]) -> None:
    w["model.layers.1.mlp.up_proj.weight"] = torch.zeros(80, 48)


def second_model(w: dict[str, torch.Tensor]) -> None:
    w.update({f"teacher.{name}": value.clone() for name, value in list(w.items())})


def lost_tensor(w: dict[str, torch.Tensor]) -> None:
    del w["model.layers.1.self_attn.v_proj.weight"]


def strange(w: dict[str, torch.Tensor]) -> None:
    w["model.layers.0.memory.gate"] = torch.zeros(3)


def nan(w: dict[str, torch.Tensor]) -> None:
    w["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")


def adapter(w: dict[str, torch.Tensor]) -> None:
    w["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 64)


@pytest.mark.parametrize(
    ("change", "code", "tensor"),
    [
        (gptq, "unknown-format", "qweight"),
        (bitsandbytes, "unknown-format", "absmax"),
        (vision, "unknown-format", "vision_tower"),
        (another_width, "config-mismatch", "layers.1.mlp.up_proj"),
        (second_model, "config-mismatch", "teacher."),
        (lost_tensor, "missing-shard", "layers.1.self_attn.v_proj"),
        (strange, "missing-shard", "layers.1.memory.gate"),
        (nan, "non-finite", "layers.1.mlp.up_proj"),
        (adapter, "unsupported-adapter", "lora_A"),
    ],
)
def test_bad_weights_are_refused_by_code_and_tensor(
    bare: Bare, tmp_path: Path, change: Change, code: str, tensor: str
) -> None:
    folder, _ = bare("llama")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    (found, *_) = problems(
        lambda findings: adopt(folder, tmp_path / "out", settings={"head_dim": "16"}, findings=findings), code
    )
    assert tensor in (found.tensor or "") and tensor.split(".")[-1] in found.message
    assert not [p for p in tmp_path.iterdir() if p != folder]


def test_pickled_code_is_refused_and_never_run(bare: Bare, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"model.embed_tokens.weight": torch.zeros(4, 4), "code": Code()}, tmp_path / "weights.pt")
    problems(lambda f: adopt(tmp_path / "weights.pt", tmp_path / "out", findings=f), "unsafe-pickle")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_family_that_nobody_knows_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    save_file({"blocks.0.mix.weight": torch.zeros(4, 4)}, tmp_path / "w.safetensors")
    (found,) = problems(lambda f: adopt(tmp_path / "w.safetensors", tmp_path / "out", findings=f), "unknown-format")
    assert "qwen3" in found.message and "blocks.0.mix.weight" in found.message


@pytest.mark.parametrize(
    "settings",
    [
        {"head_dim": "13"},
        {"hidden_size": "32"},
        {"head_dim": "16", "num_key_value_heads": "4"},
        {"head_dim": "abc"},
        {"head_dim": "16", "rope_theta": "0"},
        {"head_dim": "16", "hidden_act": "swoosh"},
        {"head_dim": "16", "rope_teta": "1"},
        {"head_dim": "16", "model_type": "bert"},
        {"head_dim": "16", "rope_scaling": '{"rope_type": "none such"}'},
    ],
)
def test_a_setting_that_cannot_be_is_refused(bare: Bare, tmp_path: Path, settings: dict[str, str]) -> None:
    folder, _ = bare("qwen3" if "hidden_size" in settings else "llama")
    problems(lambda f: adopt(folder, tmp_path / "out", settings=settings, findings=f), "config-mismatch")


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(bare: Bare, tmp_path: Path, tiny_llama: Path) -> None:
    folder, _ = bare("qwen3", vocab_size=300)
    problems(
        lambda f: adopt(folder, tmp_path / "out", tokenizer=tiny_llama / "tokenizer.json", findings=f),
        "tokenizer-mismatch",
    )


@pytest.mark.parametrize(
    ("name", "kind", "tensor"),
    [
        ("PhiForCausalLM", "Phi", "self_attn.dense"),
        ("StableLmForCausalLM", "StableLM", "input_layernorm.bias"),
        ("DistilBertModel", "DistilBERT", "q_lin"),
        ("BloomForCausalLM", "BLOOM", "query_key_value"),
    ],
)
def test_a_model_of_another_family_is_refused_by_its_name(tmp_path: Path, name: str, kind: str, tensor: str) -> None:
    import transformers

    kind_of = getattr(transformers, name)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    kind_of(kind_of.config_class(**sizes)).save_pretrained(tmp_path / "src")
    (tmp_path / "src" / "config.json").unlink()
    (found,) = problems(lambda f: adopt(tmp_path / "src", tmp_path / "out", findings=f), "unknown-format")
    assert kind in found.message and tensor in (found.tensor or "")


def test_a_config_of_a_type_that_is_not_adopted_is_not_made_a_llama(bare: Bare, tmp_path: Path) -> None:
    folder, wanted = bare("llama")
    (folder / "config.json").write_text(json.dumps({**wanted, "model_type": "granite"}))
    (found,) = problems(lambda f: adopt(folder, tmp_path / "out", findings=f), "config-mismatch")
    assert "granite" in found.message and "--set model_type=llama" in found.remedy
    answer = adopt(folder, tmp_path / "out", settings={"model_type": "llama"}, findings=Findings())
    assert answer["family"] == "llama"


@pytest.mark.parametrize(
    "wrong",
    [
        {"rope_theta": "x"},
        {"rope_scaling": "x"},
        {"rope_parameters": [1]},
        {"hidden_act": "swoosh"},
        {"rms_norm_eps": "1e-5"},
        {"pad_token_id": 9999},
        {"rope_scaling": {"type": "linear", "factor": "two"}},
    ],
)
def test_a_value_of_the_wrong_kind_in_a_config_is_corrected(bare: Bare, tmp_path: Path, wrong: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    folder, wanted = bare("llama")
    (folder / "config.json").write_text(json.dumps({**wanted, **wrong}))
    findings = Findings()
    adopt(folder, tmp_path / "out", settings={"head_dim": "16"}, findings=findings)
    assert any(next(iter(wrong)) in warning.message for warning in findings.warnings)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_config_that_transformers_refuses_is_told_as_such(bare: Bare, tmp_path: Path) -> None:
    folder, wanted = bare("llama")
    (folder / "config.json").write_text(json.dumps({**wanted, "initializer_range": "x"}))
    (found,) = problems(lambda f: adopt(folder, tmp_path / "out", findings=f), "config-mismatch")
    assert "initializer_range" in found.message and not (tmp_path / "out").exists()


def test_float8_without_scales_is_refused_by_its_tensors(bare: Bare, tmp_path: Path) -> None:
    folder, _ = bare("llama")
    weights = load_file(folder / "model.safetensors")
    short = {name: value.to(torch.float8_e4m3fn) if value.ndim == 2 else value for name, value in weights.items()}
    save_file(short, folder / "model.safetensors")
    (found,) = problems(lambda f: adopt(folder, tmp_path / "out", findings=f), "unknown-format")
    assert "float8_e4m3fn" in found.message and found.tensor in short
