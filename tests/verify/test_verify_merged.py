"""A merged model against base + adapters: what peft merged passes, and every injected fault is caught and placed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file
from tiny_models import make_llama, make_tokenizer
from transformers import AutoModelForCausalLM
from verify_models import Merge, train, with_adapters

from lingraft.problems import Findings
from lingraft.verify.merged import verify_merged

Tensors = dict[str, torch.Tensor]


def codes(findings: Findings) -> set[str]:
    return {problem.code for problem in findings.problems}


def edit(model: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change one tensor in place, in whatever shard it lies."""
    file = next(f for f in model.glob("*.safetensors") if name in load_file(f))
    tensors = load_file(file)
    tensors[name] = change(tensors[name].clone()).contiguous()
    save_file(tensors, file, {"format": "pt"})


def edit_config(model: Path, **fields: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | fields))


def test_what_peft_merged_is_found_equal(merge: Merge) -> None:
    findings = Findings()
    answer = verify_merged(merge.model, merge.base, merge.adapters, findings)
    assert not findings.problems
    assert answer["max_abs_error"] < 1e-6
    assert answer["logits"]["argmax_agreement"] == 1.0


def test_the_streamed_logits_are_those_of_transformers(merge: Merge) -> None:
    from lingraft.verify.streamed import run
    from lingraft.weights import hf

    checkpoint, ids = hf.read(merge.model), torch.arange(40)[None]
    streamed = run(checkpoint.config, checkpoint.tensors, ids).logits
    whole = AutoModelForCausalLM.from_pretrained(merge.model)(input_ids=ids).logits[0]
    assert torch.allclose(streamed, whole, atol=1e-5)


FAULTS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {}


