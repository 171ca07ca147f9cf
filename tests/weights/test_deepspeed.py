"""ZeRO states of real two-process DeepSpeed runs; DeepSpeed's own zero_to_fp32 is the judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from weights_judges import ZERO_CASES, codes, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import deepspeed, formats, hf
from lingraft.weights.convert import convert

pytestmark = pytest.mark.slow


def judged(folder: Path) -> dict[str, torch.Tensor]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder)))


@pytest.mark.parametrize("case", ZERO_CASES)
def test_every_tensor_is_what_zero_to_fp32_makes_of_it(zero_runs: Path, case: str) -> None:
    folder = zero_runs / case
    theirs, ours = judged(folder), formats.open_checkpoint(folder).tensors
    assert set(theirs) <= set(ours)
    assert same({name: ours[name] for name in theirs}, theirs)


def test_zero_3_was_saved_in_several_flat_groups_a_rank(zero_runs: Path) -> None:
    state = zero_runs / "3-full-bf16" / "global_step2" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    state = state if state.is_file() else state.with_name(state.name.removeprefix("bf16_"))
    assert len(torch.load(state, weights_only=False)["optimizer_state_dict"]["fp32_flat_groups"]) > 1


@pytest.mark.parametrize("case", ZERO_CASES[:3])
def test_frozen_weights_are_there_and_blocks_of_rows_agree(zero_runs: Path, case: str) -> None:
    found = deepspeed.read(zero_runs / case / "global_step2").tensors
    assert "base_model.model.model.embed_tokens.weight" in found  # frozen
    for name in found:
        assert torch.equal(found.entries[name].read(1, 3), found[name][1:3]), name


def test_the_adapter_inside_a_zero_3_state_is_the_one_peft_loads(zero_runs: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = shutil.copytree(zero_runs / "3-lora-fp32", tmp_path / "run")
    LoraConfig(r=3, target_modules="all-linear", modules_to_save=["lm_head"]).save_pretrained(folder)
    convert(folder / "global_step2", tmp_path / "adapter", "adapter", Findings())
    base = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=56,
            num_hidden_layers=2,
            vocab_size=67,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    state = PeftModel.from_pretrained(base, tmp_path / "adapter").state_dict()
    trained = {
        name: tensor for name, tensor in judged(folder).items() if ".lora_" in name or ".modules_to_save." in name
    }
    assert trained and all(torch.equal(state[name], tensor) for name, tensor in trained.items())


def test_a_full_run_becomes_a_model_that_transformers_loads(zero_runs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = shutil.copytree(zero_runs / "2-full-fp32", tmp_path / "run")
    LlamaConfig(
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=67,
        architectures=["LlamaForCausalLM"],
        tie_word_embeddings=True,
    ).save_pretrained(folder)
    convert(folder, tmp_path / "hf", "hf", Findings())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    assert same(model, judged(folder)) and "lm_head.weight" not in hf.read(tmp_path / "hf").tensors


@pytest.mark.parametrize("kind", ["optim", "model"])
def test_a_missing_rank_is_named(zero_runs: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(zero_runs / "3-lora-fp32", tmp_path / "run") / "global_step2"
    (folder / f"zero_pp_rank_1_mp_rank_00_{kind}_states.pt").unlink()
    with pytest.raises(Refusal, match=f"zero_pp_rank_1_mp_rank_00_{kind}_states.pt") as refusal:
        deepspeed.read(folder)
    assert codes(refusal) == ["missing-shard"]


def test_a_truncated_rank_is_named(zero_runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(zero_runs / "2-lora-fp32", tmp_path / "run") / "global_step2"
    file = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(Refusal, match=file.name) as refusal:
        deepspeed.read(folder)
    assert codes(refusal) == ["truncated-file"]


def test_states_of_two_runs_mixed_are_refused(zero_runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(zero_runs / "2-full-fp32", tmp_path / "run") / "global_step2"
    other = zero_runs / "2-lora-fp32" / "global_step2"
    for rank in range(2):
        shutil.copy(other / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", folder)
    with pytest.raises(Refusal) as refusal:
        deepspeed.read(folder)
    assert codes(refusal) == ["corrupt-file"]


def test_model_states_alone_of_zero_3_hold_no_weights(zero_runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(zero_runs / "3-lora-fp32", tmp_path / "run") / "global_step2"
    for file in folder.glob("*optim_states.pt"):
        file.unlink()
    with pytest.raises(Refusal) as refusal:
        deepspeed.read(folder)
    assert codes(refusal) == ["missing-shard"]


@pytest.mark.parametrize("latest", [True, False])
def test_the_folder_that_accelerate_has_deepspeed_write_is_read_and_must_stay(
    zero_runs: Path, tmp_path: Path, latest: bool
) -> None:
    from lingraft.weights.inspect import inspect

    step = tmp_path / "run" / "step_2"  # accelerate's save_state calls save_checkpoint(step, "pytorch_model")
    shutil.copytree(zero_runs / "3-full-bf16" / "global_step2", step / "pytorch_model")
    torch.save({}, step / "scheduler.bin")
    if latest:
        (step / "latest").write_text("pytorch_model")
    found = inspect(tmp_path / "run", False, Findings())
    assert (found["kind"], found["use"]) == ("training-run", str(step)) and found["parameters"]
    assert not [p for p in found["contents"] if "states.pt" in p["path"] and p["removable"]]
    theirs = judged(zero_runs / "3-full-bf16")
    assert same({name: formats.open_checkpoint(step).tensors[name] for name in theirs}, theirs)
