"""Distributed checkpoints: torch's own reader is the judge, on one process and on real FSDP2 over two."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from weights_judges import codes, every_dtype, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import dcp as ours
from lingraft.weights import formats
from lingraft.weights.inspect import inspect


def judged(folder: Path, out: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(folder, out)
    return dict(torch.load(out, weights_only=False)["model"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tensors = {name: tensor.detach().contiguous() for name, tensor in every_dtype().items() if name != "empty"}
    dcp.save(
        {"model": tensors, "optimizer": {"exp_avg": torch.ones(3)}, "epoch": 3},
        checkpoint_id=tmp_path / "dcp",
        no_dist=True,
    )
    return tmp_path / "dcp"


def test_one_process_saved_it_and_every_tensor_comes_out(saved: Path, tmp_path: Path) -> None:
    assert formats.detect(saved) == "dcp"
    assert same(formats.open_checkpoint(saved).tensors, judged(saved, tmp_path / "judge.pt"))


def test_inspect_knows_it(saved: Path) -> None:
    findings = Findings()
    told = inspect(saved, False, findings)
    assert told["kind"] == "state-dict" and told["tensors"] == len(ours.read(saved).tensors) and not findings.problems
    assert told["use"] == str(saved) and all(part["role"] != "unknown" for part in told["contents"])


@pytest.mark.slow
def test_fsdp2_over_two_processes_comes_out_whole(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(Path(__file__).with_name("fsdp_run.py")),
        str(tmp_path / "fsdp"),
    ]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, timeout=600, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr[-3000:]
    found = ours.read(tmp_path / "fsdp").tensors
    assert same(found, judged(tmp_path / "fsdp", tmp_path / "judge.pt"))
    for name in found:
        assert torch.equal(found.entries[name].read(5, 31), found[name][5:31]), name
    for file in (tmp_path / "fsdp").glob("__1_*.distcp"):
        file.unlink()
    with pytest.raises(Refusal, match=r"__1_0\.distcp") as refusal:
        ours.read(tmp_path / "fsdp")
    assert codes(refusal) == ["missing-shard"]


def test_metadata_that_names_a_command_is_refused_and_runs_nothing(saved: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (saved / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Refusal, match="system") as refusal:
        ours.read(saved)
    assert codes(refusal) == ["unsafe-pickle"] and not (tmp_path / "ran").exists()


def test_a_truncated_file_is_told(saved: Path) -> None:
    file = next(saved.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(Refusal) as refusal:
        dict(ours.read(saved).tensors)
    assert codes(refusal) == ["truncated-file"]


def test_a_damaged_listing_is_told(saved: Path) -> None:
    raw = (saved / ".metadata").read_bytes()
    (saved / ".metadata").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Refusal) as refusal:
        ours.read(saved)
    assert codes(refusal) == ["corrupt-file"]


def test_a_folder_around_the_state_gives_its_config(saved: Path, tiny_llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "checkpoint-3"
    shutil.copytree(saved, run / "pytorch_model_fsdp_0")
    shutil.copy(tiny_llama / "config.json", run)
    assert ours.read(run).config["model_type"] == "llama"


@pytest.mark.parametrize("name", ["pytorch_model_fsdp_0", "pytorch_model_fsdp.bin"])
def test_what_accelerate_saves_of_a_model_under_fsdp_is_to_be_used(saved: Path, tmp_path: Path, name: str) -> None:
    step = tmp_path / "run" / "checkpoint_0"
    step.mkdir(parents=True)
    theirs = judged(saved, tmp_path / "judge.pt")
    torch.save({}, step / "optimizer.bin")
    if name.endswith(".bin"):
        torch.save(theirs, step / name)
    else:
        shutil.copytree(saved, step / name)
    for path in (tmp_path / "run", step):
        findings = Findings()
        found = inspect(path, False, findings)
        assert found["use"] == str(step / name) and found["tensors"] == len(theirs) and not findings.problems
        assert not [part for part in found["contents"] if name in part["path"] and part["removable"]]
    assert same(formats.open_checkpoint(Path(found["use"])).tensors, theirs)


def test_a_run_in_which_nothing_can_be_used_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    findings = Findings()
    assert inspect(tmp_path, False, findings)["use"] is None and findings.problems
