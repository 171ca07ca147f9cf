"""A LoRA out of a full fine-tune: judged by peft, by lingraft's merge, and by the exact SVD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lingraft.merge.extract import extract
from lingraft.merge.lowrank import factorise
from lingraft.merge.run import merge
from lingraft.problems import Findings, Refusal

WORDS = torch.arange(40).reshape(2, 20)


def tune(source: Path, folder: Path, change: Callable[[Any], None], rows: int | None = None) -> Path:
    """Save a changed copy of a model, with more rows where asked."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(source)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    return folder


def everywhere(model: Any) -> None:
    """Move every parameter, as a full fine-tune does."""
    for parameter in model.parameters():
        parameter += 0.01 * torch.randn_like(parameter)


def low_rank(model: Any) -> None:
    """Move one kind of layer by a matrix of rank 3."""
    for layer in model.model.layers:
        weight = layer.mlp.up_proj.weight
        weight += 0.05 * torch.randn(weight.shape[0], 3) @ torch.randn(3, weight.shape[1])


def some_rows(model: Any) -> None:
    """Move three tokens' rows and one norm."""
    model.get_input_embeddings().weight[[5, 9, 11]] += 0.5
    model.model.norm.weight += 0.25


def with_peft(base: Path, adapter: Path) -> Any:
    """Return the model as peft puts it together."""
    from lingraft.models import attach, load_base

    return attach(load_base(base, torch.float32), adapter).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(WORDS).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [None, 172])
def test_all_of_a_difference_merged_back_by_lingraft_is_the_tuned_model(
    base: Callable[..., Path], tmp_path: Path, tied: bool, rows: int | None
) -> None:
    tuned = tune(base("llama", tied), tmp_path / "tuned", everywhere, rows)
    answer = extract(tuned, base("llama", tied), tmp_path / "a", rank=64, findings=Findings())
    merge(base("llama", tied), [tmp_path / "a"], tmp_path / "m", findings=Findings())
    back, wanted = (load_file(p / "model.safetensors") for p in (tmp_path / "m", tuned))
    assert back.keys() == wanted.keys()
    error = max(float((back[name] - wanted[name]).abs().max()) for name in wanted)
    assert error <= answer["max_abs_error"] + 1e-12 < 1e-5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [None, 172])
def test_peft_reproduces_the_tuned_model_too(
    base: Callable[..., Path], tmp_path: Path, tied: bool, rows: int | None
) -> None:
    from transformers import AutoModelForCausalLM

    tuned = tune(base("llama", tied), tmp_path / "tuned", everywhere, rows)
    extract(tuned, base("llama", tied), tmp_path / "a", energy=1.0, findings=Findings())
    wanted = AutoModelForCausalLM.from_pretrained(tuned).eval()
    assert torch.allclose(logits(with_peft(base("llama", tied), tmp_path / "a")), logits(wanted), atol=1e-4)


def test_gpt2_is_extracted_through_its_transposed_layers_and_biases(base: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tuned = tune(base("gpt2", True), tmp_path / "tuned", everywhere)
    extract(tuned, base("gpt2", True), tmp_path / "a", rank=64, findings=Findings())
    wanted = AutoModelForCausalLM.from_pretrained(tuned).eval()
    assert torch.allclose(logits(with_peft(base("gpt2", True), tmp_path / "a")), logits(wanted), atol=1e-4)
    merge(base("gpt2", True), [tmp_path / "a"], tmp_path / "m", findings=Findings())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert torch.allclose(logits(again), logits(wanted), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("GPTNeoXForCausalLM", "AutoModelForCausalLM"),
        ("Qwen3ForCausalLM", "AutoModelForCausalLM"),
        ("BertForMaskedLM", "AutoModelForMaskedLM"),
        ("RobertaForSequenceClassification", "AutoModelForSequenceClassification"),
    ],
)
def test_pefts_merge_is_within_the_stated_error_for_every_architecture(tmp_path: Path, name: str, auto: str) -> None:
    import transformers
    from peft import PeftModel

    torch.manual_seed(0)
    kind, load = getattr(transformers, name), getattr(transformers, auto).from_pretrained
    sizes = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    model = kind(kind.config_class(**sizes))
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        everywhere(model)
    model.save_pretrained(tmp_path / "tuned")
    answer = extract(tmp_path / "tuned", tmp_path / "base", tmp_path / "a", rank=8, findings=Findings())
    found = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "a").merge_and_unload().state_dict()
    wanted = load(tmp_path / "tuned").state_dict()
    assert found.keys() == wanted.keys()
    error = max(float((found[key].float() - value.float()).abs().max()) for key, value in wanted.items())
    assert error <= answer["max_abs_error"] + 1e-6


def test_a_difference_of_rank_three_is_found_to_be_one(base: Callable[..., Path], tmp_path: Path) -> None:
    tuned = tune(base(), tmp_path / "tuned", low_rank)
    answer = extract(tuned, base(), tmp_path / "a", energy=0.9999, findings=Findings())
    assert {t["rank"] for t in answer["tensors"]} == {3}
    assert all("up_proj" in t["name"] for t in answer["tensors"]) and not answer["saved"]


