"""The other targets: bitsandbytes runs here; AWQ and GPTQ are llm-compressor's, and their settings are tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from export_judges import wide
from transformers import AutoModelForCausalLM, AutoTokenizer

from lingraft.export import quantised
from lingraft.export.run import export
from lingraft.problems import Findings, Refusal
from lingraft.verify.receipt import verify_receipt

IDS = torch.tensor([[5, 77, 103, 8, 200, 31, 9, 44, 45, 300]])
Make = Callable[..., Path]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_bitsandbytes_directory_loads_and_is_near(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = wide(tmp_path / "m")
    told = export(model, tmp_path / "q", to="bnb", type=kind, findings=Findings())
    whole = AutoModelForCausalLM.from_pretrained(model)
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    with torch.no_grad():
        one, two = whole(IDS).logits.float(), small(IDS).logits.float()
    assert type(small.model.layers[0].mlp.up_proj).__name__ == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[kind]
    assert 0 < float((one - two).norm() / one.norm()) < 0.5 and told["type"] == kind
    assert AutoTokenizer.from_pretrained(tmp_path / "q").chat_template


def test_base_and_adapters_go_into_a_bitsandbytes_directory(tiny_llama: Path, adapter: Make, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    made = adapter(tiny_llama)
    export(made, tmp_path / "q", to="bnb", base=str(tiny_llama), findings=Findings())
    receipt = json.loads((tmp_path / "q" / "manifest.json").read_text())
    assert receipt["source"]["adapters"][0]["path"] == str(made)
    assert verify_receipt(tmp_path / "q", Findings())["match"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["adapter", "q"]  # nothing is left beside


def test_hf_is_a_merge(tiny_llama: Path, adapter: Make, tmp_path: Path) -> None:
    told = export(adapter(tiny_llama), tmp_path / "out", to="hf", base=str(tiny_llama), findings=Findings())
    assert told["applied"] and AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_awq_is_a_transform_and_a_quantisation_and_gptq_one_modifier() -> None:
    awq = yaml.safe_load(quantised.recipe(quantised.Settings("awq", "W4A16_ASYM")))["quant_stage"]["quant_modifiers"]
    gptq = yaml.safe_load(quantised.recipe(quantised.Settings("gptq", "W4A16")))["quant_stage"]["quant_modifiers"]
    assert list(awq) == ["AWQModifier", "QuantizationModifier"] and list(gptq) == ["GPTQModifier"]
    assert awq["QuantizationModifier"]["ignore"] == gptq["GPTQModifier"]["ignore"] == ["lm_head"]


def test_llm_compressor_reads_the_recipe() -> None:
    recipe = pytest.importorskip("llmcompressor.recipe", reason="llm-compressor is not installed")
    for to, kind in (("awq", "W4A16_ASYM"), ("gptq", "W4A16")):
        assert recipe.Recipe.create_instance(quantised.recipe(quantised.Settings(to, kind))).modifiers


def test_llm_compressor_is_given_the_model_the_texts_and_the_folder(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    seen: dict[str, Any] = {}

    def oneshot(**given: Any) -> None:
        seen.update(given)
        AutoModelForCausalLM.from_pretrained(given["model"]).save_pretrained(given["output_dir"])

    fake = types.ModuleType("llmcompressor")
    fake.oneshot = oneshot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llmcompressor", fake)
    monkeypatch.setattr(quantised, "find_spec", lambda _: True)
    (tmp_path / "t.txt").write_text("One text to calibrate on.")
    export(tiny_llama, tmp_path / "q", to="gptq", data=[str(tmp_path / "t.txt")], findings=Findings())
    assert seen["model"] == str(tiny_llama) and seen["dataset"]["text"] == ["One text to calibrate on."]
    assert "GPTQModifier" in seen["recipe"] and (tmp_path / "q" / "manifest.json").is_file()


def test_a_library_that_is_missing_is_named_with_its_command(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda _: None)
    with pytest.raises(Refusal) as refusal:
        export(tiny_llama, tmp_path / "q", to="bnb", findings=Findings())
    assert "pip install" in refusal.value.problems[0].remedy


def test_a_recipe_refuses_a_wrong_type_before_anything_is_trained() -> None:
    from lingraft.recipe import parse
    from lingraft.recipe_keys import check_keys

    recipe = parse({"name": "x", "base": "b", "out": "o", "export": [{"to": "gguf", "type": "Q9"}]})
    with pytest.raises(Refusal, match=r"export\.0.*Q9"):
        check_keys(recipe)


def test_the_stage_writes_every_file_that_a_recipe_asks_for(tiny_llama: Path, adapter: Make, tmp_path: Path) -> None:
    from lingraft.export.several import export_all
    from lingraft.merge.run import merge
    from lingraft.models import Stack
    from lingraft.recipe import Export

    made = adapter(tiny_llama)
    (made / "adapter_config.json").write_text(
        (made / "adapter_config.json")
        .read_text()
        .replace('"base_model_name_or_path": null', f'"base_model_name_or_path": "{tiny_llama}"')
    )
    merge(tiny_llama, [made], tmp_path / "merged", findings=Findings())
    wanted = [Export(), Export(type="F16"), Export(to="gguf-adapter")]
    export_all(tmp_path / "merged", Stack(tiny_llama, (made,)), tmp_path / "export", "x", wanted, Findings())
    assert sorted(p.name for p in (tmp_path / "export").glob("*.gguf")) == [
        "x-F16.gguf",
        "x-Q8_0.gguf",
        "x-adapter-lora.gguf",
    ]
