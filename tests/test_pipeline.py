"""A whole run on a tiny model through the real command line, judged by plain transformers and peft."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed
import pytest
import torch
import warm

RECIPE = """
name: tiny
base: {base}
out: {out}
vocab: {{corpus: "lingraft:zh-heldout.jsonl", size: 30}}
pretrain:
  data: "lingraft:zh-heldout.jsonl"
  length: 128
  techniques: [{{kind: lora, r: 4, rows: new}}]
  trainer: {{max_steps: 12, learning_rate: 1e-2, per_device_train_batch_size: 1, gradient_accumulation_steps: 1,
            save_strategy: steps, save_steps: 5}}
sft:
  data: "lingraft:en_instructions.jsonl"
  length: 256
  techniques: [{{kind: lora, r: 4, rows: new}}]
  trainer: {{max_steps: 4, learning_rate: 1e-2}}
evaluate: {{text: "lingraft:zh-heldout.jsonl", english: "lingraft:en-heldout.jsonl", prompts: ["你好"]}}
"""


def go(recipe: Path, cache: Path) -> dict[str, Any]:
    return answered(warm.lingraft("run", recipe, "--json", LINGRAFT_CACHE=str(cache), LINGRAFT_DTYPE="float32"))


def answered(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def write(folder: Path, base: Path) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(base=base, out=folder / "run"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, Any]:
    """A run that a shell starts; the others start warm."""
    folder = tmp_path_factory.mktemp("pipeline")
    command = [sys.executable, "-m", "lingraft", "run", str(write(folder, tiny_llama)), "--json"]
    environment = {**os.environ, "LINGRAFT_CACHE": str(folder / "cache"), "LINGRAFT_DTYPE": "float32"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return {**answered(done), "folder": folder}


def test_the_answer_is_what_the_contract_says(finished: dict[str, Any]) -> None:
    names = [stage["name"] for stage in finished["stages"]]
    assert names == ["vocab", "pretrain", "sft", "merge", "verify", "evaluate", "report"]
    assert finished["ok"]
    assert finished["seconds"] >= sum(s["seconds"] for s in finished["stages"])
    assert len(finished["evaluate"]["models"]) == 2
    assert Path(finished["report"]).is_file()


def test_the_result_loads_in_plain_transformers_and_equals_the_adapters_live_in_peft(finished: dict[str, Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = Path(finished["model"]).parent
    merged = AutoModelForCausalLM.from_pretrained(finished["model"], dtype=torch.float32).eval()
    live = AutoModelForCausalLM.from_pretrained(run / "vocab", dtype=torch.float32)
    for adapter in finished["adapters"]:
        live = PeftModel.from_pretrained(live, adapter).merge_and_unload()
    ids = AutoTokenizer.from_pretrained(finished["model"])("长城是中国古代的工程。", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(merged(ids).logits, live.eval()(ids).logits)


def test_the_page_tells_the_time_that_the_answer_tells(finished: dict[str, Any]) -> None:
    page = Path(finished["report"]).read_text(encoding="utf-8")
    shown = float(re.search(r'data-key="/seconds" data-value="([\d.]+)"', page)[1])
    assert 0.8 * finished["seconds"] - 3 <= shown <= finished["seconds"] and shown > 0


def test_every_output_folder_has_a_manifest(finished: dict[str, Any]) -> None:
    run = Path(finished["model"]).parent
    assert all((run / name / "manifest.json").is_file() for name in ("vocab", "pretrain", "sft", "merged"))


def test_a_finished_run_is_not_done_again(finished: dict[str, Any]) -> None:
    before = (Path(finished["model"]) / "model.safetensors").stat().st_mtime_ns
    again = go(finished["folder"] / "recipe.yaml", finished["folder"] / "cache")
    assert all(stage["skipped"] for stage in again["stages"])
    assert again["seconds"] == finished["seconds"]
    assert (Path(finished["model"]) / "model.safetensors").stat().st_mtime_ns == before


def killed_while_training(recipe: Path) -> None:
    killed.dies(8)
    warm.command(["run", str(recipe)])


def test_a_run_killed_while_training_goes_on_to_the_same_weights(
    finished: dict[str, Any], tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, tiny_llama)
    monkeypatch.setenv("LINGRAFT_DTYPE", "float32")
    process = warm.start(killed_while_training, recipe)
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "run" / "pretrain").exists()
    assert (tmp_path / "run" / "work" / "pretrain" / "checkpoints" / "checkpoint-5").is_dir()
    resumed = go(recipe, finished["folder"] / "cache")
    same = [
        (Path(a) / "adapter_model.safetensors").read_bytes() == (Path(b) / "adapter_model.safetensors").read_bytes()
        for a, b in zip(finished["adapters"], resumed["adapters"], strict=True)
    ]
    assert same == [True, True]


def test_a_stage_alone_asks_for_what_it_needs(tmp_path: Path, tiny_llama: Path) -> None:
    done = warm.lingraft("sft", write(tmp_path, tiny_llama), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"][0]["code"] == "not-found"


def test_a_recipe_may_begin_with_an_adapter_and_go_on_with_the_next(tmp_path: Path, finished: dict[str, Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    first = finished["folder"] / "run"
    (file := tmp_path / "go-on.yaml").write_text(
        f"name: onward\nbase: {first}/pretrain\nout: {tmp_path}/on\n"
        f"sft: {{continue: {first}/sft, data: 'lingraft:en_instructions.jsonl', trainer: {{max_steps: 2}}}}",
        encoding="utf-8",
    )
    went = go(file, finished["folder"] / "cache")
    live: Any = AutoModelForCausalLM.from_pretrained(first / "vocab", dtype=torch.float32)
    for adapter in (first / "pretrain", tmp_path / "on" / "sft"):
        live = PeftModel.from_pretrained(live, adapter).merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(went["model"], dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(live.parameters(), merged.parameters(), strict=True))
