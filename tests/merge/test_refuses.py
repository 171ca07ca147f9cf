"""What must not be merged is refused by name: damaged, foreign, incomplete and untrained adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from merge_models import VOCAB, codes
from safetensors.torch import load_file, save_file

from lingraft.problems import Refusal

Q = "base_model.model.model.layers.0.self_attn.q_proj."


def edit(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Change the tensors of a saved adapter in place."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    return adapter


def configure(adapter: Path, **changes: object) -> Path:
    """Change fields of adapter_config.json."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return adapter


@pytest.fixture
def plain(base, adapter) -> Path:
    return adapter(base(), target_modules=["q_proj", "v_proj"])


def test_one_nan_is_refused(base, plain, run):
    edit(plain, lambda t: t[Q + "lora_A.weight"].view(-1)[17].fill_(float("nan")))
    assert codes(lambda: run(base(), plain)) == {"non-finite"}


def test_one_infinity_is_refused(base, plain, run):
    edit(plain, lambda t: t[Q + "lora_B.weight"].view(-1)[3].fill_(float("-inf")))
    assert codes(lambda: run(base(), plain)) == {"non-finite"}


def test_a_tensor_of_shape_zero_is_refused(base, plain, run):
    edit(plain, lambda t: t.update({Q + "lora_B.weight": torch.empty(0)}))
    assert codes(lambda: run(base(), plain)) == {"empty-tensor"}


def test_an_empty_file_is_refused(base, plain, run):
    edit(plain, lambda t: t.clear())
    assert "empty-tensor" in codes(lambda: run(base(), plain))


def test_an_adapter_that_was_never_trained_is_refused(base, adapter, run):
    made = adapter(base(), scale=0, target_modules="all-linear")
    assert codes(lambda: run(base(), made)) == {"untrained-adapter"}


@pytest.mark.parametrize("target", ["q_proj", "embed_tokens"])
def test_an_untrained_adapter_can_be_allowed(base, adapter, run, target):
    made = adapter(base(), scale=0, target_modules=[target])
    assert (run(base(), made, allow=("untrained-adapter",)) / "manifest.json").is_file()


def test_a_saved_module_that_equals_the_base_is_refused(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"], modules_to_save=["lm_head"])
    head = load_file(base() / "model.safetensors")["lm_head.weight"]
    edit(made, lambda t: t.update({"base_model.model.lm_head.weight": head}))
    assert codes(lambda: run(base(), made)) == {"module-not-updated"}


def test_half_a_pair_is_refused(base, plain, run):
    edit(plain, lambda t: t.pop(Q + "lora_B.weight"))
    assert codes(lambda: run(base(), plain)) == {"missing-adapter-tensors"}


def test_a_layer_that_the_config_targets_and_the_file_lacks_is_refused(base, plain, run):
    edit(plain, lambda t: [t.pop(n) for n in list(t) if "layers.1" in n])
    assert codes(lambda: run(base(), plain)) == {"missing-adapter-tensors"}


def test_a_saved_module_that_the_file_lost_is_refused(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    edit(made, lambda t: t.pop("base_model.model.lm_head.weight"))
    assert codes(lambda: run(base(), made)) == {"missing-adapter-tensors"}


def test_a_stray_prefix_on_part_of_the_keys_is_never_stripped(base, plain, run):
    edit(
        plain,
        lambda t: [
            t.update({n.replace(".model.layers", ".model.model.layers"): t.pop(n)}) for n in list(t) if "layers.1" in n
        ],
    )
    assert codes(lambda: run(base(), plain)) == {"unused-adapter-tensors"}


def test_every_name_that_fits_nothing_is_listed(base, plain, run):
    edit(plain, lambda t: [t.update({n.replace("q_proj", "qq_proj"): t.pop(n)}) for n in list(t)])
    with pytest.raises(Refusal, match=r"layers\.0\.self_attn\.qq_proj\.lora_A.*layers\.1\..*qq_proj\.lora_B"):
        run(base(), plain)


def test_a_key_without_a_meaning_is_refused(base, plain, run):
    edit(plain, lambda t: t.update({Q + "hada_w1_a": torch.ones(2, 2)}))
    assert codes(lambda: run(base(), plain)) == {"unused-adapter-tensors"}


def test_a_base_of_other_shapes_is_refused(base, plain, run):
    assert codes(lambda: run(base("gpt2"), plain)) == {"unused-adapter-tensors"}


def test_a_rank_that_is_not_the_configs_is_refused(base, plain, run):
    assert codes(lambda: run(base(), configure(plain, r=8))) == {"config-mismatch"}


@pytest.mark.parametrize("kind", ["LoHaConfig", "VeraConfig", "OFTConfig", "LNTuningConfig"])
def test_another_method_is_refused_by_its_name(base, adapter, run, kind):
    made = adapter(base(), kind=kind, **({} if kind == "LNTuningConfig" else {"target_modules": ["q_proj"]}))
    with pytest.raises(Refusal, match=kind.removesuffix("Config").upper().replace("LNT", "LN_T")) as refused:
        run(base(), made)
    assert refused.value.problems[0].code == "unsupported-adapter"


def test_a_prompt_is_refused_by_its_name(base, adapter, run):
    made = adapter(base(), kind="PromptTuningConfig", task_type="CAUSAL_LM", num_virtual_tokens=4)
    assert codes(lambda: run(base(), made)) == {"unsupported-adapter"}


@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], ["lm_head"]])
def test_another_base_of_the_same_shapes_is_refused_by_its_rows(base, adapter, run, saved):
    made = configure(adapter(base(), target_modules=["q_proj"], modules_to_save=saved), base_model_name_or_path=None)
    assert codes(lambda: run(base(seed=7), made)) == {"base-mismatch"}


