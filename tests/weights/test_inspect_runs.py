"""Training runs and adapters as peft, the Trainer and DeepSpeed leave them: every part, its size, what to use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_parts import edit_json, edit_weights, look, problems, train_run
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import make_tokenizer
from transformers import AutoModelForCausalLM

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps"}


@pytest.fixture(scope="session")
def left(tiny_untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that the Trainer left."""
    return train_run(tiny_untied, tmp_path_factory.mktemp("left") / "run")


@pytest.fixture
def run(left: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "run"))


def part(answer: dict[str, Any], path: str) -> dict[str, Any]:
    return next(row for row in answer["contents"] if row["path"] == path)


def test_a_finished_run_points_to_its_final_adapter(left: Path) -> None:
    answer, findings = look(left)
    assert (answer["kind"], answer["use"]) == ("training-run", str(left)) and not findings.problems
    assert answer["adapter"]["type"] == "LORA" and answer["adapter"]["r"] == 4
    assert answer["adapter"]["modules_to_save"] == ["embed_tokens", "lm_head"]


def test_every_file_has_a_role_and_the_bytes_add_up(left: Path) -> None:
    answer, _ = look(left)
    files = [f for f in left.rglob("*") if f.is_file()]
    assert sorted(row["path"] for row in answer["contents"]) == sorted(str(f.relative_to(left)) for f in files)
    assert answer["bytes"] == sum(f.stat().st_size for f in files)
    assert not [row for row in answer["contents"] if "unknown" in row["role"]]


def test_the_optimizers_size_is_explained_by_the_trainable_parameters(left: Path) -> None:
    answer, _ = look(left)
    trainable = sum(t.numel() for t in load_file(left / "adapter_model.safetensors").values())
    role = part(answer, "checkpoint-4/optimizer.pt")["role"]
    assert f"2 Adam moments × 4 bytes × {trainable:,} trainable parameters" in role


def test_optimizer_state_may_go_and_the_result_stays(left: Path) -> None:
    answer, _ = look(left)
    optimizer, adapter = part(answer, "checkpoint-4/optimizer.pt"), part(answer, "adapter_model.safetensors")
    assert optimizer["removable"] and "resuming" in optimizer["needed_for"] and not adapter["removable"]
    assert part(answer, "checkpoint-2/adapter_model.safetensors")["removable"]


def test_an_unfinished_run_keeps_what_resuming_needs(run: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "trainer_state.json"):
        (run / name).unlink()
    edit_json(run / "checkpoint-4" / "trainer_state.json", max_steps=100)
    answer, _ = look(run)
    assert answer["use"] == str(run / "checkpoint-4")
    assert not part(answer, "checkpoint-4/optimizer.pt")["removable"]
    assert part(answer, "checkpoint-2/optimizer.pt")["removable"]


def test_the_best_checkpoint_is_used_where_the_trainer_named_one(tiny_untied: Path, tmp_path: Path) -> None:
    run = train_run(tiny_untied, tmp_path / "run", **BEST)
    named = json.loads((run / "trainer_state.json").read_text())["best_model_checkpoint"]
    moved = Path(shutil.move(run, tmp_path / "moved"))  # the recorded path no longer exists
    assert look(moved)[0]["use"] == str(moved / Path(named).name)


def test_a_damaged_last_checkpoint_is_told_and_the_one_before_is_used(run: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (run / name).unlink()
    os.truncate(run / "checkpoint-4" / "adapter_model.safetensors", 2000)
    answer, findings = look(run)
    assert answer["use"] == str(run / "checkpoint-2")
    assert {p.code for p in findings.problems} == {"truncated-file"}


def test_an_interrupted_optimizer_save_is_told(run: Path) -> None:
    os.truncate(run / "checkpoint-4" / "optimizer.pt", 3000)
    assert problems(run) == ["truncated-file"]


def test_code_in_a_training_state_is_told(run: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"state": Evil()}, run / "checkpoint-4" / "optimizer.pt")
    assert problems(run) == ["unsafe-pickle"] and not (tmp_path / "ran").exists()


def test_a_checkpoint_is_a_trainer_checkpoint(left: Path) -> None:
    answer, findings = look(left / "checkpoint-2")
    assert (answer["kind"], answer["use"]) == ("trainer-checkpoint", str(left / "checkpoint-2"))
    assert answer["adapter"]["r"] == 4 and not findings.problems


