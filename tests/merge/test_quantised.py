"""An adapter that was trained on a quantised base: both ways to merge it, and what the receipt says of each."""

from __future__ import annotations

import json

import pytest
import torch
from merge_models import codes, load_model, move, same

from lingraft.merge.lineage import Lineage, write_lineage
from lingraft.merge.quantised import Quantisation, parse, round_trip
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.formats import open_checkpoint

pytest.importorskip("bitsandbytes")
METHODS = [
    {"method": "nf4", "double": True, "dtype": "float32"},
    {"method": "fp4", "double": False, "dtype": "float32"},
    {"method": "int8", "double": False, "dtype": "float32"},
]


@pytest.fixture(params=METHODS, ids=lambda m: m["method"])
def quantised(request, base, tmp_path):
    """A live model whose linear layers bitsandbytes quantised, with an adapter that moved on it, and its lineage."""
    import bitsandbytes as bnb
    import peft

    how = request.param
    model = load_model(base())
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and "lm_head" not in name:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, small(bnb, layer, how))
    live = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], lora_alpha=8))
    move(live)
    live.save_pretrained(tmp_path / "adapter")
    known = fingerprint(open_checkpoint(base()).tensors)
    write_lineage(tmp_path / "adapter", Lineage(known, str(base()), quantisation=how))
    return how, live, tmp_path / "adapter"


def small(bnb, layer, how):
    if how["method"] == "int8":
        made = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, bias=False, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        made = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            quant_type=how["method"],
            compress_statistics=how["double"],
        )
        made.support_avx512bf16_for_cpu = False
        made.weight = bnb.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type=how["method"], compress_statistics=how["double"]
        )
    return made.to("cpu")


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(2, 30)[None]).logits.float()


def test_onto_the_dequantised_base_it_is_the_live_model(base, quantised, run):
    how, live, made = quantised
    ours, theirs = logits(load_model(run(base(), made, onto="dequantised"))), logits(live)
    loose = 0.05 if how["method"] == "int8" else 1e-4  # int8 also rounds activations, while it runs
    assert (ours - theirs).abs().max() <= loose * theirs.abs().max()


def test_onto_the_original_it_is_another_model_and_the_receipt_says_how_far(base, quantised, run):
    how, _, made = quantised
    for onto in ("original", "dequantised"):
        told = json.loads((run(base(), made, onto=onto, out=onto) / "manifest.json").read_text())["quantisation"]
        assert told["seen"] == how and told["onto"] == onto
        assert told["errors"]["dequantised"] == 0.0 < told["errors"]["original"] < 0.2


def test_dequantising_needs_an_adapter_that_saw_it(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"])
    assert codes(lambda: run(base(), made, onto="dequantised")) == {"config-mismatch"}


def test_an_unknown_quantisation_is_refused(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"])
    known = fingerprint(open_checkpoint(base()).tensors)
    write_lineage(made, Lineage(known, str(base()), quantisation={"method": "q9"}))
    assert codes(lambda: run(base(), made)) == {"config-mismatch"}


@pytest.mark.parametrize("how", METHODS, ids=lambda m: m["method"])
def test_a_round_trip_is_near(how):
    weight = torch.randn(64, 128) * 0.02
    assert (round_trip(weight, parse(how)) - weight).norm() < 0.15 * weight.norm()


def test_embedding_head_and_norms_are_never_quantised(base):
    entries = open_checkpoint(base()).tensors.entries
    covered = {n for n, e in entries.items() if Quantisation("nf4").covers(n, e)}
    assert all("proj" in name for name in covered) and len(covered) == 14


SETTINGS = {
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True},
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("onto", SETTINGS)
def test_where_the_adapter_does_not_say_what_it_saw_the_user_does(base, adapter, run, onto):
    import peft
    import transformers

    below = base(dtype=torch.bfloat16)
    how = transformers.BitsAndBytesConfig(**SETTINGS[onto])
    made = adapter(below, target_modules="all-linear")
    seen = transformers.AutoModelForCausalLM.from_pretrained(
        below, quantization_config=how, dtype=torch.bfloat16, device_map="cpu"
    )
    theirs = peft.PeftModel.from_pretrained(seen.dequantize().float(), made).merge_and_unload().state_dict()
    ours = load_model(run(below, made, onto=onto, dtype="float32")).state_dict()
    assert same(ours, theirs)
    told = json.loads((run(below, made, onto=onto, dtype="float32", out="two") / "manifest.json").read_text())
    original = load_model(run(below, made, dtype="float32", out="original")).state_dict()
    matrices = [n for n, t in theirs.items() if ".layers." in n and t.dim() == 2]
    far = sum((original[n] - theirs[n]).square().sum() for n in matrices) / sum(
        theirs[n].square().sum() for n in matrices
    )
    errors = told["quantisation"]["errors"]
    assert errors["dequantised"] == 0.0 and abs(errors["original"] / far.sqrt().item() - 1) < 0.05  # of a sample


def test_the_user_does_not_overrule_what_the_adapter_says(base, quantised, run):
    assert codes(lambda: run(base(), quantised[2], onto="int8")) == {"config-mismatch"}


@pytest.mark.parametrize("onto", ["nf4-double", "int8"])
@pytest.mark.parametrize("dtype", ["keep", "float32"])
def test_verify_holds_it_against_the_base_that_the_receipt_names(base, adapter, run, onto, dtype):
    from safetensors.torch import load_file, save_file

    from lingraft.problems import Findings
    from lingraft.verify.merged import verify_merged

    below = base(dtype=torch.bfloat16)
    made = adapter(below, target_modules="all-linear")
    out = run(below, made, onto=onto, dtype=dtype)
    findings = Findings()
    assert verify_merged(out, below, [made], findings)["onto"] == onto and not findings.problems
    tensors = load_file(out / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 0.05
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    verify_merged(out, below, [made], findings)
    assert [p.tensor for p in findings.problems] == ["model.layers.1.mlp.up_proj.weight"]
