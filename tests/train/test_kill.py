"""kill -9, at several moments, in a process of its own: the run that goes on ends with the same bytes."""

from __future__ import annotations

import json
import signal
from importlib import import_module
from pathlib import Path

import killed
import pytest
import warm

from lingraft import recipe
from lingraft.train.stage import Stage

LORA = {"kind": "lora", "r": 4, "dropout": 0.1}
ADAPTER = "adapter_model.safetensors"


def trained(name: str, steps: int, base: Path, data: Path, out: Path, end: tuple[int, float] | None = None) -> None:
    """Train a stage; with ``end``, until that many seconds after that step."""
    import torch

    torch.set_num_threads(1)
    if end:
        killed.dies(*end)
    trainer = {
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": 1,
        "bf16": False,
        "per_device_train_batch_size": 2 if name == "prefer" else 1,
        "gradient_accumulation_steps": 1,
    }
    block = getattr(recipe, name.title())(data=str(data), length=64, techniques=[LORA], trainer=trainer)
    stage = Stage(name, block, base, (), out, out.with_name(out.name + "-work"))
    import_module(f"lingraft.train.{name}").run(stage)


def ends_alike(folder: Path, name: str, steps: int, base: Path, data: Path, ends: list[tuple[int, float]]) -> None:
    """Train at one go, and with ends by kill -9; the adapters must have the same bytes."""
    whole, broken = folder / "whole", folder / "broken"
    for out, end in [(whole, None), *((broken, end) for end in ends), (broken, None)]:
        assert not out.exists()
        process = warm.start(trained, name, steps, base, data, out, end)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if end else 0)
    assert (whole / ADAPTER).read_bytes() == (broken / ADAPTER).read_bytes()


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, tiny_llama: Path, corpus: Path
) -> None:
    ends_alike(tmp_path, "pretrain", 20, tiny_llama, corpus, [(1, 0.0), (6, 0.013), (11, 0.031)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefer", "classify"])
def test_the_other_stages_too_go_on_to_the_same_bytes(tmp_path: Path, tiny_llama: Path, name: str) -> None:
    data = tmp_path / "data.jsonl"
    rows = {
        "prefer": [{"prompt": f"问题{i}", "chosen": f"好的回答{i}", "rejected": "no"} for i in range(9)],
        "classify": [{"text": f"{'xyz' if i % 2 else 'abc'} {i}", "label": str(i % 2)} for i in range(30)],
    }
    data.write_text("\n".join(json.dumps(row) for row in rows[name]))
    ends_alike(tmp_path, name, 8, tiny_llama, data, [(4, 0.01)])
