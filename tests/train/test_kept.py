"""What stays of a run: checkpoints that were read back, the best and the last, sample answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_techniques import _train

from lingraft.problems import Refusal
from lingraft.train import checkpoints, pretrain, sft
from lingraft.train.samples import Samples
from lingraft.train.watch import read_log


def test_best_last_and_n_more_stay_and_old_ones_keep_weights_alone(make_stage: Any, tiny_llama: Path) -> None:
    trainer = {
        "max_steps": 8,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "save_total_limit": 4,
        "learning_rate": 0.5,
    }
    stage, _ = _train(make_stage, tiny_llama, ["lora"], trainer=trainer, validation=0.2)
    losses = {row["step"]: row["eval_loss"] for row in read_log(stage.work / "log.jsonl") if "eval_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    found = {int(p.name.split("-")[1]): p for p in (stage.work / "checkpoints").glob("checkpoint-*")}
    assert set(found) == {best, 5, 6, 7, 8}
    assert {n for n, p in found.items() if (p / "optimizer.pt").exists()} == {7, 8}
    assert all(checkpoints.intact(p) and (p / "trained.safetensors").exists() for p in found.values())


def test_an_early_best_stays_with_its_weights_alone(tmp_path: Path) -> None:
    for n in range(1, 10):
        folder = tmp_path / f"checkpoint-{n}"
        folder.mkdir()
        for name in ("trained.safetensors", "trainer_state.json", "optimizer.pt"):
            (folder / name).write_bytes(b"x")
        checkpoints.seal(folder)
    checkpoints.retire(tmp_path, 4, best=2)
    left = {int(p.name.split("-")[1]): p for p in tmp_path.iterdir()}
    assert set(left) == {2, 6, 7, 8, 9} and all(checkpoints.intact(p) for p in left.values())
    assert {n for n, p in left.items() if checkpoints.resumable(p)} == {8, 9}
    assert all((p / "optimizer.pt").exists() is checkpoints.resumable(p) for p in left.values())


def test_what_was_written_wrong_never_becomes_a_checkpoint(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = checkpoints.save_file

    def spoiled(tensors: dict[str, torch.Tensor], path: Path) -> None:
        true({n: torch.full_like(t, float("nan")) if "3" in path.parent.name else t for n, t in tensors.items()}, path)

    monkeypatch.setattr(checkpoints, "save_file", spoiled)
    stage = make_stage(tiny_llama, ["lora"])
    with pytest.raises(Refusal) as refused:
        pretrain.run(stage)
    assert refused.value.problems[0].code == "non-finite"
    assert sorted(p.name for p in (stage.work / "checkpoints").iterdir() if p.name[0] != ".") == [
        "checkpoint-1",
        "checkpoint-2",
    ]


def test_a_metric_that_evaluation_does_not_give_is_refused_with_those_it_gives(
    make_stage: Any, tiny_llama: Path
) -> None:
    trainer = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "acuracy",
    }
    with pytest.raises(Refusal) as refused:
        pretrain.run(make_stage(tiny_llama, ["lora"], trainer=trainer, validation=0.2))
    assert refused.value.problems[0].code == "recipe-invalid" and "loss" in refused.value.problems[0].message


def test_answers_are_written_at_each_evaluation_and_change_nothing(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"eval_strategy": "steps", "eval_steps": 2}
    lora = [{"kind": "lora", "r": 4, "dropout": 0.2}]
    stage, _ = _train(make_stage, tiny_llama, lora, name="sft", trainer=trainer, validation=0.2)
    rows = read_log(stage.work / "samples.jsonl")
    assert [row["step"] for row in rows] == [2, 2, 4, 4]
    assert all("问题" in row["prompt"] and row["wanted"] for row in rows)
    silent = make_stage(tiny_llama, lora, name="sft", trainer=trainer, validation=0.2, samples=0, out="silent")
    monkeypatch.setattr(Samples, "on_evaluate", lambda *args, **more: pytest.fail("asked for no samples"))
    sft.run(silent)
    name = "adapter_model.safetensors"
    assert (stage.out / name).read_bytes() == (silent.out / name).read_bytes()


@pytest.mark.parametrize(("clip", "named"), [(1.0, True), (0.0, False)])
def test_a_gradient_that_is_no_number_stops_the_run_and_where_it_is_clipped_names_its_batch(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, clip: float, named: bool
) -> None:
    from lingraft.train.supervised import Supervised

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return g * float("inf")

    true = Supervised.loss_sum
    monkeypatch.setattr(Supervised, "loss_sum", lambda *args: Poison.apply(true(*args)))
    with pytest.raises(Refusal) as refused:
        pretrain.run(make_stage(tiny_llama, ["lora"], trainer={"max_grad_norm": clip}))
    (problem,) = refused.value.problems
    assert problem.code == "training-diverged" and "gradient" in problem.message
    assert ("begins" in problem.message) is named
