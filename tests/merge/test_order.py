"""Which base, which order, which tokenizer: by lineage, and without one by the tokenizers and rows themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from merge_models import VOCAB, codes, load_model, move
from safetensors.torch import load_file, save_file

from lingraft.merge.lineage import Lineage, Link, adapter_fingerprint, write_lineage
from lingraft.problems import Refusal
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.formats import open_checkpoint

SAVED = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}


def trained_on(adapter: Path, base: Path, *below: Path, **more: object) -> Path:
    links = tuple(Link(adapter_fingerprint(a), str(a)) for a in below)
    write_lineage(adapter, Lineage(fingerprint(open_checkpoint(base).tensors), str(base), links, **more))
    return adapter


@pytest.fixture
def two(base, adapter):
    """Two adapters of a chain, the second trained on the live base + the first."""
    one = adapter(base(), "one", **SAVED)
    live = adapter.live.merge_and_unload()
    second = adapter(base(), "two", on=live, seed=2, **SAVED)
    return one, second


def tokenizer(folder: Path, pieces: list[str]) -> None:
    model = {"model": {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": []}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(model))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def pieces(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def test_a_chain_in_its_order_is_merged(base, two, run):
    one, second = trained_on(two[0], base()), trained_on(two[1], base(), two[0])
    assert (run(base(), one, second) / "manifest.json").is_file()


def test_another_base_is_refused_by_lineage(base, adapter, run, tmp_path):
    made = trained_on(adapter(base(), target_modules=["q_proj"]), base())
    assert codes(lambda: run(base(seed=7), made)) == {"base-mismatch"}
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_another_base_may_be_allowed_and_the_receipt_says_so(base, adapter, run):
    made = trained_on(adapter(base(), target_modules=["q_proj"]), base())
    out = run(base(seed=7), made, allow=("base-mismatch",))
    assert [p["code"] for p in json.loads((out / "manifest.json").read_text())["allowed"]] == ["base-mismatch"]


def test_a_merged_bases_receipt_refuses_before_the_base_is_read(base, two, adapter, run):
    merged = run(base(), trained_on(two[0], base()))
    other = trained_on(adapter(base(), "other", target_modules=["q_proj"]), base(seed=7))
    assert codes(lambda: run(merged, other, out="again")) == {"base-mismatch"}


def test_the_wrong_order_is_refused_and_the_right_one_told(base, two, run):
    one, second = trained_on(two[0], base()), trained_on(two[1], base(), two[0])
    with pytest.raises(Refusal) as refused:
        run(base(), second, one)
    assert {p.code for p in refused.value.problems} == {"wrong-order"}
    assert f"{one} {second}" in refused.value.problems[0].remedy


def test_an_adapter_below_that_is_not_given_is_named(base, two, run):
    second = trained_on(two[1], base(), two[0])
    with pytest.raises(Refusal, match=r"base-mismatch.*one"):
        run(base(), second)


def test_a_chain_may_go_on_from_its_own_merge(base, two, run):
    merged = run(base(), trained_on(two[0], base()), out="half")
    whole = run(merged, trained_on(two[1], base(), two[0]))
    receipt = json.loads((whole / "manifest.json").read_text())
    assert receipt["inside"] == [adapter_fingerprint(two[0])]
    for one in two:
        assert codes(lambda again=one: run(whole, again, out="more")) == {"already-merged"}


def test_without_lineage_rows_tell_the_order(base, two, run):
    assert codes(lambda: run(base(), two[1], two[0])) >= {"wrong-order"}
    assert (run(base(), *two) / "manifest.json").is_file()


def test_two_adapters_trained_apart_have_no_wrong_order(base, adapter, run):
    one, other = adapter(base(), "one", **SAVED), adapter(base(), "other", seed=5, **SAVED)
    run(base(), one, other, out="a")
    run(base(), other, one, out="b")


@pytest.fixture
def grown(base, adapter):
    """Adapters whose vocabularies grow, each with its tokenizer: 160 → 168 → 176 rows."""
    first = adapter(base(), "first", resize=VOCAB + 8, **SAVED)
    live = adapter.live.merge_and_unload()
    second = adapter(base(), "second", on=live, resize=VOCAB + 16, seed=2, **SAVED)
    tokenizer(first, pieces(VOCAB + 8))
    tokenizer(second, pieces(VOCAB + 16))
    return first, second


def test_the_last_tokenizer_goes_with_the_result_byte_for_byte(base, grown, run):
    out = run(base(), *grown)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (grown[1] / name).read_bytes()
    assert load_model(out).config.vocab_size == VOCAB + 16


def test_tokenizers_tell_the_order(base, grown, run):
    with pytest.raises(Refusal) as refused:
        run(base(), grown[1], grown[0])
    assert "wrong-order" in {p.code for p in refused.value.problems}
    assert f"{grown[0]} {grown[1]}" in refused.value.problems[0].remedy


def test_a_tokenizer_that_does_not_extend_the_earlier_one_is_refused(base, grown, run):
    tokenizer(grown[1], pieces(VOCAB + 16, "q"))
    assert codes(lambda: run(base(), *grown)) == {"tokenizer-mismatch"}


def test_new_tokens_without_rows_are_refused(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"])
    tokenizer(made, pieces(VOCAB + 3))
    assert codes(lambda: run(base(), made)) == {"new-tokens-untrained"}


def test_new_rows_that_nothing_trained_are_refused(base, adapter, run):
    made = adapter(base(), resize=VOCAB + 8, target_modules=["q_proj"])
    tokenizer(made, pieces(VOCAB + 8))
    assert codes(lambda: run(base(), made)) == {"new-tokens-untrained"}


def test_a_padding_token_alone_needs_no_training(base, adapter, run):
    made = adapter(base(), resize=VOCAB + 1, target_modules=["q_proj"])
    tokenizer(made, [*pieces(VOCAB), "[PAD]"])
    run(base(), made)
    assert [w.code for w in run.findings.warnings] == ["new-tokens-untrained"] * 2


def test_rows_padded_to_a_multiple_of_64_are_fine(base, adapter, run):
    made = adapter(base(), resize=192, **SAVED)
    tokenizer(made, pieces(VOCAB + 5))
    assert load_model(run(base(), made)).config.vocab_size == 192


def test_a_chat_template_and_generation_config_come_along(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"])
    tokenizer(made, pieces(VOCAB))
    (made / "chat_template.jinja").write_text("{{ messages }}")
    out = run(base(), made)
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "generation_config.json").read_bytes() == (base() / "generation_config.json").read_bytes()


def test_the_bases_tokenizer_stays_where_no_adapter_has_one(base, adapter, run, tmp_path):
    import shutil

    start = shutil.copytree(base(), tmp_path / "base")
    tokenizer(start, pieces(VOCAB))
    (start / "chat_template.jinja").write_text("{{ base }}")
    out = run(start, adapter(base(), target_modules=["q_proj"]))
    assert (out / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == "{{ base }}"


def test_an_older_adapter_file_with_the_adapters_name_inside_is_the_same_adapter(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"], modules_to_save=["lm_head"])
    before = run(base(), made, out="new")
    tensors = load_file(made / "adapter_model.safetensors")
    named = {
        (
            n.replace(".weight", ".default.weight")
            if "lora" in n
            else n.replace("lm_head.", "lm_head.modules_to_save.default.")
        ): t
        for n, t in tensors.items()
    }
    (made / "adapter_model.safetensors").unlink()
    torch.save(named, made / "adapter_model.bin")
    first = run.answer["fingerprint"]
    run(base(), made, out="old")
    assert run.answer["fingerprint"] == first and before.is_dir()


def test_an_adapter_of_another_name_lies_in_a_folder_of_that_name(base, run, tmp_path):
    import peft

    live = peft.get_peft_model(load_model(base()), peft.LoraConfig(target_modules=["q_proj"]), adapter_name="chinese")
    move(live)
    live.save_pretrained(tmp_path / "saved")
    assert (run(base(), tmp_path / "saved") / "manifest.json").is_file()


def test_a_run_folder_with_several_checkpoints_is_not_guessed(base, adapter, run, tmp_path):
    import shutil

    made = adapter(base(), target_modules=["q_proj"])
    for step in (10, 200):
        shutil.copytree(made, tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(Refusal, match=r"not-found.*checkpoint-10, checkpoint-200"):
        run(base(), tmp_path / "run")
    assert (run(base(), tmp_path / "run" / "checkpoint-200") / "manifest.json").is_file()


def test_one_prefix_that_all_names_lack_on_disk_is_mapped(base, adapter, run, tmp_path):
    made = adapter(base("gpt2"), target_modules=["c_attn"], fan_in_fan_out=True)
    whole = run(base("gpt2"), made)
    short = tmp_path / "short"
    short.mkdir()
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(base("gpt2") / "model.safetensors").items()}
    save_file(tensors, short / "model.safetensors", {"format": "pt"})
    (short / "config.json").write_bytes((base("gpt2") / "config.json").read_bytes())
    ours = load_model(run(short, made, out="mapped")).state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in load_model(whole).state_dict().items())


def test_rows_alone_tell_the_order_too(base, adapter, run):
    first = adapter(base(), "first", resize=VOCAB + 8, **SAVED)
    live = adapter.live.merge_and_unload()
    second = adapter(base(), "second", on=live, resize=VOCAB + 16, seed=2, **SAVED)
    assert codes(lambda: run(base(), second, first)) == {"wrong-order"}
    assert load_model(run(base(), first, second)).config.vocab_size == VOCAB + 16


def test_a_reserved_token_may_be_given_a_meaning(base, adapter, run, tmp_path):
    import shutil

    start = shutil.copytree(base(), tmp_path / "base")
    tokenizer(start, [*pieces(VOCAB - 1), "<|reserved_special_token_0|>"])
    made = adapter(start, **SAVED)
    tokenizer(made, [*pieces(VOCAB - 1), "<|think|>"])
    assert run(start, made).is_dir()


def test_a_base_whose_config_does_not_fit_its_rows_is_refused(base, adapter, run, tmp_path):
    import shutil

    made = adapter(base(), target_modules=["q_proj"])
    start = shutil.copytree(base(), tmp_path / "edited")
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps({**config, "vocab_size": VOCAB + 1}))
    assert codes(lambda: run(start, made)) == {"vocab-mismatch"}


def test_older_names_on_disk_are_found_as_transformers_finds_them(base, adapter, run, tmp_path):
    """LayerNorm.gamma and beta were the names of TensorFlow's checkpoints; the live model says weight and bias."""
    made = adapter(base("bert"), target_modules=["query"], bias="all")
    whole = run(base("bert"), made)
    old = tmp_path / "old"
    old.mkdir()
    tensors = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in load_file(base("bert") / "model.safetensors").items()
    }
    save_file(tensors, old / "model.safetensors", {"format": "pt"})
    (old / "config.json").write_bytes((base("bert") / "config.json").read_bytes())
    ours = load_model(run(old, made, out="mapped")).state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in load_model(whole).state_dict().items())


