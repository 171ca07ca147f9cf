"""Writing GGUF: llama.cpp loads it and agrees with transformers, and reading it back loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from lively_models import SCALINGS, make_model
from transformers import AutoModelForCausalLM
from weights_judges import LlamaCpp, codes, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import gguf, gguf_write, hf
from lingraft.weights.convert import convert

IDS = [5, 77, 103, 8, 200, 31, 9, 44, 45, 300]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 16}),
    "llama-biases": ("Llama", {"attention_bias": True}),
    "llama-3-scaling": ("Llama", {"head_dim": 64, "rope_theta": 500000.0, "rope_scaling": SCALINGS["llama3"]}),
    "llama-linear-scaling": ("Llama", {"rope_scaling": SCALINGS["linear"]}),
    "llama-yarn-scaling": ("Llama", {"rope_scaling": SCALINGS["yarn"]}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gemma3": (
        "Gemma3Text",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 7},
    ),
    "phi": ("Phi3", {"sliding_window": None}),
}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_agrees_with_transformers(name: str, tmp_path: Path, llama_cpp: type[LlamaCpp]) -> None:
    folder = make_model(tmp_path / "m", *MODELS[name])
    gguf_write.write(hf.read(folder), tmp_path / "m.gguf")
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
    told = llama_cpp(tmp_path / "m.gguf").next_token(IDS)
    assert len(told) == 5 and all(abs(theirs[token] - value) < 2e-3 for token, value in told.items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_returns_every_tensor_and_the_logits(name: str, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = make_model(tmp_path / "m", *MODELS[name], dtype=dtype)
    told = convert(folder, tmp_path / "m.gguf", "gguf", Findings())
    convert(tmp_path / "m.gguf", tmp_path / "back", "hf", Findings())
    assert told["exact"] and same(hf.read(tmp_path / "back").tensors, hf.read(folder).tensors)
    one, two = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (folder, tmp_path / "back"))
    assert torch.equal(one(torch.tensor([IDS])).logits, two(torch.tensor([IDS])).logits)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_every_type_holds_what_the_gguf_package_makes_of_the_weights(
    kind: str, tmp_path: Path, llama_cpp: type[LlamaCpp]
) -> None:
    folder = make_model(tmp_path / "m", "Llama", {})
    gguf_write.write(hf.read(folder), tmp_path / "m.gguf", kind)
    ours, original = gguf.read(tmp_path / "m.gguf").tensors, hf.read(folder).tensors
    for name in original:
        head = name == "lm_head.weight" and kind.startswith("Q")
        wanted = GGMLQuantizationType["F32" if original[name].ndim == 1 else "Q8_0" if head else kind]
        theirs = quants.dequantize(quants.quantize(original[name].numpy(), wanted), wanted)
        assert np.array_equal(ours[name].float().numpy(), theirs), name
    assert llama_cpp(tmp_path / "m.gguf").next_token(IDS)


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0"])
def test_transformers_own_reader_agrees_with_ours(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "Llama", {})
    gguf_write.write(hf.read(folder), tmp_path / "m.gguf", kind)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").state_dict()
    ours = gguf.read(tmp_path / "m.gguf").tensors
    assert all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)


def test_a_row_that_no_block_fits_falls_back_to_half_precision(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "Llama", {"intermediate_size": 72})
    gguf_write.write(hf.read(folder), tmp_path / "m.gguf", "Q8_0")
    assert gguf.read(tmp_path / "m.gguf").tensors.entries["model.layers.0.mlp.down_proj.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_type": "rwkv"}, "unknown-format"),
        ({"hidden_act": "gelu"}, "config-mismatch"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "config-mismatch"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tiny_llama: Path, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    from dataclasses import replace

    checkpoint = hf.read(tiny_llama)
    with pytest.raises(Refusal) as refusal:
        gguf_write.write(replace(checkpoint, config={**checkpoint.config, **change}), tmp_path / "m.gguf")
    assert codes(refusal) == [code]


def test_a_refused_export_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal):
        convert(tiny_llama, tmp_path / "m.gguf", "gguf", Findings(), type="Q4_K")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_llama_cpp_answers_paris_from_our_file_of_smollm2(
    kind: str, smollm2: Path, tmp_path: Path, llama_cpp: type[LlamaCpp]
) -> None:
    convert(smollm2, tmp_path / "hf", "hf", Findings())
    convert(tmp_path / "hf", tmp_path / "m.gguf", "gguf", Findings(), type=kind)
    assert "Paris" in llama_cpp(tmp_path / "m.gguf").answer("What is the capital of France?")
