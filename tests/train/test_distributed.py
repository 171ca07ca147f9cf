"""Two gloo processes train as one does: the same losses, whole adapters, resume. Judged by plain peft, one process."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from accelerate.data_loader import BatchSamplerShard
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM
from two_processes import launched

from lingraft.pipeline import run
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Distributed, parse
from lingraft.recipe_file import load
from lingraft.train.distributed.even import Even, Order
from lingraft.weights.inspect import inspect

KINDS: Mapping[str, tuple[dict[str, Any], str]] = {
    "ddp": ({"kind": "ddp"}, "DDP"),
    "fsdp": ({"kind": "fsdp"}, "FSDP2"),
    "zero2": ({"kind": "deepspeed", "stage": 2}, "ZeRO-2"),
    "zero3": ({"kind": "deepspeed", "stage": 3}, "ZeRO-3"),
}
LORA = {"kind": "lora", "r": 4, "save": ["embed_tokens", "lm_head"]}


def recipe(
    folder: Path, name: str, base: Path, accumulate: int, spread: dict[str, Any] | None = None, technique: Any = LORA
) -> Path:
    """Write a recipe: thirteen uneven blocks, four a step whatever the number of processes, two epochs."""
    texts = [f"{'Bread needs flour, water, salt and time. ' * (1 + i % 4)}{i}" for i in range(26)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    trainer = {
        "num_train_epochs": 2,
        "bf16": False,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-2,
        "gradient_accumulation_steps": accumulate,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    block = {"data": str(folder / "corpus.jsonl"), "length": 128, "techniques": [technique], "trainer": trainer}
    told = {"name": name, "base": str(base), "out": str(folder / name), "pretrain": block}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told | ({"distributed": spread} if spread else {})))
    return path


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 for the launcher and its processes, which are sessions of their own."""
    everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everybody:
        one.kill()
    process.communicate()


def finished(process: subprocess.Popen[str]) -> str:
    try:
        out, told = process.communicate(timeout=600)
    except BaseException:
        kill(process)
        raise
    assert process.returncode == 0, told[-4000:]
    return out


