"""`lingraft export ADAPTER --to gguf-adapter`: llama.cpp answers with it as peft does, or the export refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_judges import LlamaCpp, agree, next_token
from transformers import AutoModelForCausalLM

from lingraft.export.run import export
from lingraft.problems import Findings, Refusal

IDS = [5, 77, 103, 8, 200, 31, 9, 44, 45, 300]
Make = Callable[..., Path]


def peft_says(base: Path, adapter: Path, ids: list[int] = IDS) -> Any:
    from peft import PeftModel

    return next_token(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter), ids)


def as_gguf(base: Path, *adapters: Path, type: str | None = None) -> list[Path]:
    """Export a base as F32 and adapters beside it."""
    out = adapters[0].parent
    export(base, out / "base.gguf", type="F32", findings=Findings())
    for adapter in adapters:
        export(adapter, out / f"{adapter.name}.gguf", to="gguf-adapter", type=type, base=str(base), findings=Findings())
    return [out / "base.gguf", *(out / f"{adapter.name}.gguf" for adapter in adapters)]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
        {"target_modules": ["q_proj", "k_proj"]},
        {"init_lora_weights": "gaussian"},
        {"r": 1},
    ],
    ids=str,
)
def test_llama_cpp_with_the_adapter_answers_as_peft_does(
    config: dict[str, Any], tiny_llama: Path, adapter: Make
) -> None:
    made = adapter(tiny_llama, **config)
    base, lora = as_gguf(tiny_llama, made)
    engine = LlamaCpp(base, [lora])
    assert agree(peft_says(tiny_llama, made), engine.next_token(IDS, {0: 1.0}))
    assert agree(next_token(AutoModelForCausalLM.from_pretrained(tiny_llama), IDS), engine.next_token(IDS, {0: 0.0}))


def test_two_adapters_of_one_base_are_chosen_by_request(tiny_llama: Path, adapter: Make) -> None:
    one, two = adapter(tiny_llama, "one"), adapter(tiny_llama, "two", seed=2)
    base, *loras = as_gguf(tiny_llama, one, two)
    engine = LlamaCpp(base, loras)
    for number, made in enumerate((one, two)):
        assert agree(peft_says(tiny_llama, made), engine.next_token(IDS, {number: 1.0, 1 - number: 0.0}))


def test_embedding_and_head_of_an_untied_model_are_adapted_too(tiny_untied: Path, adapter: Make) -> None:
    made = adapter(tiny_untied, target_modules=["embed_tokens", "lm_head", "q_proj"])
    base, lora = as_gguf(tiny_untied, made)
    assert agree(peft_says(tiny_untied, made), LlamaCpp(base, [lora]).next_token(IDS, {0: 1.0}))


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_adapters_are_near(kind: str, tiny_llama: Path, adapter: Make) -> None:
    made = adapter(tiny_llama)
    base, lora = as_gguf(tiny_llama, made, type=kind)
    assert agree(peft_says(tiny_llama, made), LlamaCpp(base, [lora]).next_token(IDS, {0: 1.0}), within=0.05)


def test_a_bias_that_the_base_has_no_place_for_is_refused(tiny_untied: Path, adapter: Make) -> None:
    made = adapter(tiny_untied, lora_bias=True, target_modules=["q_proj"])
    with pytest.raises(Refusal) as refusal:
        export(made, made.parent / "l.gguf", to="gguf-adapter", findings=Findings())
    assert {p.code for p in refusal.value.problems} == {"unsupported-adapter"}
    assert all("bias" in p.message for p in refusal.value.problems)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3, 4]}, "token rows"),
        ({"init_lora_weights": "pissa"}, "PiSSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_gguf_adapter_cannot_hold_is_refused_for_a_merge(
    config: dict[str, Any], says: str, tiny_untied: Path, adapter: Make, tmp_path: Path
) -> None:
    made = adapter(tiny_untied, scale=0.01, **config)
    with pytest.raises(Refusal) as refusal:
        export(made, tmp_path / "a.gguf", to="gguf-adapter", base=str(tiny_untied), findings=Findings())
    assert {p.code for p in refusal.value.problems} == {"unsupported-adapter"}
    assert all(says in p.message and "lingraft merge" in p.remedy for p in refusal.value.problems)
    assert not (tmp_path / "a.gguf").exists()


def test_an_adapter_on_a_tied_embedding_is_refused(tiny_llama: Path, adapter: Make, tmp_path: Path) -> None:
    made = adapter(tiny_llama, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(Refusal) as refusal:
        export(made, tmp_path / "a.gguf", to="gguf-adapter", base=str(tiny_llama), findings=Findings())
    assert {p.code for p in refusal.value.problems} <= {"unsupported-adapter", "tied-head-conflict"}


def test_an_adapter_of_another_base_is_refused(
    tiny_llama: Path, tiny_untied: Path, adapter: Make, tmp_path: Path
) -> None:
    from tiny_models import make_llama

    other = make_llama(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(Refusal):
        export(adapter(tiny_llama), tmp_path / "a.gguf", to="gguf-adapter", base=str(other), findings=Findings())