def test_the_kept_energy_is_that_of_the_exact_svd(base: Callable[..., Path], tmp_path: Path) -> None:
    tuned = tune(base(), tmp_path / "tuned", everywhere)
    answer = extract(tuned, base(), tmp_path / "a", rank=5, findings=Findings())
    new, old = (load_file(p / "model.safetensors") for p in (tuned, base()))
    for told in answer["tensors"]:
        values = torch.linalg.svdvals((new[told["name"]] - old[told["name"]]).double()).square()
        assert told["energy"] == pytest.approx(float(values[:5].sum() / values.sum()), abs=1e-4)


def test_more_rank_keeps_more_and_the_stated_error_falls(base: Callable[..., Path], tmp_path: Path) -> None:
    tuned = tune(base(), tmp_path / "tuned", everywhere)
    told = [extract(tuned, base(), tmp_path / str(r), rank=r, findings=Findings()) for r in (2, 8, 64)]
    assert told[0]["energy"] < told[1]["energy"] < told[2]["energy"] == pytest.approx(1, abs=1e-5)
    assert told[0]["max_abs_error"] > told[1]["max_abs_error"] > told[2]["max_abs_error"]


def test_changed_rows_and_a_norm_are_saved_and_nothing_else(base: Callable[..., Path], tmp_path: Path) -> None:
    tuned = tune(base(), tmp_path / "tuned", some_rows)
    answer = extract(tuned, base(), tmp_path / "a", rank=4, findings=Findings())
    assert answer["rows"] == {"model.embed_tokens.weight": 3} and answer["saved"] == ["model.norm.weight"]
    assert answer["tensors"] == []
    merge(base(), [tmp_path / "a"], tmp_path / "m", findings=Findings())
    back, wanted = (load_file(p / "model.safetensors") for p in (tmp_path / "m", tuned))
    assert all(torch.equal(back[name], wanted[name]) for name in wanted)


def test_a_bfloat16_model_comes_back_within_the_stated_error(base: Callable[..., Path], tmp_path: Path) -> None:
    source = base(dtype=torch.bfloat16)
    tuned = tune(source, tmp_path / "tuned", everywhere)
    answer = extract(tuned, source, tmp_path / "a", rank=16, findings=Findings())
    merge(source, [tmp_path / "a"], tmp_path / "m", findings=Findings())
    back, wanted = (load_file(p / "model.safetensors") for p in (tmp_path / "m", tuned))
    for told in answer["tensors"]:
        error = float((back[told["name"]].float() - wanted[told["name"]].float()).abs().max())
        assert error == told["max_abs_error"]


@pytest.mark.parametrize("shape", [(700, 300), (300, 700)])
def test_the_randomised_factors_are_as_good_as_the_exact_ones(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(shape[0], 300)).Q, torch.linalg.qr(torch.randn(shape[1], 300)).Q
    values = 0.9 ** torch.arange(300)
    matrix = u * values @ v.T
    found = factorise(matrix, rank=20)
    best = float(values[20:].square().sum().sqrt())
    assert float(torch.linalg.norm(matrix - found.b @ found.a)) == pytest.approx(best, rel=1e-3)


def test_unrelated_models_are_refused_as_base_mismatch(base: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        extract(base(seed=1), base(seed=0), tmp_path / "a", rank=4, findings=Findings())
    assert refusal.value.problems[0].code == "base-mismatch"
    assert not (tmp_path / "a").exists()


def test_models_of_other_sizes_are_refused_by_the_tensor(base: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        extract(base("gpt2", True), base(), tmp_path / "a", rank=4, findings=Findings())
    assert {p.code for p in refusal.value.problems} == {"base-mismatch"}


def test_a_model_against_itself_has_nothing_to_extract(base: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        extract(base(), base(), tmp_path / "a", rank=4, findings=Findings())
    assert refusal.value.problems[0].code == "untrained-adapter"


def test_the_lineage_names_the_base_so_that_another_is_refused(base: Callable[..., Path], tmp_path: Path) -> None:
    tuned = tune(base(), tmp_path / "tuned", everywhere)
    extract(tuned, base(), tmp_path / "a", rank=4, findings=Findings())
    with pytest.raises(Refusal) as refusal:
        merge(base(seed=3), [tmp_path / "a"], tmp_path / "m", findings=Findings())
    assert "base-mismatch" in {p.code for p in refusal.value.problems}


def test_the_lineage_knows_the_tokenizer_that_lies_beside_the_adapter(
    base: Callable[..., Path], tmp_path: Path
) -> None:
    import json

    from lingraft.merge.lineage import read_lineage, tokenizer_digest

    tuned = tune(base(), tmp_path / "tuned", everywhere)
    (tuned / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}}))
    extract(tuned, base(), tmp_path / "a", rank=4, findings=Findings())
    lineage = read_lineage(tmp_path / "a")
    assert lineage is not None and lineage.tokenizer == tokenizer_digest(tuned) is not None


def test_a_tuned_model_that_holds_nan_is_refused_by_its_tensor(base: Callable[..., Path], tmp_path: Path) -> None:
    def spoil(model: Any) -> None:
        low_rank(model)
        model.model.layers[1].mlp.up_proj.weight[2, 3] = float("nan")

    with pytest.raises(Refusal) as refused:
        extract(tune(base(), tmp_path / "tuned", spoil), base(), tmp_path / "out", rank=3, findings=Findings())
    (problem,) = refused.value.problems
    assert (problem.code, problem.tensor) == ("non-finite", "model.layers.1.mlp.up_proj.weight")