def losses(folder: Path) -> list[float]:
    log = (folder / "work" / "pretrain" / "log.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in log]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pretrain" / "adapter_model.safetensors")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_untied: Path) -> Path:
    """One run of one process, and for every strategy one of two processes whole and one stopped and gone on with."""
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("spread")
    run(load(recipe(folder, "one", tiny_untied, 4)), Findings())
    arguments: list[str] = []
    for name, (spread, _) in KINDS.items():
        arguments.append(str(recipe(folder, name, tiny_untied, 2, spread)))
        again = str(recipe(folder, f"{name}-again", tiny_untied, 2, spread))
        arguments += [f"{again}:5", again]
    finished(launched(Path(__file__).with_name("spread_run.py"), *arguments))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_two_processes_have_the_losses_of_one(runs: Path, name: str) -> None:
    assert len(losses(runs / "one")) == 8
    assert losses(runs / name) == pytest.approx(losses(runs / "one"), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_what_was_asked_for_is_what_ran(runs: Path, name: str) -> None:
    result = json.loads((runs / name / "manifest.json").read_text())["stages"]["pretrain"]["result"]
    assert (result["spread"], result["processes"]) == (KINDS[name][1], 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_adapter_is_whole_and_plain_peft_loads_it(runs: Path, name: str, tiny_untied: Path) -> None:
    one, two = adapter(runs / "one"), adapter(runs / name)
    assert set(one) == set(two) and "base_model.model.lm_head.weight" in two
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_untied), runs / name / "pretrain")
    torch.testing.assert_close(model.base_model.model.lm_head.weight, two["base_model.model.lm_head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_run_ends_where_one_that_was_not_ends(runs: Path, name: str) -> None:
    whole, again = adapter(runs / name), adapter(runs / f"{name}-again")
    assert losses(runs / f"{name}-again") == pytest.approx(losses(runs / name), abs=1e-4)
    assert all(torch.allclose(whole[key], again[key], atol=1e-4) for key in whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_inspect_knows_every_part_of_what_they_leave(runs: Path, name: str) -> None:
    findings = Findings()
    answer = inspect(runs / name, False, findings)
    assert answer["kind"] == "training-run" and not findings.problems
    assert not [part["path"] for part in answer["contents"] if "unknown" in part["role"]]
    checkpoint = max((runs / name / "work" / "pretrain" / "checkpoints").iterdir())
    assert inspect(checkpoint, False, findings)["kind"] == "trainer-checkpoint" and not findings.problems


@pytest.mark.slow
def test_the_command_killed_and_repeated_answers_once_and_keeps_tied_rows(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    tied = {"kind": "lora", "r": 4, "save": ["embed_tokens"]}
    run(load(recipe(tmp_path, "one", tiny_llama, 4, technique=tied)), Findings())
    path = recipe(tmp_path, "killed", tiny_llama, 2, {"kind": "zero3"}, tied)
    command = (Path(__file__).with_name("spread_command.py"), "run", path, "--json")
    monkeypatch.setenv("HOLD", "5")
    process = launched(*command)
    home = tmp_path / "killed" / "work" / "pretrain" / "checkpoints"
    while not (home / "checkpoint-4").exists():
        assert process.poll() is None, process.communicate()[1][-4000:]
        time.sleep(0.05)
    kill(process)
    assert not (tmp_path / "killed" / "pretrain").exists()
    monkeypatch.delenv("HOLD")
    answer = json.loads(finished(launched(*command)))
    assert answer["ok"] and [stage["name"] for stage in answer["stages"]] == ["pretrain", "merge", "verify", "report"]
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "killed")
    assert set(one) == set(two) and all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


class Blocks:
    """Thirteen blocks, block i holding token i."""

    stats: Mapping[str, Any] = {}

    def __len__(self) -> int:
        return 13

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": [index], "labels": [index], "position_ids": [0]}


@pytest.mark.parametrize(("processes", "batch"), [(2, 1), (2, 3), (4, 2), (8, 2)])
def test_accelerate_hands_every_block_to_exactly_one_process(processes: int, batch: int) -> None:
    data = Even(Blocks(), processes * batch)
    shares = [
        list(BatchSamplerShard(BatchSampler(Order(data, 42), batch, False), processes, n)) for n in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = [data[i] for share in shares for taken in share for i in taken]
    assert sorted(item["input_ids"][0] for item in seen if item["labels"] != [-100]) == list(range(13))


def test_an_epoch_has_an_order_of_its_own() -> None:
    order = Order(Even(Blocks(), 2), 42)
    first = list(order)
    order.set_epoch(1)
    assert first != list(order) and sorted(first) == sorted(order) == list(range(14))


@pytest.mark.parametrize(
    ("given", "kind", "stage"), [("zero3", "deepspeed", 3), ("fsdp2", "fsdp", 2), ("ddp", "ddp", 2)]
)
def test_short_names_of_strategies_are_understood(given: str, kind: str, stage: int) -> None:
    found = Distributed.model_validate({"kind": given})
    assert (found.kind, found.stage) == (kind, stage)


@pytest.mark.parametrize(
    "block", [{"kind": "megatron"}, {"kind": "deepspeed", "stage": 1}, {"kind": "ddp", "config": {"a": 1}}]
)
def test_what_is_no_strategy_is_refused_by_its_path(block: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="distributed"):
        parse({"name": "x", "base": "b", "out": "o", "distributed": block})


def test_half_a_launch_is_refused_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from lingraft.train.distributed import launch

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(Refusal, match="MASTER_ADDR"), launch.led():
        pass


def test_quantised_weights_are_not_split(monkeypatch: pytest.MonkeyPatch, make_stage: Any, tiny_llama: Path) -> None:
    from dataclasses import replace

    from lingraft.train.distributed import strategy

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    stage = replace(make_stage(tiny_llama, [{"kind": "qlora"}]), distributed=Distributed(kind="fsdp"))
    with pytest.raises(Refusal, match="quantised weights are not split"):
        strategy.of(stage)
