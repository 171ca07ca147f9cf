"""What a recipe's ``trainer:`` asks for is what happens: schedules, decay, clipping, noise, smoothing, kernels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_techniques import _train

from lingraft.models import load_tokenizer
from lingraft.problems import Refusal
from lingraft.recipe import Recipe
from lingraft.recipe_keys import check_keys
from lingraft.train import loop, pretrain
from lingraft.train.watch import read_log


def _open(stage: Any) -> Any:
    return loop.prepared(stage, pretrain.prepare(stage, load_tokenizer(stage.base)), 0.0)


def _rates(stage: Any) -> list[float]:
    return [row["learning_rate"] for row in read_log(stage.work / "log.jsonl") if "learning_rate" in row]


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("linear", [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [1] * 10),
        ("cosine", [0, 0.5, *(0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8))]),
        ("wsd", [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_rate_follows_the_schedule(make_stage: Any, tiny_llama: Path, schedule: str, wanted: list[float]) -> None:
    trainer = {
        "max_steps": 10,
        "lr_scheduler_type": schedule,
        "warmup_steps": 2,
        "learning_rate": 1.0,
        "max_grad_norm": 1e-9,
        "optim": "sgd",
        "save_steps": 10,
    }
    stage, _ = _train(make_stage, tiny_llama, [{"kind": "lora", "r": 2}], trainer=trainer)
    assert _rates(stage) == pytest.approx(wanted, abs=1e-6)


def test_wsd_ends_with_a_decay_of_its_length(make_stage: Any, tiny_llama: Path) -> None:
    trainer = {
        "max_steps": 10,
        "lr_scheduler_type": "wsd",
        "warmup_steps": 0,
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_kwargs": {"num_decay_steps": 4, "decay_type": "linear"},
        "max_grad_norm": 1e-9,
        "save_steps": 10,
    }
    stage, _ = _train(make_stage, tiny_llama, [{"kind": "lora", "r": 2}], trainer=trainer)
    assert _rates(stage) == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_weight_decay_spares_norms_biases_and_rows(make_stage: Any, tiny_llama: Path) -> None:
    with _open(make_stage(tiny_llama, ["full"], trainer={"weight_decay": 0.3})) as ready:
        names = {id(p): n for n, p in ready.trainer.model.named_parameters()}
        groups = ready.trainer.create_optimizer().param_groups
    spared = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] == 0.3 for p in group["params"]}
    assert spared and all("norm" in name for name in spared) and not any("norm" in name for name in decayed)


def test_a_gradient_is_clipped_to_its_norm(make_stage: Any, tiny_llama: Path) -> None:
    trainer = {
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": 0.01,
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
    }
    stage, _ = _train(make_stage, tiny_llama, ["full"], trainer=trainer)
    after, before = (load_file(p / "model.safetensors") for p in (stage.out, tiny_llama))
    step = torch.cat([(after[n] - before[n]).flatten() for n in before]).norm()
    assert float(step) == pytest.approx(0.01, rel=1e-3)


def test_neftune_adds_noise_in_training_and_none_in_evaluation(make_stage: Any, tiny_llama: Path) -> None:
    stage = make_stage(tiny_llama, ["lora"], trainer={"neftune_noise_alpha": 50.0})
    with _open(stage) as ready:
        trainer, batch = ready.trainer, ready.trainer.data_collator([ready.trainer.train_dataset[0]])
        from transformers.integrations.neftune import activate_neftune

        activate_neftune(trainer.model, trainer.neftune_noise_alpha)
        noisy = {trainer.model.train()(**batch)["loss"].item() for _ in range(2)}
        calm = {trainer.model.eval()(**batch)["loss"].item() for _ in range(2)}
    assert len(noisy) == 2 and len(calm) == 1


def test_neftune_changes_what_is_learnt(make_stage: Any, tiny_llama: Path) -> None:
    made = [
        _train(make_stage, tiny_llama, ["lora"], out=f"n{alpha}", trainer={"neftune_noise_alpha": alpha})[0]
        for alpha in (None, 5.0)
    ]
    a, b = (load_file(stage.out / "adapter_model.safetensors") for stage in made)
    assert not all(torch.equal(a[name], b[name]) for name in a)


def test_activation_checkpointing_learns_the_same(make_stage: Any, tiny_llama: Path) -> None:
    lora = [{"kind": "lora", "dropout": 0.1}]
    made = [
        _train(make_stage, tiny_llama, lora, out=f"g{on}", trainer={"gradient_checkpointing": on})[0]
        for on in (False, True)
    ]
    a, b = (load_file(stage.out / "adapter_model.safetensors") for stage in made)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("use", ["sdpa", "eager"])
def test_a_kernel_that_the_recipe_names_is_the_one_that_runs(make_stage: Any, tiny_llama: Path, use: str) -> None:
    own, _ = _train(make_stage, tiny_llama, ["lora"], out="own")
    stage, live = _train(make_stage, tiny_llama, ["lora", {"kind": "attention", "use": use}], out=use)
    assert live.get_base_model().config._attn_implementation == use
    a, b = ([row["loss"] for row in read_log(s.work / "log.jsonl") if "loss" in row] for s in (own, stage))
    assert a == pytest.approx(b, rel=1e-4)


def test_kernels_that_need_a_gpu_are_refused_with_what_to_do(make_stage: Any, tiny_llama: Path) -> None:
    for techniques, trainer in (
        (["lora", {"kind": "attention", "use": "flash_attention_2"}], {}),
        (["lora"], {"use_liger_kernel": True}),
    ):
        with pytest.raises(Refusal) as refused:
            pretrain.run(make_stage(tiny_llama, techniques, trainer=trainer))
        (problem,) = refused.value.problems
        assert problem.code == "recipe-invalid" and "install" in problem.remedy


def test_liger_is_applied_to_the_model_inside_without_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType, SimpleNamespace

    from lingraft.train import liger

    told: list[dict[str, Any]] = []
    package, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    inner._apply_liger_kernel_to_instance = lambda **more: told.append(more)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inner)
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = SimpleNamespace(get_base_model=lambda: "causal")
    left = liger.apply(model, {"use_liger_kernel": True, "seed": 1, "liger_kernel_config": {"rope": False}}, "sft")
    assert left == {"seed": 1}
    assert told == [{"model": "causal", "fused_linear_cross_entropy": False, "cross_entropy": False, "rope": False}]


def test_a_model_with_attention_dropout_trains(make_stage: Any, tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=256, attn_pdrop=0.1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "gpt2")
    stage, _ = _train(make_stage, tmp_path / "gpt2", ["lora"])
    assert len([row for row in read_log(stage.work / "log.jsonl") if "loss" in row]) == 4


def test_a_tied_model_is_untied_on_purpose(make_stage: Any, tiny_llama: Path, tmp_path: Path) -> None:
    from test_techniques import _logits
    from transformers import AutoModelForCausalLM

    from lingraft.merge.run import merge
    from lingraft.problems import Findings

    technique = {"kind": "lora", "r": 2, "save": ["embed_tokens", "lm_head"], "tied": "untie"}
    stage, live = _train(make_stage, tiny_llama, [technique])
    merge(tiny_llama, [stage.out], tmp_path / "merged", findings=Findings())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.tie_word_embeddings is False
    assert not torch.equal(merged.get_input_embeddings().weight, merged.get_output_embeddings().weight)
    torch.testing.assert_close(_logits(merged), _logits(live), atol=1e-5, rtol=1e-5)


def _recipe(**block: Any) -> Recipe:
    return Recipe.model_validate({"name": "x", "base": "b", "out": "o", "sft": {"data": "d", **block}})


@pytest.mark.parametrize(
    "block",
    [
        {"techniques": ["lora", "early_stopping"]},
        {"trainer": {"load_best_model_at_end": True}},
        {"trainer": {"metric_for_best_model": "loss"}},
        {"trainer": {"eval_strategy": "steps"}},
    ],
)
def test_what_needs_validation_is_refused_without_it(block: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        check_keys(_recipe(**block))
    (problem,) = refused.value.problems
    assert problem.code == "recipe-invalid" and problem.message.startswith("sft.validation")


def test_averaging_and_a_best_checkpoint_are_refused_together() -> None:
    with pytest.raises(Refusal, match="average and early_stopping"):
        check_keys(_recipe(techniques=["lora", "average", "early_stopping"], validation=0.1))


def test_a_tracker_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from lingraft.train import trackers

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(Refusal) as refused:
        check_keys(_recipe(trainer={"report_to": ["swanlab"]}))
    assert refused.value.problems[0].remedy == "pip install swanlab"
    with pytest.raises(Refusal, match="no tracker"):
        check_keys(_recipe(trainer={"report_to": "tensorbord"}))


def test_tensorboard_reads_the_losses_of_the_log(make_stage: Any, tiny_llama: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage, _ = _train(make_stage, tiny_llama, ["lora"], trainer={"report_to": "tensorboard"})
    found = EventAccumulator(str(stage.work / "tensorboard"))
    found.Reload()
    losses = [row["loss"] for row in read_log(stage.work / "log.jsonl") if "loss" in row]
    assert [e.value for e in found.Scalars("train/loss")] == pytest.approx(losses)
