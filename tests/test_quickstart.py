"""The main job on the real model, short: every stage, the figures' direction, interruption, plain transformers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import warm

from lingraft.quickstart.recipes import FOLDER
from lingraft.train import pace

pytestmark = pytest.mark.slow
STEPS = [
    "pretrain.minutes=null",
    "pretrain.trainer.max_steps=16",
    "sft.minutes=null",
    "sft.trainer.max_steps=6",
    "evaluate.limit=6",
    "evaluate.prompts=[长城有多长？]",
]


def run(out: Path) -> subprocess.CompletedProcess[str]:
    """Run the shipped recipe with a number of steps, so that what is learnt does not depend on the machine."""
    settings = [word for one in (f"out={out}", *STEPS) for word in ("--set", one)]
    return warm.lingraft("run", FOLDER / "quickstart.yaml", *settings, "--json")


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory, real_model: Path) -> dict[str, Any]:
    done = run(tmp_path_factory.mktemp("quickstart") / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_quickstart_learns_chinese_and_keeps_its_english(answer: dict[str, Any]) -> None:
    before, after = answer["evaluate"]["models"]
    assert after["bits_per_character"] < before["bits_per_character"]
    assert after["tokens_per_character"] < before["tokens_per_character"]
    assert after["english_bits_per_character"] < 1.05 * before["english_bits_per_character"]


def test_the_page_and_every_folder_are_there(answer: dict[str, Any]) -> None:
    folder = Path(answer["model"]).parent
    assert "<html" in Path(answer["report"]).read_text(encoding="utf-8")
    assert all((folder / name / "manifest.json").is_file() for name in ("vocab", "pretrain", "sft", "merged"))


def test_a_finished_quickstart_says_so(answer: dict[str, Any]) -> None:
    folder = Path(answer["model"]).parent
    again = json.loads(run(folder).stdout)
    assert all(stage["skipped"] for stage in again["stages"])
    assert again["seconds"] == answer["seconds"]


def test_the_result_equals_base_and_adapters_live_in_peft(answer: dict[str, Any]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(answer["model"]).parent
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
    live = AutoModelForCausalLM.from_pretrained(folder / "vocab", dtype=torch.float32)
    for adapter in answer["adapters"]:
        live = PeftModel.from_pretrained(live, adapter).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    ids = tokenizer("长城有多长？ The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(merged(ids).logits, live.eval()(ids).logits)


def test_the_command_shares_its_minutes_out_among_the_stages(tmp_path: Path, tiny_llama: Path) -> None:
    out = tmp_path / "run"
    done = warm.lingraft("quickstart", "--minutes", "0.5", "--base", tiny_llama, "--out", out, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    names = [stage["name"] for stage in json.loads(done.stdout)["stages"]]
    assert names == ["vocab", "pretrain", "sft", "merge", "verify", "evaluate", "report"]
    given = [json.loads((out / name / "lingraft.json").read_text())["recipe"][name] for name in ("pretrain", "sft")]
    assert sum(one["minutes"] for one in given) == pytest.approx(0.15)
    decided = [pace.recall(out / "work" / name) for name in ("pretrain", "sft")]
    assert all(one and one.max_steps and one.seconds_per_step for one in decided)
