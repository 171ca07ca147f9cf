"""A run that is killed goes on to the very weights of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lingraft.problems import Refusal
from lingraft.train import checkpoints, pretrain
from lingraft.train.stage import Stage
from lingraft.train.watch import Watch, read_log

LORA = [{"kind": "lora", "r": 4, "dropout": 0.2}]  # dropout, so that the random state matters


def _weights(stage: Stage) -> bytes:
    return (stage.out / "adapter_model.safetensors").read_bytes()


WHOLE: list[bytes] = []  # one run is enough for all who compare with it


@pytest.fixture
def whole(make_stage: Any, tiny_llama: Path) -> bytes:
    """The adapter of a run that nothing disturbed."""
    if not WHOLE:
        stage = make_stage(tiny_llama, LORA, out="whole")
        pretrain.run(stage)
        WHOLE.append(_weights(stage))
    return WHOLE[0]


def _die_at(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, time: int) -> None:
    """Let a function raise KeyboardInterrupt at its ``time``-th call: what a kill leaves is what is on the disk."""
    true, calls = getattr(target, name), [0]

    def deadly(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == time:
            raise KeyboardInterrupt
        return true(*args, **more)

    monkeypatch.setattr(target, name, deadly)


@pytest.mark.parametrize(
    ("target", "name", "time"),
    [
        (Watch, "on_step_end", 1),
        (Watch, "on_pre_optimizer_step", 3),  # in the middle of a step
        (checkpoints, "seal", 2),
        (checkpoints, "retire", 3),  # in the middle of saving
        (pretrain, "train", 1),  # before anything
    ],
)
def test_a_run_killed_anywhere_ends_with_the_same_bytes(
    make_stage: Any, tiny_llama: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, time: int
) -> None:
    stage = make_stage(tiny_llama, LORA, out="broken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _die_at(patch, target, name, time)
        pretrain.run(stage)
    assert not stage.out.exists()
    pretrain.run(stage)
    assert _weights(stage) == whole
    assert [row["step"] for row in read_log(stage.work / "log.jsonl")] == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    make_stage: Any, tiny_llama: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(tiny_llama, LORA, out="broken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _die_at(patch, Watch, "on_step_end", 4)
        pretrain.run(stage)
    newest = stage.work / "checkpoints" / "checkpoint-3" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-7] + b"garbage")
    pretrain.run(stage)
    (warning,) = stage.findings.warnings
    assert warning.code == "checkpoint-damaged" and "checkpoint-3" in warning.message
    assert _weights(stage) == whole


def test_accumulation_and_a_second_epoch_resume_to_the_bit(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 3}
    first, second = (make_stage(tiny_llama, LORA, out=name, trainer=trainer) for name in ("first", "second"))
    steps = pretrain.run(first)["steps"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _die_at(patch, Watch, "on_step_end", steps - 1)
        pretrain.run(second)
    pretrain.run(second)
    assert _weights(first) == _weights(second)


def test_minutes_are_turned_into_steps_once_and_a_resume_keeps_them(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lingraft.train import pace

    stage = make_stage(tiny_llama, LORA, trainer={"max_steps": -1}, minutes=1.0)
    monkeypatch.setattr(pace, "seconds_of", lambda step: 2.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _die_at(patch, Watch, "on_step_end", 2)
        pretrain.run(stage)
    decided = pace.recall(stage.work)
    assert decided is not None and decided.max_steps is not None and 10 < decided.max_steps <= 27
    monkeypatch.setattr(pace, "seconds_of", lambda step: 1e9)
    assert pretrain.run(stage)["steps"] == decided.max_steps


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lingraft.train.supervised import Supervised

    stage, true, calls = make_stage(tiny_llama, LORA), Supervised.loss_sum, [0]

    def poisoned(*args: Any) -> Any:
        calls[0] += 1
        return true(*args) * (float("nan") if calls[0] == 3 else 1.0)

    monkeypatch.setattr(Supervised, "loss_sum", poisoned)
    with pytest.raises(Refusal) as refused:
        pretrain.run(stage)
    (problem,) = refused.value.problems
    assert problem.code == "training-diverged" and "step 3" in problem.message and "begins" in problem.message
    assert checkpoints.intact(stage.work / "checkpoints" / "checkpoint-2") and not stage.out.exists()
