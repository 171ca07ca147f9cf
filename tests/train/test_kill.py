"""kill -9, at several moments, in a process of its own: the run that goes on ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import sys, torch
from importlib import import_module
from pathlib import Path
torch.set_num_threads(1)
from lingraft import recipe
from lingraft.train.stage import Stage
name, steps = sys.argv[1], int(sys.argv[2])
base, data, out = map(Path, sys.argv[3:])
block = getattr(recipe, name.title())(
    data=str(data), length=64, techniques=[{"kind": "lora", "r": 4, "dropout": 0.1}],
    trainer={"max_steps": steps, "save_strategy": "steps", "save_steps": 1, "bf16": False,
             "per_device_train_batch_size": 2 if name == "prefer" else 1, "gradient_accumulation_steps": 1})
import_module(f"lingraft.train.{name}").run(Stage(name, block, base, (), out, out.with_name(out.name + "-work")))
"""


def _start(base: Path, data: Path, out: Path, name: str = "pretrain", steps: int = 40) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, name, str(steps), base, data, out],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )


def _kill_after(process: subprocess.Popen[bytes], work: Path, step: int, delay: float) -> None:
    """Kill the process ``delay`` seconds after the checkpoint of ``step`` or a later one is there."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        names = [p.name for p in work.glob("checkpoints/checkpoint-*")]
        if any(int(name.partition("-")[2]) >= step for name in names):
            break
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, tiny_llama: Path, corpus: Path
) -> None:
    assert _start(tiny_llama, corpus, tmp_path / "whole").wait() == 0
    for step, delay in ((1, 0.0), (12, 0.013), (25, 0.031)):
        _kill_after(_start(tiny_llama, corpus, tmp_path / "broken"), tmp_path / "broken-work", step, delay)
        assert not (tmp_path / "broken").exists()
    assert _start(tiny_llama, corpus, tmp_path / "broken").wait() == 0
    whole, broken = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefer", "classify"])
def test_the_other_stages_too_go_on_to_the_same_bytes(tmp_path: Path, tiny_llama: Path, name: str) -> None:
    data = tmp_path / "data.jsonl"
    rows = {
        "prefer": [{"prompt": f"问题{i}", "chosen": f"好的回答{i}", "rejected": "no"} for i in range(9)],
        "classify": [{"text": f"{'xyz' if i % 2 else 'abc'} {i}", "label": str(i % 2)} for i in range(30)],
    }
    data.write_text("\n".join(json.dumps(row) for row in rows[name]))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert _start(tiny_llama, data, whole, name, 10).wait() == 0
    _kill_after(_start(tiny_llama, data, broken, name, 10), tmp_path / "broken-work", 4, 0.01)
    assert not broken.exists()
    assert _start(tiny_llama, data, broken, name, 10).wait() == 0
    file = "adapter_model.safetensors"
    assert (whole / file).read_bytes() == (broken / file).read_bytes()
