"""A whole run on a tiny model through the real command line, judged by plain transformers and peft."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPE = """
name: tiny
base: {base}
out: {out}
vocab: {{corpus: "lingraft:zh-heldout.jsonl", size: 30}}
pretrain:
  data: "lingraft:zh-heldout.jsonl"
  length: 128
  techniques: [{{kind: lora, r: 4, rows: new}}]
  trainer: {{max_steps: {steps}, learning_rate: 1e-2, per_device_train_batch_size: 1, gradient_accumulation_steps: 1,
            save_strategy: steps, save_steps: 5}}
sft:
  data: "lingraft:en_instructions.jsonl"
  length: 256
  techniques: [{{kind: lora, r: 4, rows: new}}]
  trainer: {{max_steps: 4, learning_rate: 1e-2}}
evaluate: {{text: "lingraft:zh-heldout.jsonl", english: "lingraft:en-heldout.jsonl", prompts: ["你好"]}}
"""


def command(recipe: Path) -> list[str]:
    return [sys.executable, "-m", "lingraft", "run", str(recipe), "--json"]


def go(recipe: Path, cache: Path) -> dict[str, Any]:
    environment = {**os.environ, "LINGRAFT_CACHE": str(cache), "LINGRAFT_DTYPE": "float32"}
    done = subprocess.run(command(recipe), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def write(folder: Path, base: Path, steps: int = 6) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(base=base, out=folder / "run", steps=steps), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pipeline")
    return {**go(write(folder, tiny_llama), folder / "cache"), "folder": folder}


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


def test_a_run_killed_while_training_goes_on_to_the_same_weights(tmp_path: Path, tiny_llama: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    expected = go(write(whole, tiny_llama, steps=40), tmp_path / "cache")
    recipe = write(cut, tiny_llama, steps=40)
    process = subprocess.Popen(
        command(recipe),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LINGRAFT_DTYPE": "float32"},
    )
    log = cut / "run" / "work" / "pretrain" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) > 7):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "run" / "pretrain").exists()
    resumed = go(recipe, tmp_path / "cache")
    same = [
        (Path(a) / "adapter_model.safetensors").read_bytes() == (Path(b) / "adapter_model.safetensors").read_bytes()
        for a, b in zip(expected["adapters"], resumed["adapters"], strict=True)
    ]
    assert same == [True, True]


def test_a_stage_alone_asks_for_what_it_needs(tmp_path: Path, tiny_llama: Path) -> None:
    recipe = write(tmp_path, tiny_llama)
    done = subprocess.run(
        [sys.executable, "-m", "lingraft", "sft", str(recipe), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"][0]["code"] == "not-found"