def test_an_adapter_that_a_callback_saved_inside_a_checkpoint_is_found(run: Path) -> None:
    inner = run / "checkpoint-4" / "sft_lora_model"
    inner.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (run / "checkpoint-4" / name).rename(inner / name)
        (run / name).unlink()
    assert look(run)[0]["use"] == str(inner)


def test_a_run_of_ours_points_to_its_merged_model(tiny_untied: Path, left: Path, tmp_path: Path) -> None:
    for stage in ("pretrain", "sft"):
        shutil.copytree(left / "checkpoint-4", tmp_path / stage)
    shutil.copytree(tiny_untied, tmp_path / "vocab")
    (tmp_path / "work" / "sft").mkdir(parents=True)
    (tmp_path / "work" / "sft" / "log.jsonl").write_text("{}\n")
    (tmp_path / "manifest.json").write_text("{}")
    assert look(tmp_path)[0]["use"] == str(tmp_path / "sft")
    shutil.copytree(tiny_untied, tmp_path / "merged")
    answer, findings = look(tmp_path)
    assert (answer["kind"], answer["use"]) == ("training-run", str(tmp_path / "merged")) and not findings.problems
    assert part(answer, "work/sft/log.jsonl")["removable"]


# Adapters


@pytest.fixture
def adapter(left: Path, tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(left / name, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_whole_adapter_has_no_problem(adapter: Path) -> None:
    answer, findings = look(adapter)
    assert answer["kind"] == "peft-adapter" and answer["vocab_size"] == 400
    assert not findings.problems and not findings.warnings


def test_an_adapter_without_a_tensor_is_told(adapter: Path) -> None:
    save_file({}, adapter / "adapter_model.safetensors")
    assert problems(adapter) == ["empty-tensor"]


def test_tensors_of_shape_zero_are_told(adapter: Path) -> None:
    tensors = {name: torch.empty(0) for name in load_file(adapter / "adapter_model.safetensors")}
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert problems(adapter) == ["empty-tensor"]


def test_a_lost_partner_is_told(adapter: Path) -> None:
    name = next(n for n in load_file(adapter / "adapter_model.safetensors") if "lora_B" in n)
    edit_weights(adapter / "adapter_model.safetensors", **{name.replace(".", "__"): None})
    [problem] = look(adapter)[1].problems
    assert problem.code == "missing-adapter-tensors" and name.replace("lora_B", "lora_A") in problem.message


def test_a_lost_module_to_save_is_told(adapter: Path) -> None:
    edit_weights(adapter / "adapter_model.safetensors", base_model__model__lm_head__weight=None)
    [problem] = look(adapter)[1].problems
    assert (problem.code, problem.tensor) == ("missing-adapter-tensors", "lm_head")


def test_another_rank_in_the_config_is_told(adapter: Path) -> None:
    edit_json(adapter / "adapter_config.json", r=8)
    assert problems(adapter) == ["config-mismatch"]


def test_a_tokenizer_larger_than_the_saved_rows_is_told(adapter: Path) -> None:
    make_tokenizer(adapter, size=420)
    assert problems(adapter) == ["tokenizer-mismatch"]


def test_an_embedding_alone_on_a_tied_base_is_a_warning(tiny_llama: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), lora).save_pretrained(tmp_path)
    _, findings = look(tmp_path)
    assert (findings.problems, [w.code for w in findings.warnings]) == ([], ["tied-head-conflict"])


def test_a_config_without_weights_is_told(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    assert problems(adapter) == ["not-found"]


# DeepSpeed, really run


@pytest.mark.slow
@pytest.mark.parametrize("case", ("1-full-bf16", "2-full-fp32", "3-full-bf16"))
def test_a_deepspeed_state_is_counted_and_a_lost_rank_named(case: str, zero_runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(zero_runs / case, tmp_path / "state"))
    answer, findings = look(folder)
    assert answer["kind"] == "deepspeed-state" and not findings.problems
    assert answer["parameters"] == 19_200  # the embedding is tied: counted once
    optimizer = next(row for row in answer["contents"] if row["path"].endswith("optim_states.pt"))
    assert "Adam moments" in optimizer["role"] and not optimizer["removable"]  # the fp32 weights are in it, too
    next(folder.rglob("*zero_pp_rank_1_mp_rank_00_optim_states.pt")).unlink()
    [problem] = look(folder)[1].problems
    assert problem.code == "missing-shard" and "zero_pp_rank_1_mp_rank_00_optim_states.pt" in problem.message
