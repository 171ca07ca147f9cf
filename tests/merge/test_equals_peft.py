"""In float32 a merge equals peft's merge_and_unload bit for bit, for every kind of adapter."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from merge_models import VOCAB, by_peft, load_model, same

from lingraft.weights.stream import single_threaded

ATTENTION = ["q_proj", "v_proj"]
LLAMA: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 7, r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {"mlp.down_proj": 32},
    },
    "patterns and rslora": {
        "target_modules": ATTENTION,
        "rank_pattern": {"^model.layers.0.self_attn.q_proj": 2},
        "use_rslora": True,
    },
    "layers": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "regex": {"target_modules": r".*\.0\..*(q|k)_proj"},
    "saved": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved norm": {"target_modules": ATTENTION, "modules_to_save": ["norm"]},
    "orthogonal": {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"},
    "gaussian": {"target_modules": ATTENTION, "init_lora_weights": "gaussian"},
    "mica": {"target_modules": ATTENTION, "init_lora_weights": "mica"},
    "rows": {"target_modules": ATTENTION, "trainable_token_indices": [1, 7, VOCAB - 1]},
}
UNTIED: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "embedding dora": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "saved embedding": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "rows of both": {
        "target_modules": ATTENTION,
        "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3, 9, 11]},
    },
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("config", LLAMA.values(), ids=LLAMA.keys())
def test_llama_equals_peft(base, adapter, run, config, tied):
    start = base(tied=tied)
    made = adapter(start, **config)
    assert same(dict(load_model(run(start, made)).state_dict()), by_peft(start, made))


@pytest.mark.parametrize("config", UNTIED.values(), ids=UNTIED.keys())
def test_llama_with_ends_of_its_own_equals_peft(base, adapter, run, config):
    start = base()
    made = adapter(start, **config)
    assert same(dict(load_model(run(start, made)).state_dict()), by_peft(start, made))


GPT2: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "dora": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    "bias all": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"},
    "bias lora_only": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "lora_only"},
    "lora_bias": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_bias": True},
    "rows": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "trainable_token_indices": [0, 5]},
}


@pytest.mark.parametrize("config", GPT2.values(), ids=GPT2.keys())
def test_gpt2_equals_peft(base, adapter, run, config):
    start = base("gpt2")
    made = adapter(start, **config)
    assert same(dict(load_model(run(start, made)).state_dict()), by_peft(start, made))


BERT: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["query", "value", "dense"]},
    "bias all": {"target_modules": ["query"], "bias": "all"},
    "dora": {"target_modules": ["query", "output.dense"], "use_dora": True},
    "lora_bias": {"target_modules": ["query"], "lora_bias": True},
}


@pytest.mark.parametrize("config", BERT.values(), ids=BERT.keys())
def test_bert_equals_peft(base, adapter, run, config):
    start = base("bert")
    made = adapter(start, **config)
    assert same(dict(load_model(run(start, made)).state_dict()), by_peft(start, made))


IA3: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "gpt2": (
        "gpt2",
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True},
    ),
    "bert": ("bert", {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}),
}


@pytest.mark.parametrize("kind, config", IA3.values(), ids=IA3.keys())
def test_ia3_equals_peft(base, adapter, run, kind, config):
    start = base(kind)
    made = adapter(start, kind="IA3Config", **config)
    assert same(dict(load_model(run(start, made)).state_dict()), by_peft(start, made))


@pytest.mark.parametrize("tied", [False, True])
def test_trainable_tokens_alone_equal_peft(base, adapter, run, tied):
    start = base(tied=tied)
    made = adapter(start, kind="TrainableTokensConfig", token_indices=[2, 4], target_modules=["embed_tokens"])
    assert same(dict(load_model(run(start, made)).state_dict()), by_peft(start, made))


@pytest.mark.parametrize("kind", ["llama", "bert-pooled"])
def test_a_classification_head_equals_peft(base, adapter, run, kind):
    load = getattr(transformers, {"llama": "Llama", "bert-pooled": "Bert"}[kind] + "ForSequenceClassification")
    start = base(kind)
    made = adapter(start, load=load, task_type="SEQ_CLS", target_modules=["q_proj", "query"])
    merged = load_model(run(start, made))
    assert isinstance(merged, load)
    assert same(dict(merged.state_dict()), by_peft(start, made, load=load))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "config",
    [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"trainable_token_indices": list(range(VOCAB, VOCAB + 8))}],
    ids=["copies", "saved", "rows"],
)
def test_a_grown_vocabulary_equals_peft(base, adapter, run, config, tied):
    start = base(tied=tied)
    made = adapter(start, resize=VOCAB + 8, target_modules=ATTENTION, **config)
    merged = load_model(run(start, made))
    assert merged.config.vocab_size == VOCAB + 8
    assert same(dict(merged.state_dict()), by_peft(start, made, resize=VOCAB + 8))


@pytest.mark.parametrize("tied", [False, True])
def test_two_adapters_equal_peft_one_after_the_other(base, adapter, run, tied):
    start = base(tied=tied)
    one = adapter(start, "one", target_modules="all-linear", modules_to_save=["embed_tokens", "lm_head"])
    live = adapter.live.merge_and_unload()
    two = adapter(
        start,
        "two",
        on=live,
        seed=2,
        target_modules=ATTENTION,
        use_dora=True,
        modules_to_save=["embed_tokens", "lm_head"],
    )
    assert same(dict(load_model(run(start, one, two)).state_dict()), by_peft(start, one, two))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["lora", "dora", "rslora", "saved", "rows"])
def test_in_half_precision_a_merge_is_at_least_as_near_to_the_truth_as_peft(base, adapter, run, name, dtype):
    start = base(dtype=dtype)
    made = adapter(start, **LLAMA[name])
    ours, theirs = dict(load_model(run(start, made)).state_dict()), by_peft(start, made)
    truth = by_peft(start, made, dtype=torch.float32)
    assert ours.keys() == theirs.keys() and all(t.dtype == dtype for t in ours.values())
    for tensor, exact in truth.items():
        assert (ours[tensor] - exact).abs().sum() <= (theirs[tensor] - exact).abs().sum(), tensor


STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pissa": ("llama", {"target_modules": "all-linear", "init_lora_weights": "pissa"}),
    "pissa and rslora": ("llama", {"target_modules": ATTENTION, "init_lora_weights": "pissa", "use_rslora": True}),
    "pissa and dora": ("llama", {"target_modules": ATTENTION, "init_lora_weights": "pissa", "use_dora": True}),
    "pissa on gpt2": ("gpt2", {"target_modules": ["c_attn"], "init_lora_weights": "pissa", "fan_in_fan_out": True}),
    "olora": ("llama", {"target_modules": ATTENTION, "init_lora_weights": "olora"}),
}


@pytest.mark.parametrize("kind, config", STARTS.values(), ids=STARTS.keys())
def test_an_adapter_that_began_inside_its_base_equals_peft(base, adapter, run, kind, config):
    start = base(kind)
    made = adapter(start, scale=0.01, **config)
    with single_threaded():  # LAPACK's last bits depend on the number of threads
        theirs = by_peft(start, made)
    assert same(dict(load_model(run(start, made)).state_dict()), theirs)


def test_a_classification_head_on_files_without_the_prefix_equals_peft(base, adapter, run, tmp_path):
    from safetensors.torch import load_file, save_file

    load, whole = transformers.GPT2ForSequenceClassification, base("gpt2")
    short = tmp_path / "short"
    short.mkdir()
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(whole / "model.safetensors").items()}
    save_file(tensors, short / "model.safetensors", {"format": "pt"})
    (short / "config.json").write_bytes((whole / "config.json").read_bytes())
    made = adapter(whole, load=load, task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    assert same(dict(load_model(run(short, made)).state_dict()), by_peft(whole, made, load=load))


def test_a_matrix_that_is_targeted_as_a_parameter_equals_peft(base, adapter, run):
    made = adapter(base(), target_modules=["v_proj"], target_parameters=["q_proj.weight"])
    assert same(dict(load_model(run(base(), made)).state_dict()), by_peft(base(), made))


@pytest.mark.parametrize(
    "config",
    [
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
        {"trainable_token_indices": {"lm_head": [3, 9]}},
    ],
)
def test_a_head_that_the_files_call_otherwise_equals_peft(base, adapter, run, config):
    made = adapter(base("gpt_neox"), **{"target_modules": ["query_key_value"], **config})
    out = run(base("gpt_neox"), made)
    assert same(dict(load_model(out).state_dict()), by_peft(base("gpt_neox"), made))


CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "a head of two layers": ("Roberta", {"target_modules": ["query"]}),
    "a head and a pooler": ("Bert", {"target_modules": ["query"], "modules_to_save": ["pooler", "classifier"]}),
    "experts": ("Mixtral", {"target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize("family, config", CLASSES.values(), ids=CLASSES.keys())
def test_a_classifier_out_of_a_language_model_is_the_class_that_was_trained(adapter, run, tmp_path, family, config):
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 70,
    }
    kind = f"{family}ForCausalLM" if family == "Mixtral" else f"{family}ForMaskedLM"
    getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**shape)).save_pretrained(tmp_path / "base")
    load = getattr(transformers, f"{family}ForSequenceClassification")
    labelled = SimpleNamespace(from_pretrained=partial(load.from_pretrained, num_labels=3))
    made = adapter(tmp_path / "base", load=labelled, task_type="SEQ_CLS", **config)
    merged, loaded = load.from_pretrained(run(tmp_path / "base", made), output_loading_info=True)
    assert merged.config.num_labels == 3 and not (loaded["missing_keys"] or loaded["unexpected_keys"])
    assert same(dict(merged.state_dict()), dict(adapter.live.merge_and_unload().state_dict()))
