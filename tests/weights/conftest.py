"""Fixtures of the formats: a tiny Llama with eight heads, llama.cpp, the published model, real DeepSpeed runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from two_processes import launched
from weights_judges import ZERO_CASES, LlamaCpp


@pytest.fixture(scope="session")
def eight_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bf16 Llama that can be cut eight ways: 8 key/value heads, 16 heads, an uneven vocabulary of 259."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "eight-heads"
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=8,
        vocab_size=259,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture
def llama_cpp() -> type[LlamaCpp]:
    """llama.cpp, where it is installed."""
    pytest.importorskip("xllamacpp")
    return LlamaCpp


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published SmolLM2-135M-Instruct as GGUF, out of its Python package's archive."""
    from lingraft.problems import Refusal
    from lingraft.quickstart.base import gguf

    named = os.environ.get("LINGRAFT_TEST_GGUF")
    if named and Path(named).is_file():
        return Path(named)
    try:
        return gguf(tmp_path_factory.mktemp("smollm2"))
    except Refusal as refusal:
        pytest.skip(f"the published SmolLM2 GGUF cannot be fetched here: {refusal}")


@pytest.fixture(scope="session")
def zero_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ZeRO states, one a case of ZERO_CASES, out of real runs of two processes."""
    pytest.importorskip("deepspeed")
    out = tmp_path_factory.mktemp("zero")
    process = launched(Path(__file__).with_name("deepspeed_run.py"), out, *ZERO_CASES)
    told = process.communicate()[1]
    assert process.returncode == 0, told[-3000:]
    return out
