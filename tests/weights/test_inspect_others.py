"""What other tools leave: accelerate, torchtune, MLX, Megatron, unpacked archives, folders around folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from inspect_parts import look, problems, train_run
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lingraft.cli import app
from lingraft.problems import Findings
from lingraft.weights.convert import convert


@pytest.fixture(scope="session")
def left(tiny_untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that the Trainer left."""
    return train_run(tiny_untied, tmp_path_factory.mktemp("others") / "run")


def saved_state(model: Any, out: Path, *steps: str) -> Path:
    """Let accelerate save a model's training state under some names."""
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    accelerator.prepare(model, optimizer)
    for step in steps:
        accelerator.save_state(str(out / step))
    return out


def test_of_accelerates_steps_the_last_is_used_by_number(tiny_untied: Path, tmp_path: Path) -> None:
    run = saved_state(AutoModelForCausalLM.from_pretrained(tiny_untied), tmp_path / "run", "step_20", "step_3")
    answer, _ = look(run)
    assert (answer["kind"], answer["use"]) == ("training-run", str(run / "step_20"))
    assert not [row for row in answer["contents"] if "unknown" in row["role"]]


def test_accelerates_state_of_a_peft_model_is_no_model_and_converts_to_the_adapter(
    tiny_untied: Path, tmp_path: Path
) -> None:
    live = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_untied), LoraConfig(target_modules=["q_proj"]))
    run = saved_state(live, tmp_path / "run", "step_1")
    assert problems(run / "step_1") == ["unsupported-adapter"]
    live.save_pretrained(run)  # whose adapter_config.json lies above the step
    convert(run / "step_1", tmp_path / "adapter", "adapter", Findings())
    ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(ours[n], t) for n, t in load_file(run / "adapter_model.safetensors").items())


def test_of_torchtunes_epochs_the_last_is_used_whatever_their_age(tiny_untied: Path, tmp_path: Path) -> None:
    for name in ("epoch_10", "epoch_9"):  # the younger one is the earlier one
        shutil.copytree(tiny_untied, tmp_path / "run" / name)
    assert look(tmp_path / "run")[0]["use"] == str(tmp_path / "run" / "epoch_10")


def test_torchtunes_result_among_the_files_of_the_base_is_told(tiny_untied: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_untied, tmp_path / "base"))
    torch.save(load_file(folder / "model.safetensors"), folder / "hf_model_0001_2.pt")
    assert [w.path for w in look(folder)[1].warnings] == [str(folder / "hf_model_0001_2.pt")]


def test_a_notebooks_folder_with_an_adapter_beside_a_run_is_a_run(left: Path, tmp_path: Path) -> None:
    shutil.copytree(left / "checkpoint-4", tmp_path / "outputs" / "checkpoint-60")
    shutil.copytree(left / "checkpoint-4", tmp_path / "lora_model")
    answer, findings = look(tmp_path)
    assert (answer["kind"], answer["use"]) == ("training-run", str(tmp_path / "lora_model")) and not findings.problems


def test_a_merged_model_beside_a_run_is_used(left: Path, tiny_untied: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(left, tmp_path / "run"))
    for name in ("checkpoint-4-merged", "model_merged_4bit"):
        shutil.copytree(tiny_untied, run / name)
    assert look(run)[0]["use"] == str(run / "checkpoint-4-merged")


def test_folders_that_stand_around_one_run_are_stepped_through(left: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(left, tmp_path / "output" / "Qwen2.5" / "v0-20250101-101010"))
    answer, findings = look(tmp_path / "output")
    assert (answer["kind"], answer["use"]) == ("training-run", str(run)) and not findings.problems


def test_a_folder_around_several_models_names_them(tiny_untied: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(tiny_untied, tmp_path / name / "model")
    answer, findings = look(tmp_path)
    assert answer["use"] is None and "one/model (hf-model)" in findings.problems[0].message


def test_adapters_side_by_side_are_not_said_to_be_stages(tiny_untied: Path, tmp_path: Path) -> None:
    live = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_untied), LoraConfig(), "zh")
    live.add_adapter("math", LoraConfig())
    live.save_pretrained(tmp_path)
    assert "do not tell which is the last" in look(tmp_path)[0]["why"]


def test_a_hand_made_loops_checkpoints_without_a_trainers_state_are_usable(left: Path, tmp_path: Path) -> None:
    for step in (2, 4):
        shutil.copytree(left / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").unlink()
    assert look(tmp_path)[0]["use"] == str(tmp_path / "checkpoint-4")


@pytest.fixture
def mlx(tmp_path: Path) -> Path:
    """An adapter as MLX writes it, its config as published ones have it."""
    folder = tmp_path / "mlx"
    folder.mkdir()
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}, "num_layers": 2}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"model.layers.0.self_attn.q_proj.lora_a": torch.ones(32, 8)}, folder / "adapters.safetensors")
    return folder


def test_an_mlx_adapter_is_named_as_such(mlx: Path) -> None:
    answer, findings = look(mlx)
    assert answer["use"] is None and "MLX" in findings.problems[0].message


@pytest.mark.parametrize("name", ["adapters.safetensors", "adapter_model.safetensors"])
def test_an_mlx_adapter_is_not_merged_under_any_name(mlx: Path, tiny_untied: Path, tmp_path: Path, name: str) -> None:
    (mlx / "adapters.safetensors").rename(mlx / name)
    found = CliRunner().invoke(app, ["merge", str(tiny_untied), str(mlx), "--out", str(tmp_path / "out"), "--json"])
    assert [p["code"] for p in json.loads(found.stdout)["problems"]] == ["unsupported-adapter"]


def test_megatrons_checkpoint_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "iter_0000100" / "mp_rank_00").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt")
    answer, findings = look(tmp_path)
    assert answer["use"] is None and "Megatron" in findings.problems[0].message


def test_of_a_file_that_goes_with_others_the_folder_is_named(left: Path) -> None:
    assert str(left) in look(left / "adapter_config.json")[1].problems[0].remedy


def test_an_archive_is_told_to_be_unpacked(left: Path, tmp_path: Path) -> None:
    file = shutil.make_archive(str(tmp_path / "adapter"), "zip", left)
    assert "unpack" in look(Path(file))[1].problems[0].remedy


def test_links_around_in_a_circle_and_into_nothing_are_seen_once(left: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(left, tmp_path / "run"))
    (run / "self").symlink_to(run)
    (run / "gone.safetensors").symlink_to("nowhere")
    answer, findings = look(run)
    assert not [row for row in answer["contents"] if row["path"].startswith("self")]
    assert [p.message for p in findings.problems] == [f"{run / 'gone.safetensors'} is a link to nowhere, which is gone"]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps names as UTF-16")
def test_a_name_that_is_not_utf8_still_gives_one_json_object(left: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(left, tmp_path / "run"))
    (run / os.fsdecode("说明.txt".encode("gbk"))).write_text("from a Windows zip")
    found = CliRunner().invoke(app, ["inspect", str(run), "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout)["use"] == str(run)
