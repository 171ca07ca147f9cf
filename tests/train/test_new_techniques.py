"""AdaLoRA, bottleneck networks, rows, averaging, long context: what moves, what is saved, and who can read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_techniques import _logits, _train
from transformers import AutoConfig, AutoModelForCausalLM

from lingraft import models
from lingraft.merge.run import merge
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Recipe
from lingraft.train import pretrain

EIGHT = {"max_steps": 8, "save_steps": 4}


def _moved(stage: Any) -> set[str]:
    """Names of the tensors in the stage's last checkpoint that differ from those in its first."""
    first, *_, last = sorted(stage.work.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    a, b = (load_file(p / "trained.safetensors") for p in (first, last))
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_adalora_deals_out_ranks_and_leaves_a_plain_lora(make_stage: Any, tiny_llama: Path) -> None:
    technique = {"kind": "adalora", "r": 2, "start": 4, "every": 1}
    stage, live = _train(make_stage, tiny_llama, [technique], trainer=EIGHT)
    config = json.loads((stage.out / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and len(set(config["rank_pattern"].values())) > 1
    assert sum(config["rank_pattern"].values()) <= 2 * 14  # r on average over 7 layers in 2 blocks
    assert all("lora_" in name for name in _moved(stage))
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), stage.out)
    torch.testing.assert_close(_logits(again), _logits(live), atol=1e-5, rtol=1e-5)


def test_adaloras_result_merges(make_stage: Any, tiny_llama: Path, tmp_path: Path) -> None:
    stage, live = _train(make_stage, tiny_llama, [{"kind": "adalora", "r": 2, "every": 1}], trainer=EIGHT)
    merge(tiny_llama, [stage.out], tmp_path / "merged", findings=Findings())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(_logits(merged), _logits(live), atol=1e-5, rtol=1e-5)


def _reloaded_without_us(base: Path, adapter: Path) -> Any:
    """What docs/training.md shows: torch alone puts a bottleneck adapter back behind its layers."""
    model, tensors = AutoModelForCausalLM.from_pretrained(base), load_file(adapter / "adapter_model.safetensors")
    for name in json.loads((adapter / "adapter_config.json").read_text())["target_modules"]:
        w = {k.removeprefix(f"{name}.bottleneck."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, y, w=w: (
                y
                + torch.nn.functional.linear(
                    torch.nn.functional.gelu(torch.nn.functional.linear(y, w["down.weight"], w["down.bias"])),
                    w["up.weight"],
                    w["up.bias"],
                )
            )
        )
    return model


@pytest.mark.parametrize(("style", "places"), [("houlsby", 4), ("pfeiffer", 2)])
def test_a_bottleneck_adapter_moves_its_networks_alone_and_needs_no_code_of_ours(
    make_stage: Any, tiny_llama: Path, style: str, places: int
) -> None:
    stage, live = _train(make_stage, tiny_llama, [{"kind": "bottleneck", "style": style, "size": 8}])
    assert len(_moved(stage)) == 4 * places and all(".bottleneck." in name for name in _moved(stage))
    wanted = _logits(live)
    torch.testing.assert_close(_logits(_reloaded_without_us(tiny_llama, stage.out)), wanted, atol=1e-5, rtol=1e-5)
    model, _ = models.load(stage.out, dtype=torch.float32)
    torch.testing.assert_close(_logits(model), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - _logits(AutoModelForCausalLM.from_pretrained(tiny_llama))).abs().max() > 1e-4


def test_merge_refuses_a_bottleneck_adapter_by_name(make_stage: Any, tiny_llama: Path, tmp_path: Path) -> None:
    stage, _ = _train(make_stage, tiny_llama, ["bottleneck"], trainer={"max_steps": 1})
    with pytest.raises(Refusal) as refused:
        merge(tiny_llama, [stage.out], tmp_path / "merged", findings=Findings())
    problem = refused.value.problems[0]
    assert problem.code == "unsupported-adapter" and "BOTTLENECK" in problem.message and "live" in problem.remedy


def test_a_bottleneck_adapter_goes_on_training(make_stage: Any, tiny_llama: Path) -> None:
    first, _ = _train(make_stage, tiny_llama, ["bottleneck"], out="first", trainer={"max_steps": 2})
    more = {"continue": str(first.out), "trainer": {"max_steps": 1, "learning_rate": 0.0}}
    second, _ = _train(make_stage, tiny_llama, ["bottleneck"], out="second", **more)
    a, b = (load_file(s.out / "adapter_model.safetensors") for s in (first, second))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("base_name", ["tiny_llama", "tiny_untied"])
def test_rows_alone_trains_the_added_rows_and_merges(
    make_stage: Any, tmp_path: Path, base_name: str, request: pytest.FixtureRequest
) -> None:
    base = shutil.copytree(request.getfixturevalue(base_name), tmp_path / "grown")
    (base / "manifest.json").write_text(json.dumps({"result": {"old_size": 100, "new_size": 400}}))
    stage, live = _train(make_stage, base, ["rows"])
    merge(base, [stage.out], tmp_path / "merged", findings=Findings())
    before, after = (AutoModelForCausalLM.from_pretrained(p) for p in (base, tmp_path / "merged"))
    changed = {n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    ends = {"model.embed_tokens.weight", "lm_head.weight"} & {n for n, _ in before.named_parameters()}
    assert changed == ends
    moved = (before.get_output_embeddings().weight != after.get_output_embeddings().weight).any(1)
    assert not moved[:100].any() and moved[100:].any()
    torch.testing.assert_close(_logits(after), _logits(live), atol=1e-5, rtol=1e-5)


def test_averaging_leaves_the_mean_of_the_last_checkpoints(make_stage: Any, tiny_llama: Path) -> None:
    stage, _ = _train(
        make_stage,
        tiny_llama,
        ["lora", {"kind": "average", "last": 3, "every": 2}],
        trainer={"max_steps": 7, "save_total_limit": 9},
    )
    points = [load_file(stage.work / "checkpoints" / f"checkpoint-{n}" / "trained.safetensors") for n in (3, 5, 7)]
    saved = load_file(stage.out / "adapter_model.safetensors")
    for name, last in points[-1].items():
        mean = torch.stack([p[name] for p in points]).mean(0)
        key = name.removeprefix("model.").replace(".default", "")
        torch.testing.assert_close(saved[key], mean)
        assert not torch.equal(saved[key], last) or not last.any()


@pytest.mark.parametrize(
    "technique",
    [
        {"kind": "adalora", "r": 2, "every": 1},
        {"kind": "average", "last": 2, "every": 2},
        {"kind": "bottleneck"},
    ],
)
def test_techniques_with_a_memory_resume_to_the_bit(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, technique: dict[str, Any]
) -> None:
    from test_resume import _die_at

    from lingraft.train.watch import Watch

    beside = ["lora"] if technique["kind"] == "average" else []
    whole, broken = (
        make_stage(tiny_llama, [*beside, technique], out=name, trainer={"max_steps": 7}) for name in ("whole", "broken")
    )
    pretrain.run(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _die_at(patch, Watch, "on_step_end", 6)
        pretrain.run(broken)
    pretrain.run(broken)
    name = "adapter_model.safetensors"
    assert (whole.out / name).read_bytes() == (broken.out / name).read_bytes()


@pytest.mark.parametrize("method", ["linear", "ntk", "dynamic", "yarn"])
def test_a_longer_context_is_trained_recorded_and_merged_into_the_config(
    make_stage: Any, tiny_llama: Path, tmp_path: Path, method: str
) -> None:
    techniques = ["lora", {"kind": "context", "length": 512, "method": method}]
    stage, live = _train(make_stage, tiny_llama, techniques, trainer={"max_steps": 2})
    merge(tiny_llama, [stage.out], tmp_path / "merged", findings=Findings())
    config = AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.rope_parameters["rope_type"] == ("default" if method == "ntk" else method)
    assert config.max_position_embeddings == (256 if method == "dynamic" else 512)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    model, _ = models.load(stage.out, dtype=torch.float32)
    ids = torch.arange(3, 303)[None] % 400
    with torch.no_grad():
        wanted = live.eval()(ids).logits
        torch.testing.assert_close(merged(ids).logits, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(ids).logits, wanted, atol=1e-4, rtol=1e-4)


def test_ntk_stretches_the_slowest_wave_by_the_factor(tiny_llama: Path) -> None:
    from lingraft.train.techniques.context import Context

    config = AutoConfig.from_pretrained(tiny_llama)
    changed = Context(length=1024, method="ntk").on_config(config)
    width = config.head_dim
    slowest = [c.rope_parameters["rope_theta"] ** ((width - 2) / width) for c in (config, changed)]
    assert slowest[1] / slowest[0] == pytest.approx(4)


def test_a_prompt_adapter_loads_live_for_evaluation(make_stage: Any, tiny_llama: Path) -> None:
    stage, live = _train(make_stage, tiny_llama, [{"kind": "prompt", "tokens": 3}])
    model, _ = models.load(stage.out, dtype=torch.float32)
    torch.testing.assert_close(_logits(model), _logits(live), atol=1e-5, rtol=1e-5)


def _recipe(**stages: Any) -> dict[str, Any]:
    return {"name": "x", "base": "b", "out": "o", **{name: {"data": "d", **block} for name, block in stages.items()}}


@pytest.mark.parametrize(
    ("stages", "word"),
    [
        ({"sft": {"techniques": ["lora", "full"]}}, "lora and full"),
        ({"sft": {"techniques": ["full"], "continue": "x"}}, "continue"),
        ({"pretrain": {"techniques": ["prefix"]}, "sft": {}}, "cannot stand on pretrain"),
        ({"prefer": {"method": "grpo"}}, "rewards"),
    ],
)
def test_stages_that_contradict_themselves_are_refused(stages: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Recipe.model_validate(_recipe(**stages))
