"""Adopt bare weights of every family: every size comes back from names and shapes, and transformers can train it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lingraft.adopt.run import adopt
from lingraft.problems import Findings, Refusal

Bare = Callable[..., tuple[Path, dict[str, Any]]]
DECODERS = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "num_key_value_heads",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
    "model_type",
    "tie_word_embeddings",
    "attention_bias",
    "type_vocab_size",
)


def head_of(kind: str) -> dict[str, str]:
    return {} if kind in ("qwen3", "gemma3_text") else {"head_dim": "32" if kind.startswith("gemma") else "16"}


@pytest.mark.parametrize("kind", [*DECODERS, "gpt2", "gpt_neox", "bert", "roberta"])
def test_every_size_comes_back_without_a_config(bare: Bare, tmp_path: Path, kind: str) -> None:
    folder, wanted = bare(kind)
    answer = adopt(folder, tmp_path / "out", settings=head_of(kind), findings=Findings())
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {k: written.get(k) for k in SIZES if k in wanted} == {k: wanted[k] for k in SIZES if k in wanted}
    assert answer["family"] == kind and answer["missing"] == ["tokenizer"]


@pytest.mark.parametrize("kind", [*DECODERS, "gpt2", "gpt_neox", "bert", "roberta"])
def test_transformers_computes_the_same_with_the_adopted_config(bare: Bare, tmp_path: Path, kind: str) -> None:
    import transformers

    folder, wanted = bare(kind)
    adopt(folder, tmp_path / "out", settings=head_of(kind), findings=Findings())
    kind_of = getattr(transformers, wanted["architectures"][0])
    (folder / "config.json").write_text(json.dumps(wanted))
    before, (after, loading) = (
        kind_of.from_pretrained(folder),
        kind_of.from_pretrained(tmp_path / "out", output_loading_info=True),
    )
    ids = torch.arange(5, 35)[None]
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert torch.allclose(before.eval()(ids).logits, after.eval()(ids).logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adopted_model_can_be_trained_at_once(bare: Bare, tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    folder, _ = bare(kind)
    adopt(folder, tmp_path / "out", settings=head_of(kind), findings=Findings())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(5, 35)[None]
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters())


def test_mistral_is_told_from_llama_by_its_config_alone(bare: Bare, tmp_path: Path) -> None:
    folder, wanted = bare("mistral")
    (folder / "config.json").write_text(json.dumps(wanted))
    answer = adopt(folder, tmp_path / "out", findings=Findings())
    assert answer["family"] == "mistral" and answer["config"]["num_key_value_heads"] == 2


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module.", "wrapped.model_ema."])
def test_a_trainers_prefix_is_taken_off(bare: Bare, tmp_path: Path, prefix: str) -> None:
    folder, _ = bare("llama")
    weights = load_file(folder / "model.safetensors")
    save_file({prefix + name: value for name, value in weights.items()}, tmp_path / "bare.safetensors")
    adopt(tmp_path / "bare.safetensors", tmp_path / "out", settings={"head_dim": "16"}, findings=Findings())
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights.keys()


@pytest.mark.parametrize(("kind", "prefix"), [("gpt2", "transformer."), ("llama", "model."), ("gpt_neox", "gpt_neox.")])
def test_a_bare_backbone_gets_its_prefix(bare: Bare, tmp_path: Path, kind: str, prefix: str) -> None:
    folder, _ = bare(kind, tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    torch.save({name.removeprefix(prefix): value for name, value in weights.items()}, tmp_path / "weights.pt")
    adopt(tmp_path / "weights.pt", tmp_path / "out", settings={"head_dim": "16"}, findings=Findings())
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights.keys()


def test_metas_names_without_params_are_undone_for_the_given_head_size(bare: Bare, tmp_path: Path) -> None:
    from lingraft.weights.meta_names import meta_name
    from lingraft.weights.rotary import pairs_from_hf

    folder, _ = bare("llama")
    weights = load_file(folder / "model.safetensors")
    turned = {
        name: value[pairs_from_hf(len(value), len(value) // 16)] if ".q_proj" in name or ".k_proj" in name else value
        for name, value in weights.items()
    }
    torch.save({meta_name(name): value for name, value in turned.items()}, tmp_path / "consolidated.00.pth")
    adopt(tmp_path / "consolidated.00.pth", tmp_path / "out", settings={"head_dim": "16"}, findings=Findings())
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(back[name], value) for name, value in weights.items())


def test_an_old_releases_inv_freq_tells_head_size_and_base(bare: Bare, tmp_path: Path) -> None:
    folder, _ = bare("llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = 500_000.0 ** -(torch.arange(0, 32, 2) / 32)
    save_file(weights, folder / "model.safetensors")
    answer = adopt(folder, tmp_path / "out", findings=Findings())
    assert answer["config"]["head_dim"] == 32 and answer["config"]["rope_theta"] == 500_000.0
    assert {v["how"] for v in answer["values"] if v["name"] in ("head_dim", "rope_theta")} == {"read"}


def test_a_head_size_that_nothing_tells_is_asked_for_by_name(bare: Bare, tmp_path: Path) -> None:
    folder, _ = bare("llama")
    with pytest.raises(Refusal) as refusal:
        adopt(folder, tmp_path / "out", findings=Findings())
    (problem,) = refusal.value.problems
    assert problem.code == "config-mismatch" and "--set head_dim=" in problem.remedy and "16" in problem.message
    assert refusal.value.answer["config"]["num_hidden_layers"] == 2 and not (tmp_path / "out").exists()


def test_a_likely_head_size_is_taken_where_that_is_allowed(bare: Bare, tmp_path: Path) -> None:
    folder, _ = bare("llama")
    adopt(folder, tmp_path / "out", findings=Findings(frozenset({"config-mismatch"})))
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_config_that_shapes_contradict_is_told_and_corrected(bare: Bare, tmp_path: Path) -> None:
    folder, wanted = bare("llama")
    (folder / "config.json").write_text(json.dumps({**wanted, "num_hidden_layers": 3, "vocab_size": 500}))
    findings = Findings()
    answer = adopt(folder, tmp_path / "out", findings=findings)
    assert answer["config"]["num_hidden_layers"] == 2 and answer["config"]["vocab_size"] == 400
    assert [w.code for w in findings.warnings] == ["config-mismatch"] * 2


def test_a_published_size_is_recognised(tmp_path: Path) -> None:
    from lingraft.adopt.known import KNOWN

    found = [known for known in KNOWN if known.fits("llama", 32, 4096, 14336, 1024, 128256)]
    assert {known.head_dim for known in found} == {128}
    assert "Llama-3.1-8B" in {known.name for known in found}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("BertForSequenceClassification", {}),
        ("BertForTokenClassification", {}),
        ("GPT2ForSequenceClassification", {"pad_token_id": 0}),
        ("GPTNeoXForSequenceClassification", {"pad_token_id": 0}),
    ],
)
def test_a_classifiers_class_and_labels_come_from_its_head(tmp_path: Path, name: str, more: dict[str, int]) -> None:
    import transformers

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
    kind = getattr(transformers, name)
    before = kind(kind.config_class(**sizes, **more)).eval()
    before.save_pretrained(tmp_path / "src")
    (tmp_path / "src" / "config.json").unlink()
    settings = {"head_dim": "16", **{field: str(value) for field, value in more.items()}}
    answer = adopt(tmp_path / "src", tmp_path / "out", settings=settings, findings=Findings())
    assert answer["config"]["architectures"] == [name]
    after, ids = kind.from_pretrained(tmp_path / "out"), torch.arange(5, 25)[None]
    assert torch.allclose(before(ids).logits, after.eval()(ids).logits, atol=1e-5)


def test_a_head_size_that_nobody_published_may_be_given(bare: Bare, tmp_path: Path) -> None:
    folder, wanted = bare("llama", hidden_size=90, num_attention_heads=9, num_key_value_heads=3)
    answer = adopt(folder, tmp_path / "out", settings={"head_dim": "10"}, findings=Findings())
    assert answer["config"]["num_attention_heads"] == wanted["num_attention_heads"]
    with pytest.raises(Refusal) as refusal:
        adopt(folder, tmp_path / "other", findings=Findings())
    assert "10" in refusal.value.problems[0].message
