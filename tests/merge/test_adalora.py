"""Adapters that peft itself trained and saved with AdaLoRA merge to what peft's own merge gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lingraft.merge.run import merge
from lingraft.problems import Findings, Refusal
from lingraft.verify.run import verify


@pytest.fixture
def dealt_out(tiny_untied: Path, tmp_path: Path) -> Path:
    """An AdaLoRA adapter trained with plain peft until whole layers are pruned away."""
    torch.manual_seed(0)
    config = AdaLoraConfig(
        init_r=6,
        target_r=3,
        lora_alpha=9,
        target_modules="all-linear",
        total_step=20,
        tinit=2,
        tfinal=4,
        deltaT=1,
        task_type="CAUSAL_LM",
        modules_to_save=["lm_head"],
    )
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_untied), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.randint(3, 300, (2, 20))
    for step in range(1, 20):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_merge_is_peft_s(tiny_untied: Path, dealt_out: Path, tmp_path: Path) -> None:
    assert any(0 in t.shape for t in load_file(dealt_out / "adapter_model.safetensors").values())  # pruned layers
    merge(tiny_untied, [dealt_out], tmp_path / "merged", findings=Findings())
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    judge = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_untied), dealt_out).merge_and_unload()
    for name, value in judge.state_dict().items():
        torch.testing.assert_close(ours[name], value, atol=1e-7, rtol=1e-6)


def test_its_proof_of_update_names_the_layers_that_kept_a_rank(tiny_untied: Path, dealt_out: Path) -> None:
    findings = Findings()
    told = verify(str(dealt_out), str(tiny_untied), [], findings)
    assert not findings.problems and 3 < len(told["modules"]) < 15 and all(m["changed"] for m in told["modules"])


def test_a_layer_without_its_singular_values_is_refused(tiny_untied: Path, dealt_out: Path, tmp_path: Path) -> None:
    tensors = load_file(dealt_out / "adapter_model.safetensors")
    lost = next(name for name, t in tensors.items() if name.endswith("lora_E") and len(t))
    save_file({n: t for n, t in tensors.items() if n != lost}, dealt_out / "adapter_model.safetensors")
    with pytest.raises(Refusal) as refused:
        merge(tiny_untied, [dealt_out], tmp_path / "merged", findings=Findings())
    assert "unused-adapter-tensors" in {p.code for p in refused.value.problems}
