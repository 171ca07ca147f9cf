"""Peft adapter directories as containers: peft is the judge of names and values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from weights_judges import codes, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import adapter, formats
from lingraft.weights.convert import convert


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder / "new")
    model.save_pretrained(folder / "old", safe_serialization=False)
    torch.save(load_file(folder / "new" / "adapter_model.safetensors"), folder / "old" / "adapter_model.bin")
    (folder / "old" / "adapter_model.safetensors").unlink(missing_ok=True)
    model.load_adapter(str(folder / "new"), adapter_name="poetry")
    model.save_pretrained(folder / "named", selected_adapters=["poetry"])
    return folder


@pytest.mark.parametrize("which", ["new", "old", "named", "named/poetry"])
def test_an_adapter_keeps_the_names_it_was_saved_under(saved: Path, which: str) -> None:
    found = formats.open_checkpoint(saved / which)
    assert found.format == "adapter" and found.config["r"] == 2
    assert same(found.tensors, load_file(saved / "new" / "adapter_model.safetensors"))


def test_an_old_adapter_is_converted_to_safetensors(saved: Path, tmp_path: Path) -> None:
    told = convert(saved / "old", tmp_path / "out", "adapter", Findings())
    assert told["exact"]
    assert same(load_file(tmp_path / "out" / "adapter_model.safetensors"), adapter.read(saved / "new").tensors)


def test_an_adapter_is_no_model(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        convert(saved / "new", tmp_path / "out", "hf", Findings())
    assert codes(refusal) == ["unsupported-adapter"] and not (tmp_path / "out").exists()


def test_a_config_without_weights_is_told(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((saved / "new" / "adapter_config.json").read_bytes())
    with pytest.raises(Refusal) as refusal:
        adapter.read(tmp_path)
    assert codes(refusal) == ["not-found"]
