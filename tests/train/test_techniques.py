"""Each technique moves exactly the parameters it means, and what it saves loads in plain peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lingraft.merge.lineage import adapter_fingerprint, read_lineage
from lingraft.models import load_tokenizer
from lingraft.problems import Refusal
from lingraft.recipe import parse_technique
from lingraft.train import loop, pretrain, sft
from lingraft.train.techniques import TABLE

IDS = torch.tensor([[3, 50, 90, 120, 200]])


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(IDS).logits[:, -IDS.shape[1] :]  # a prompt has logits too
    return result


def _train(make_stage: Any, base: Path, techniques: list[Any], **more: Any) -> tuple[Any, Any]:
    """Train, and return the stage and the trained model as it stood in memory."""
    stage, kept = make_stage(base, techniques, **more), []
    true = loop.save
    loop.save = lambda model, *rest: (kept.append(model), true(model, *rest))[1]  # type: ignore[assignment]
    try:
        (sft if stage.name == "sft" else pretrain).run(stage)
    finally:
        loop.save = true
    return stage, kept[0]


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa", "ia3", "prompt", "prefix"])
def test_adapters_reload_in_plain_peft_with_the_logits_they_were_trained_to(
    make_stage: Any, tiny_llama: Path, kind: str
) -> None:
    technique = {"kind": kind} | ({"r": 4} if kind not in ("ia3", "prompt", "prefix") else {})
    stage, live = _train(make_stage, tiny_llama, [technique])
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), stage.out)
    torch.testing.assert_close(_logits(again), _logits(live), atol=1e-5, rtol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert (_logits(again) - _logits(base)).abs().max() > 1e-4


def test_lora_plus_gives_b_its_own_learning_rate(make_stage: Any, tiny_llama: Path) -> None:
    stage = make_stage(tiny_llama, ["lora", {"kind": "lora_plus", "ratio": 8}], trainer={"max_steps": 1})
    examples = pretrain.prepare(stage, load_tokenizer(stage.base))
    with loop.prepared(stage, examples, 0.0) as ready:
        groups = ready.trainer.create_optimizer().param_groups
        rates = {p.shape: group["lr"] for group in groups for p in group["params"]}
        names = dict(ready.trainer.model.named_parameters())
    q = "model.base_model.model.model.layers.0.mlp.up_proj.lora_{}.default.weight"
    assert rates[names[q.format("B")].shape] == pytest.approx(8 * rates[names[q.format("A")].shape])


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_qlora_trains_over_a_quantised_base_and_its_lineage_says_so(
    make_stage: Any, tiny_llama: Path, quantisation: str
) -> None:
    stage, live = _train(make_stage, tiny_llama, [{"kind": "qlora", "r": 4, "quantisation": quantisation}])
    kinds = {type(m).__name__ for m in live.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    chain = read_lineage(stage.out)
    assert chain is not None and chain.quantisation is not None and chain.quantisation["method"] == quantisation
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), stage.out)
    assert (_logits(again) - _logits(live)).abs().max() < 0.1


def test_an_adapter_goes_on_training_where_it_was(make_stage: Any, tiny_llama: Path) -> None:
    first, _ = _train(make_stage, tiny_llama, [{"kind": "lora", "r": 4}], out="first")
    more = {"continue": str(first.out), "trainer": {"max_steps": 1, "learning_rate": 0.0}}
    second, _ = _train(make_stage, tiny_llama, [{"kind": "lora", "r": 4}], out="second", **more)
    a, b = (load_file(s.out / "adapter_model.safetensors") for s in (first, second))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_lora_on_named_layers_touches_only_those(make_stage: Any, tiny_llama: Path) -> None:
    stage, _ = _train(make_stage, tiny_llama, [{"kind": "lora", "targets": ["q_proj"]}])
    names = load_file(stage.out / "adapter_model.safetensors")
    assert names and all(".q_proj.lora_" in name for name in names)


def test_targets_without_a_match_name_the_layers_that_exist(make_stage: Any, tiny_llama: Path) -> None:
    with pytest.raises(Refusal) as refused:
        pretrain.run(make_stage(tiny_llama, [{"kind": "lora", "targets": ["c_attn"]}]))
    (problem,) = refused.value.problems
    assert problem.code == "recipe-invalid" and "q_proj" in problem.message and "c_attn" in problem.message


def _grown(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    (folder / "manifest.json").write_text(json.dumps({"result": {"old_size": 100, "new_size": 400}}))
    return folder


@pytest.mark.parametrize("base_name", ["tiny_llama", "tiny_untied"])
def test_new_rows_alone_move_and_a_tied_head_moves_with_them(
    make_stage: Any, tmp_path: Path, base_name: str, request: pytest.FixtureRequest
) -> None:
    base = _grown(request.getfixturevalue(base_name), tmp_path / "grown")
    stage, _ = _train(make_stage, base, [{"kind": "lora", "r": 4, "rows": "new"}])
    before = AutoModelForCausalLM.from_pretrained(base)
    after = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), stage.out).merge_and_unload()
    for get in ("get_input_embeddings", "get_output_embeddings"):
        moved = (getattr(before, get)().weight != getattr(after, get)().weight).any(1)
        assert not moved[:100].any() and moved[100:].any()
    tied = after.get_input_embeddings().weight.data_ptr() == after.get_output_embeddings().weight.data_ptr()
    assert tied == (base_name == "tiny_llama")


def test_new_rows_without_a_vocabulary_stage_are_refused(make_stage: Any, tiny_llama: Path) -> None:
    with pytest.raises(Refusal) as refused:
        pretrain.run(make_stage(tiny_llama, [{"kind": "lora", "rows": "new"}]))
    assert refused.value.problems[0].code == "recipe-invalid"


def test_saved_modules_are_trained_in_full_and_stay_tied(make_stage: Any, tiny_llama: Path) -> None:
    stage, live = _train(make_stage, tiny_llama, [{"kind": "lora", "save": ["embed_tokens", "lm_head"]}])
    names = load_file(stage.out / "adapter_model.safetensors")
    assert any("embed_tokens" in name for name in names)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), stage.out)
    torch.testing.assert_close(_logits(again), _logits(live), atol=1e-5, rtol=1e-5)


def test_full_moves_everything_and_saves_a_whole_model(make_stage: Any, tiny_llama: Path) -> None:
    stage, live = _train(make_stage, tiny_llama, ["full"])
    after, before = (AutoModelForCausalLM.from_pretrained(p) for p in (stage.out, tiny_llama))
    changed = [n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))]
    assert len(changed) == len(list(before.named_parameters()))
    torch.testing.assert_close(_logits(after), _logits(live))


def test_frozen_layers_and_embeddings_stay(make_stage: Any, tiny_llama: Path) -> None:
    stage, _ = _train(make_stage, tiny_llama, [{"kind": "freeze", "first": 1, "embeddings": True}])
    after, before = (AutoModelForCausalLM.from_pretrained(p) for p in (stage.out, tiny_llama))
    changed = {n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    wanted = {n for n, _ in before.named_parameters() if ".layers.1." in n or n == "model.norm.weight"}
    assert changed == wanted


def test_a_later_stage_trains_on_the_adapters_below_and_says_so(make_stage: Any, tiny_llama: Path) -> None:
    first, _ = _train(make_stage, tiny_llama, [{"kind": "lora", "r": 4}], out="first")
    second, live = _train(
        make_stage, tiny_llama, [{"kind": "lora", "r": 2}], name="sft", out="second", adapters=(first.out,)
    )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), first.out).merge_and_unload()
    both = PeftModel.from_pretrained(model, second.out)
    torch.testing.assert_close(_logits(both), _logits(live), atol=1e-5, rtol=1e-5)
    chain = read_lineage(second.out)
    assert chain is not None and [link.fingerprint for link in chain.adapters] == [adapter_fingerprint(first.out)]


def test_the_tokenizer_lies_beside_the_adapter_byte_for_byte(make_stage: Any, tiny_llama: Path) -> None:
    stage, _ = _train(make_stage, tiny_llama, ["lora"], name="sft", template="alpaca")
    assert (stage.out / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert "### Instruction" in (stage.out / "chat_template.jinja").read_text()


def test_early_stopping_keeps_the_best_checkpoint(make_stage: Any, tiny_llama: Path) -> None:
    trainer = {"max_steps": 9, "learning_rate": 0.5, "eval_steps": 1}
    stage, _ = _train(
        make_stage,
        tiny_llama,
        ["lora", {"kind": "early_stopping", "patience": 2, "threshold": 9}],
        trainer=trainer,
        validation=0.2,
    )
    from lingraft.train.watch import read_log

    losses = [row["eval_loss"] for row in read_log(stage.work / "log.jsonl") if "eval_loss" in row]
    best = losses.index(min(losses)) + 1
    kept = load_file(stage.work / "checkpoints" / f"checkpoint-{best}" / "trained.safetensors")
    saved = load_file(stage.out / "adapter_model.safetensors")
    assert len(losses) == 3 and all(any(torch.equal(k, s) for k in kept.values()) for s in saved.values())


@pytest.mark.parametrize("kind", TABLE)
def test_every_kind_in_the_table_reads_from_a_recipe_and_refuses_unknown_keys(kind: str) -> None:
    needed = {"freeze": {"first": 1}, "context": {"length": 4096}}
    example: dict[str, Any] = {"kind": kind, **needed.get(kind, {})}
    assert parse_technique(example).kind == kind
    with pytest.raises(ValueError, match="surprise"):
        parse_technique({**example, "surprise": 1})
