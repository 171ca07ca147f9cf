"""SmolLM2-135M-Instruct: llama.cpp answers from the exported file as transformers does, adapter included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_judges import LlamaCpp, greedy, next_token
from transformers import AutoModelForCausalLM, AutoTokenizer

from lingraft.export.run import export
from lingraft.problems import Findings

pytestmark = pytest.mark.slow
QUESTIONS = ["What is the capital of France?", "Explain in two sentences why the sky is blue."]


@pytest.fixture(scope="module")
def exported(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "smollm2-F32.gguf"
    export(real_model, out, type="F32", findings=Findings())
    return out


def asked(tokenizer: Any, question: str) -> list[int]:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    return [int(token) for token in ids]


def test_the_first_32_greedy_tokens_are_those_of_transformers(real_model: Path, exported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32)
    tokenizer, engine = AutoTokenizer.from_pretrained(real_model), LlamaCpp(exported)
    for question in QUESTIONS:
        ids = asked(tokenizer, question)
        assert engine.greedy(ids, 32) == greedy(model, ids, 32), question


def test_with_a_lora_the_next_token_is_as_likely_as_with_peft(
    real_model: Path, exported: Path, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    made = adapter(real_model, scale=0.03, r=8, lora_alpha=16)
    export(made, tmp_path / "lora.gguf", to="gguf-adapter", base=str(real_model), findings=Findings())
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32), made)
    ids = asked(AutoTokenizer.from_pretrained(real_model), QUESTIONS[0])
    theirs, engine = next_token(live, ids), LlamaCpp(exported, [tmp_path / "lora.gguf"])
    near, far = (
        max(abs(float(theirs[token]) - value) for token, value in engine.next_token(ids, {0: scale}).items())
        for scale in (1.0, 0.0)
    )
    assert near < 0.02 and far > 10 * near, (near, far)