def test_the_tokens_that_an_earlier_adapter_taught_need_no_teaching_again(base, adapter, run, tmp_path):
    shutil.copytree(base(), start := tmp_path / "start")
    one = adapter(start, "one", resize=VOCAB + 8, **SAVED)
    live = adapter.live.merge_and_unload()
    two = adapter(start, "two", on=live, seed=2, target_modules=["q_proj"])
    for folder, count in ((start, VOCAB), (one, VOCAB + 8), (two, VOCAB + 8)):
        tokenizer(folder, pieces(count))
    assert load_model(run(start, one, two)).config.vocab_size == VOCAB + 8


def test_copies_of_the_base_tell_the_order_of_three(base, two, adapter, run):
    third = adapter(base(), "three", seed=5, target_modules=["o_proj"])
    with pytest.raises(Refusal, match="wrong-order") as refusal:
        run(base(), two[1], third, two[0])
    said = refusal.value.problems[0].remedy
    assert said.index(str(two[0])) < said.index(str(two[1]))


@pytest.mark.parametrize("change", [{"schema": 2}, {"schema": "new"}, {"chain": None}])
def test_a_lineage_that_cannot_be_read_is_refused_and_not_passed_over(base, adapter, run, change):
    made = trained_on(adapter(base(), target_modules=["q_proj"]), base())
    told = json.loads((made / "lingraft.json").read_text())
    (made / "lingraft.json").write_text(json.dumps(told | change))
    assert codes(lambda: run(base(), made)) == {"corrupt-file"}
