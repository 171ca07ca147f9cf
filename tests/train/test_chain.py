"""A stage that trains the whole model is the base of the next: full, then LoRA, then merge and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lingraft import pipeline
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Recipe, parse

FEW = {"max_steps": 2, "learning_rate": 1e-2, "bf16": False}


def _recipe(base: Path, out: Path, **more: Any) -> Recipe:
    sft = {"data": "lingraft:en_instructions.jsonl", "length": 256, "trainer": FEW}
    return parse({"name": "x", "base": str(base), "out": str(out), "sft": sft, **more})


def _pretrain(technique: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"data": "lingraft:zh-heldout.jsonl", "length": 64, "techniques": [technique], "trainer": FEW, **more}


@pytest.mark.parametrize("technique", [{"kind": "full"}, {"kind": "freeze", "first": 1}])
def test_a_whole_model_then_lora_merges_and_verifies(
    tmp_path: Path, tiny_llama: Path, technique: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    answer = pipeline.run(_recipe(tiny_llama, run, pretrain=_pretrain(technique)), Findings())
    assert [s["name"] for s in answer["stages"]] == ["pretrain", "sft", "merge", "verify", "report"]
    assert answer["model"] == str(run / "merged") and answer["adapters"] == [str(run / "sft")]
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run / "pretrain"), run / "sft")
    merged = AutoModelForCausalLM.from_pretrained(run / "merged")
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, live.merge_and_unload()(ids).logits, atol=1e-5, rtol=1e-5)


def test_added_rows_are_known_behind_a_stage_that_trains_everything(tmp_path: Path, tiny_llama: Path) -> None:
    recipe = _recipe(
        tiny_llama,
        tmp_path / "run",
        pretrain=_pretrain({"kind": "full"}),
        vocab={"corpus": "lingraft:zh-heldout.jsonl", "size": 8, "init": "mean"},
    )
    rows = recipe.sft.model_copy(
        update={
            "techniques": recipe.sft.model_validate(  # type: ignore[union-attr]
                {"data": "d", "techniques": [{"kind": "lora", "r": 2, "rows": "new"}]}
            ).techniques
        }
    )  # type: ignore[union-attr]
    answer = pipeline.run(recipe.model_copy(update={"sft": rows}), Findings(), last="verify")
    assert answer["model"] == str(tmp_path / "run" / "merged")


def test_a_run_that_ends_with_a_whole_model_merges_nothing(tmp_path: Path, tiny_llama: Path) -> None:
    recipe = parse(
        {
            "name": "x",
            "base": str(tiny_llama),
            "out": str(tmp_path / "run"),
            "pretrain": _pretrain({"kind": "full"}),
            "evaluate": {"text": "lingraft:zh-heldout.jsonl", "limit": 2},
        }
    )
    answer = pipeline.run(recipe, Findings())
    assert answer["model"] == str(tmp_path / "run" / "pretrain") and answer["adapters"] == []
    assert [m["model"] for m in answer["evaluate"]["models"]][-1] == answer["model"]


def test_a_run_that_ends_with_a_live_adapter_evaluates_it_live(tmp_path: Path, tiny_llama: Path) -> None:
    recipe = parse(
        {
            "name": "x",
            "base": str(tiny_llama),
            "out": str(tmp_path / "run"),
            "pretrain": _pretrain({"kind": "bottleneck", "size": 4}),
            "evaluate": {"text": "lingraft:zh-heldout.jsonl", "limit": 2},
        }
    )
    answer = pipeline.run(recipe, Findings())
    base, ours = (m["bits_per_character"] for m in answer["evaluate"]["models"])
    assert answer["model"] == str(tmp_path / "run" / "pretrain") and ours != base


def test_going_on_is_refused_on_a_base_that_the_adapter_does_not_know(
    make_stage: Any, tiny_llama: Path, tiny_untied: Path
) -> None:
    from lingraft.train import pretrain

    first = make_stage(tiny_llama, ["lora"], out="first", trainer={"max_steps": 2})
    pretrain.run(first)
    with pytest.raises(Refusal) as refused:
        pretrain.run(make_stage(tiny_untied, ["lora"], out="second", **{"continue": str(first.out)}))
    assert refused.value.problems[0].code == "base-mismatch"