def fault(kind: str) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Callable[[torch.Tensor], torch.Tensor]]:
    """Register a fault of one tensor; ``kind`` names the matrix, whose layer is drawn at random."""

    def register(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        FAULTS[change.__name__] = (kind, change)
        return change

    return register


@fault("mlp.up_proj")
def one_bit(tensor: torch.Tensor) -> torch.Tensor:
    bits = tensor.view(torch.int32).flatten()
    bits[random.randrange(len(bits))] ^= 1 << random.randrange(32)
    return tensor


@fault("mlp.down_proj")
def the_lowest_bit(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(torch.int32).flatten()[random.randrange(tensor.numel())] ^= 1
    return tensor


@fault("self_attn.q_proj")
def two_heads_swapped(tensor: torch.Tensor) -> torch.Tensor:
    first, second = random.sample(range(4), 2)
    heads = tensor.view(4, 8, -1).clone()
    heads[[first, second]] = heads[[second, first]]
    return heads.view_as(tensor)


@fault("mlp.gate_proj")
def one_row_dropped(tensor: torch.Tensor) -> torch.Tensor:
    tensor[random.randrange(len(tensor))] = 0
    return tensor


@fault("self_attn.o_proj")
def a_square_matrix_transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T


@fault("self_attn.v_proj")
def one_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[random.randrange(len(tensor)), 3] = float("nan")
    return tensor


@fault("self_attn.k_proj")
def one_infinity(tensor: torch.Tensor) -> torch.Tensor:
    tensor[random.randrange(len(tensor)), 3] = float("inf")
    return tensor


@fault("input_layernorm")
def a_norm_changed(tensor: torch.Tensor) -> torch.Tensor:
    tensor[random.randrange(len(tensor))] += 0.01
    return tensor


@fault("self_attn.k_proj")
def rounded_to_bf16_and_back(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float()


@fault("self_attn.k_proj")
def a_row_shifted(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.roll(1, 0)


WORDS = {
    "a_square_matrix_transposed": "it is transposed",
    "one_nan": "values are NaN or infinite",
    "one_row_dropped": "its rows are zero",
    "a_row_shifted": "the right rows in the wrong places",
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", (0, 1))
def test_a_fault_in_one_tensor_is_caught_and_its_layer_named(
    name: str, seed: int, merge: Merge, copy: Callable[[], Path]
) -> None:
    random.seed(seed)
    layer = f"model.layers.{random.randrange(3)}"
    kind, change = FAULTS[name]
    model, findings = copy(), Findings()
    edit(model, f"{layer}.{kind}.weight", change)
    answer = verify_merged(model, merge.base, merge.adapters, findings)
    assert "merged-differs" in codes(findings)
    assert answer["first_layer"] == layer
    assert {p.tensor for p in findings.problems} == {f"{layer}.{kind}.weight"}
    assert WORDS.get(name, "") in findings.problems[0].message


@pytest.mark.parametrize("end", ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"))
def test_a_changed_row_outside_the_layers_is_caught(end: str, merge: Merge, copy: Callable[[], Path]) -> None:
    model, findings = copy(), Findings()
    edit(model, end, lambda tensor: tensor.index_fill(0, torch.tensor([random.randrange(len(tensor))]), 0.5))
    verify_merged(model, merge.base, merge.adapters, findings)
    assert [p.tensor for p in findings.problems] == [end]


def test_a_stale_shard_is_caught(merge: Merge, copy: Callable[[], Path], tmp_path: Path) -> None:
    with_adapters(merge.base, merge.adapters[:1]).save_pretrained(tmp_path / "earlier", max_shard_size="60KB")
    model, findings = copy(), Findings()
    shard = sorted(model.glob("*.safetensors"))[1]
    shutil.copy(tmp_path / "earlier" / shard.name, shard)
    verify_merged(model, merge.base, merge.adapters, findings)
    held = {name for name in load_file(shard) if "norm" not in name}
    assert {p.tensor for p in findings.problems} <= held and "merged-differs" in codes(findings)


def test_a_wrong_scale_is_caught_and_said(merge: Merge, tmp_path: Path) -> None:
    louder = [shutil.copytree(a, tmp_path / a.name) for a in merge.adapters]
    config = json.loads((louder[0] / "adapter_config.json").read_text())
    (louder[0] / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    (shutil.rmtree(louder[1]), shutil.copytree(merge.adapters[1], louder[1]))
    findings = Findings()
    verify_merged(merge.model, merge.base, tuple(louder), findings)
    assert "merged-differs" in codes(findings)


@pytest.mark.parametrize("order", ((0,), (1,), (0, 1, 1), (0, 0, 1)), ids=str)
def test_a_missing_adapter_or_one_applied_twice_is_caught(order: tuple[int, ...], merge: Merge, tmp_path: Path) -> None:
    with_adapters(merge.base, tuple(merge.adapters[i] for i in order)).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    findings = Findings()
    verify_merged(tmp_path, merge.base, merge.adapters, findings)
    assert "merged-differs" in codes(findings)


def test_the_other_tokenizer_is_caught(merge: Merge, copy: Callable[[], Path]) -> None:
    model, findings = copy(), Findings()
    make_tokenizer(model, size=350)
    verify_merged(model, merge.base, merge.adapters, findings)
    assert codes(findings) == {"tokenizer-mismatch"}


def test_a_lost_tokenizer_is_caught(merge: Merge, copy: Callable[[], Path]) -> None:
    model, findings = copy(), Findings()
    (model / "tokenizer.json").unlink()
    verify_merged(model, merge.base, merge.adapters, findings)
    assert codes(findings) == {"tokenizer-mismatch"}


@pytest.mark.parametrize(
    "field",
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"rms_norm_eps": 1e-3}, {"hidden_act": "gelu"}),
    ids=lambda f: next(iter(f)),
)
def test_a_changed_config_is_caught_and_the_first_layer_that_feels_it_named(
    field: dict[str, object], merge: Merge, copy: Callable[[], Path]
) -> None:
    model, findings = copy(), Findings()
    edit_config(model, **field)
    answer = verify_merged(model, merge.base, merge.adapters, findings)
    assert "config-mismatch" in codes(findings)
    assert answer["first_layer"] == "model.layers.0"


def test_a_lost_head_is_caught(merge: Merge, copy: Callable[[], Path]) -> None:
    model, findings = copy(), Findings()
    file = next(f for f in model.glob("*.safetensors") if "lm_head.weight" in load_file(f))
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, {"format": "pt"})
    listing = model / "model.safetensors.index.json"
    index = json.loads(listing.read_text())
    del index["weight_map"]["lm_head.weight"]
    listing.write_text(json.dumps(index))
    edit_config(model, tie_word_embeddings=True)
    answer = verify_merged(model, merge.base, merge.adapters, findings)
    assert "merged-differs" in codes(findings) and answer["max_abs_error"] is None


def test_adapters_in_the_wrong_order_are_caught(tmp_path: Path, merge: Merge) -> None:
    save = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    first = train(merge.base, tmp_path / "a", config=save)
    second = train(merge.base, tmp_path / "b", config=save, below=(first,), seed=3)
    with_adapters(merge.base, (second, first)).save_pretrained(tmp_path / "m")
    make_tokenizer(tmp_path / "m")
    findings = Findings()
    verify_merged(tmp_path / "m", merge.base, (first, second), findings)
    assert {p.tensor for p in findings.problems} == {"lm_head.weight"}


KINDS = {
    "lora": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    "rslora": LoraConfig(r=4, target_modules=["q_proj", "up_proj"], use_rslora=True, task_type="CAUSAL_LM"),
    "dora": LoraConfig(r=4, target_modules=["q_proj", "up_proj"], use_dora=True, task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "rows": LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3, 5, 8], task_type="CAUSAL_LM"),
    "saved": LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_what_peft_merges_passes_in_every_kind_and_dtype(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base", tied=False)
    adapter = train(base, tmp_path / "adapter", config=KINDS[kind])
    with_adapters(base, (adapter,), dtype).save_pretrained(tmp_path / "merged")
    make_tokenizer(tmp_path / "merged")
    findings = Findings()
    answer = verify_merged(tmp_path / "merged", base, (adapter,), findings)
    assert not findings.problems
    assert answer["logits"]["kl"] < 1e-3


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_peft_cuts_out_of_a_bf16_base_and_merges_there_again_passes(start: str, tmp_path: Path) -> None:
    whole, base = make_llama(tmp_path / "whole", tied=False), tmp_path / "base"
    with_adapters(whole, (), torch.bfloat16).save_pretrained(base)
    make_tokenizer(base)
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start, task_type="CAUSAL_LM")
    adapter = train(base, tmp_path / "adapter", config=lora)
    with_adapters(base, (adapter,), torch.bfloat16).save_pretrained(tmp_path / "merged")
    make_tokenizer(tmp_path / "merged")
    findings = Findings()
    verify_merged(tmp_path / "merged", base, (adapter,), findings)
    assert not findings.problems and [w.code for w in findings.warnings] == ["merged-differs"]


def test_a_flipped_lowest_bit_is_caught_in_bf16_too(tmp_path: Path, merge: Merge) -> None:
    model = with_adapters(merge.base, merge.adapters).to(torch.bfloat16)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.view(torch.int16)[7, 9] ^= 1
    model.save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    findings = Findings()
    answer = verify_merged(tmp_path, merge.base, merge.adapters, findings)
    assert answer["different"][0]["first_row"] == 7
    assert [p.tensor for p in findings.problems] == ["model.layers.1.mlp.up_proj.weight"]


def test_another_template_or_generation_config_is_told(merge: Merge, copy: Callable[[], Path], tmp_path: Path) -> None:
    shutil.copytree(merge.base, base := tmp_path / "base")
    model = copy()
    for folder, word in ((base, "one"), (model, "two")):
        config = json.loads((model / "tokenizer_config.json").read_text())
        (folder / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": word}))
        (folder / "chat_template.jinja").unlink()
        (folder / "generation_config.json").write_text(json.dumps({"top_k": len(folder.name)}))
    findings = Findings()
    verify_merged(model, base, merge.adapters, findings)
    assert [w.code for w in findings.warnings] == ["tokenizer-mismatch", "config-mismatch"]