def test_another_base_is_refused_by_the_copy_the_adapter_carries(base, adapter, run):
    made = configure(adapter(base(), target_modules=["q_proj", "embed_tokens"]), base_model_name_or_path=None)
    assert codes(lambda: run(base(seed=7), made)) == {"base-mismatch"}


def test_another_base_is_refused_where_the_adapters_own_lies_beside_it(base, plain, run):
    assert codes(lambda: run(base(seed=7), plain)) == {"base-mismatch"}


@pytest.mark.parametrize("seed, warned", [(0, False), (7, True)])
def test_magnitudes_that_are_unlike_the_rows_of_the_base_are_warned_of(base, adapter, run, seed, warned):
    made = adapter(base(), target_modules="all-linear", use_dora=True, scale=0.01)
    run(base(seed=seed), configure(made, base_model_name_or_path=None))
    assert [w.code for w in run.findings.warnings] == ["base-mismatch"] * warned


def test_one_bit_in_the_copy_of_the_base_is_enough(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj", "embed_tokens"])
    copy = "base_model.model.model.embed_tokens.base_layer.weight"
    edit(made, lambda t: t[copy].view(torch.int32).view(-1)[5].bitwise_xor_(1))
    assert codes(lambda: run(base(), made)) == {"base-mismatch"}


def test_duplicates_that_disagree_are_refused(base, adapter, run):
    made = adapter(base(), resize=VOCAB + 4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    copy = "base_model.model.lm_head.modules_to_save.weight"
    edit(made, lambda t: t[copy].view(-1)[5].add_(1))
    assert codes(lambda: run(base(), made)) == {"unused-adapter-tensors"}


def test_an_embedding_that_grew_alone_is_refused(base, adapter, run):
    made = adapter(base(), resize=VOCAB + 4, target_modules=["q_proj", "embed_tokens"])
    assert "vocab-mismatch" in codes(lambda: run(base(), made))


def test_an_adapter_that_is_given_twice_is_refused(base, plain, run):
    assert codes(lambda: run(base(), plain, plain)) == {"already-merged"}


def test_an_adapter_that_the_bases_receipt_lists_is_refused(base, plain, run):
    merged = run(base(), plain)
    assert codes(lambda: run(merged, plain, out="again")) == {"already-merged"}


def test_an_adapter_that_is_inside_is_refused_by_its_projection(base, adapter, run):
    made = configure(adapter(base(), target_modules="all-linear", r=8), base_model_name_or_path=None)
    merged = run(base(), made)
    (merged / "manifest.json").unlink()
    assert codes(lambda: run(merged, made, out="again")) == {"already-merged"}


def test_problems_are_told_all_together(base, plain, run):
    edit(
        plain,
        lambda t: (
            t[Q + "lora_A.weight"].view(-1)[0].fill_(float("nan")),
            t[Q.replace("q_", "v_") + "lora_B.weight"].view(-1)[0].fill_(float("inf")),
        ),
    )
    with pytest.raises(Refusal) as refused:
        run(base(), plain)
    assert len(refused.value.problems) == 2


def test_nothing_is_left_behind_by_a_refusal(base, plain, run, tmp_path):
    shutil.copytree(plain, tmp_path / "copy")
    before = sorted(tmp_path.iterdir())
    codes(lambda: run(base(seed=7), plain))
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_output_is_kept(base, plain, run):
    done = run(base(), plain)
    assert codes(lambda: run(base(), plain)) == {"output-exists"}
    assert (done / "model.safetensors").is_file()


@pytest.mark.parametrize("start", ["pissa_niter_4", "lora_ga", "corda", "loftq"])
def test_a_start_that_cannot_be_computed_again_is_refused(base, adapter, run, start):
    made = configure(adapter(base(), target_modules=["q_proj"], init_lora_weights="pissa"), init_lora_weights=start)
    assert codes(lambda: run(base(), made)) == {"unsupported-adapter"}


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_untrained_start_inside_the_base_is_refused(base, adapter, run, start):
    made = adapter(base(), scale=0, target_modules=["q_proj"], init_lora_weights=start)
    assert codes(lambda: run(base(), made)) == {"untrained-adapter"}


def test_the_residual_base_of_a_pissa_adapter_is_known_and_nothing_is_taken_out_twice(base, adapter, run, tmp_path):
    made = adapter(base(), target_modules=["q_proj"], init_lora_weights="pissa", scale=0.01)
    exact = adapter.live.state_dict()["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"].clone()
    adapter.live.unload().save_pretrained(tmp_path / "residual")
    configure(made, base_model_name_or_path=None)
    out = load_file(run(tmp_path / "residual", made) / "model.safetensors")
    parts = load_file(made / "adapter_model.safetensors")
    exact += parts[Q + "lora_B.weight"] @ parts[Q + "lora_A.weight"] * 2
    assert torch.equal(out["model.layers.0.self_attn.q_proj.weight"], exact)


def test_a_trained_bias_without_a_place_is_refused(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"], lora_bias=True)
    assert codes(lambda: run(base(), made)) == {"unsupported-adapter"}
