"""kill -9, at several moments, in a process of its own: the run that goes on ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from lingraft.recipe import Pretrain
from lingraft.train import pretrain
from lingraft.train.stage import Stage
base, corpus, out = map(Path, sys.argv[1:])
block = Pretrain(data=str(corpus), length=64, techniques=[{"kind": "lora", "r": 4, "dropout": 0.1}],
                 trainer={"max_steps": 40, "save_strategy": "steps", "save_steps": 1, "bf16": False,
                          "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1})
pretrain.run(Stage("pretrain", block, base, (), out, out.with_name(out.name + "-work")))
"""


def _start(base: Path, corpus: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, base, corpus, out], env={**os.environ, "OMP_NUM_THREADS": "1"},
                            stderr=subprocess.DEVNULL)  # fmt: skip


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
