"""Adapters that only work live are proved too: their numbers, and whose they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lingraft.problems import Findings
from lingraft.verify.run import verify


@pytest.fixture(params=[PromptTuningConfig, PrefixTuningConfig])
def live(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path: Path) -> Path:
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama), request.param(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path / "live")
    return tmp_path / "live"


def _codes(adapter: Path, base: Path) -> list[str]:
    findings = Findings()
    verify(str(adapter), str(base), [], findings)
    return [p.code for p in findings.problems]


def test_sound_vectors_are_listed_and_nothing_is_claimed_of_their_start(live: Path, tiny_llama: Path) -> None:
    told = verify(str(live), str(tiny_llama), [], Findings())
    assert [(m["name"], m["changed"]) for m in told["modules"]] == [("prompt_embeddings", None)]
    (saved,) = load_file(live / "adapter_model.safetensors").values()
    assert told["modules"][0]["max_abs"] == saved.abs().max()


def test_vectors_that_are_no_numbers_are_told(live: Path, tiny_llama: Path) -> None:
    tensors = load_file(live / "adapter_model.safetensors")
    save_file({n: torch.full_like(t, float("nan")) for n, t in tensors.items()}, live / "adapter_model.safetensors")
    assert _codes(live, tiny_llama) == ["non-finite"]


def test_vectors_of_another_width_are_not_this_bases(tiny_llama: Path, live: Path) -> None:
    config = json.loads((live / "adapter_config.json").read_text())
    (live / "adapter_config.json").write_text(json.dumps({**config, "token_dim": 64}))
    wanted = ["base-mismatch"] if config["peft_type"] == "PROMPT_TUNING" else []
    assert _codes(live, tiny_llama) == wanted
