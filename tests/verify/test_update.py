"""Proof of update: what training moved, judged on adapters that peft trained and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file
from tiny_models import make_llama, make_tokenizer
from transformers import AutoModelForCausalLM
from verify_models import Merge, train

from lingraft.merge.lineage import Lineage, Link, adapter_fingerprint, write_lineage
from lingraft.problems import Findings
from lingraft.verify.update import verify_adapter
from lingraft.weights import hf
from lingraft.weights.fingerprint import fingerprint

SAVE = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")
ROWS = LoraConfig(
    r=4,
    target_modules=["q_proj"],
    trainable_token_indices={"embed_tokens": [5, 6, 7], "lm_head": [5]},
    task_type="CAUSAL_LM",
)
IA3 = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")


def proof(adapter: Path, base: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    findings = Findings()
    answer = verify_adapter(adapter, base, findings)
    return answer, sorted({p.code for p in findings.problems}), sorted({p.code for p in findings.warnings})


def rows_of(answer: dict[str, Any], name: str) -> tuple[int, int, int, int]:
    row = next(row for row in answer["embeddings"] if row["name"] == name)
    return row["new_rows"], row["new_rows_changed"], row["old_rows"], row["old_rows_changed"]


def edit(adapter: Path, change: Any) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: change(k, v).contiguous() for k, v in tensors.items()}, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("config", (None, SAVE, ROWS, IA3), ids=("lora", "saved", "rows", "ia3"))
def test_a_trained_adapter_is_proved_module_by_module(config: Any, tiny_untied: Path, tmp_path: Path) -> None:
    answer, problems, warnings = proof(train(tiny_untied, tmp_path / "a", config=config), tiny_untied)
    assert all(m["changed"] and m["rel_norm"] > 0 for m in answer["modules"])
    assert (problems, warnings) == ([], [])


@pytest.mark.parametrize("config", (None, IA3), ids=("lora", "ia3"))
def test_an_adapter_that_was_never_trained_is_told(config: Any, tiny_untied: Path, tmp_path: Path) -> None:
    answer, problems, _ = proof(train(tiny_untied, tmp_path / "a", steps=0, config=config), tiny_untied)
    assert problems == ["untrained-adapter"] and not any(m["changed"] for m in answer["modules"])


def test_how_far_a_module_moved_is_the_norm_of_its_delta(tiny_untied: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = train(tiny_untied, tmp_path / "a")
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_untied), adapter)
    layer = live.base_model.model.model.layers[1].mlp.up_proj
    expected = layer.get_delta_weight("default").norm() / layer.base_layer.weight.norm()
    answer, _, _ = proof(adapter, tiny_untied)
    told = next(m["rel_norm"] for m in answer["modules"] if m["name"] == "model.layers.1.mlp.up_proj")
    assert told == pytest.approx(float(expected), rel=1e-3)


def test_a_saved_module_that_equals_the_base_is_told(tiny_untied: Path, tmp_path: Path) -> None:
    adapter = train(tiny_untied, tmp_path / "a", config=SAVE)
    head = load_file(tiny_untied / "model.safetensors")["lm_head.weight"]
    edit(adapter, lambda name, value: head if "lm_head" in name else value)
    answer, problems, _ = proof(adapter, tiny_untied)
    assert problems == ["module-not-updated"] and rows_of(answer, "lm_head") == (0, 0, 400, 0)


def test_a_saved_module_rounded_to_bf16_is_no_update(tiny_untied: Path, tmp_path: Path) -> None:
    adapter = train(tiny_untied, tmp_path / "a", steps=0, config=SAVE)
    edit(adapter, lambda _, value: value.bfloat16())
    assert "module-not-updated" in proof(adapter, tiny_untied)[1]


def test_trained_token_rows_are_counted(tiny_untied: Path, tmp_path: Path) -> None:
    answer, _, _ = proof(train(tiny_untied, tmp_path / "a", config=ROWS), tiny_untied)
    assert rows_of(answer, "model.embed_tokens") == (0, 0, 400, 3)
    assert rows_of(answer, "lm_head") == (0, 0, 400, 1)


def test_new_rows_that_were_trained_are_counted(tiny_untied: Path, tmp_path: Path) -> None:
    answer, problems, _ = proof(train(tiny_untied, tmp_path / "a", grow=40, steps=8, config=SAVE), tiny_untied)
    new, changed, old, _ = rows_of(answer, "model.embed_tokens")
    assert (new, old, problems) == (40, 400, []) and changed >= 36


def test_new_rows_still_at_the_mean_are_untrained(tiny_untied: Path, tmp_path: Path) -> None:
    adapter = train(tiny_untied, tmp_path / "a", grow=40, config=SAVE)
    fresh = train(tiny_untied, tmp_path / "fresh", grow=40, steps=0, config=SAVE)
    new = load_file(fresh / "adapter_model.safetensors")
    edit(adapter, lambda name, value: torch.cat((value[:400], new[name][400:])) if value.shape[0] == 440 else value)
    answer, problems, warnings = proof(adapter, tiny_untied)
    assert rows_of(answer, "model.embed_tokens")[:2] == (40, 0)
    assert (problems, warnings) == (["new-tokens-untrained"], ["new-tokens-untrained"])  # the head alone: a warning


def test_new_tokens_without_any_row_are_told(tiny_untied: Path, tmp_path: Path) -> None:
    adapter = train(tiny_untied, tmp_path / "a")
    make_tokenizer(adapter, size=450)
    answer, problems, _ = proof(adapter, tiny_untied)
    assert problems == ["new-tokens-untrained"] and rows_of(answer, "model.embed_tokens") == (50, 0, 400, 0)


def test_a_padding_token_alone_needs_no_training(tiny_untied: Path, tmp_path: Path) -> None:
    adapter = train(tiny_untied, tmp_path / "a")
    make_tokenizer(adapter, size=400)
    told = json.loads((adapter / "tokenizer.json").read_text())
    told["added_tokens"].append({**told["added_tokens"][0], "id": 400, "content": "[PAD]"})
    (adapter / "tokenizer.json").write_text(json.dumps(told))
    assert proof(adapter, tiny_untied)[1:] == ([], ["new-tokens-untrained"])


def test_new_rows_of_an_extended_base_are_known_by_its_receipt(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base", tied=False, rows=400)
    (base / "manifest.json").write_text(json.dumps({"stage": "vocab", "result": {"old_size": 360, "new_size": 400}}))
    answer, problems, _ = proof(train(base, tmp_path / "a"), base)
    assert rows_of(answer, "model.embed_tokens") == (40, 0, 360, 0) and problems == ["new-tokens-untrained"]


def test_nan_is_told_with_its_tensor(tiny_untied: Path, tmp_path: Path) -> None:
    adapter = train(tiny_untied, tmp_path / "a")
    edit(
        adapter,
        lambda name, value: (
            value.index_fill(0, torch.tensor([0]), float("nan"))
            if name.endswith("layers.1.self_attn.q_proj.lora_B.weight")
            else value
        ),
    )
    assert "non-finite" in proof(adapter, tiny_untied)[1]


def test_rows_of_another_base_do_not_correlate(tiny_untied: Path, tmp_path: Path) -> None:
    stranger = make_llama(tmp_path / "stranger", tied=False, seed=9)
    assert "base-mismatch" in proof(train(tiny_untied, tmp_path / "a", config=SAVE), stranger)[1]


def test_a_lineage_names_its_base(tiny_untied: Path, tmp_path: Path) -> None:
    adapter, stranger = train(tiny_untied, tmp_path / "a"), make_llama(tmp_path / "stranger", tied=False, seed=9)
    write_lineage(adapter, Lineage(fingerprint(hf.read(tiny_untied).tensors), str(tiny_untied)))
    assert proof(adapter, tiny_untied)[1] == []
    assert "base-mismatch" in proof(adapter, stranger)[1]


def test_a_second_stage_is_held_against_the_first(merge: Merge, tmp_path: Path) -> None:
    first = train(merge.base, tmp_path / "first", config=SAVE)
    second = train(merge.base, tmp_path / "second", config=SAVE, below=(first,), steps=0)
    links = (Link(adapter_fingerprint(first), str(first)),)
    write_lineage(second, Lineage(fingerprint(hf.read(merge.base).tensors), str(merge.base), links))
    _, problems, _ = proof(second, merge.base)
    assert "module-not-updated" in problems  # it differs from the base, and not from the stage below it
