"""Conversion: every writable format gives every tensor back, and a refused or broken one leaves nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from weights_judges import codes, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import convert as module
from lingraft.weights import formats, hf
from lingraft.weights.convert import convert
from lingraft.weights.fingerprint import fingerprint

TARGETS: list[tuple[str, str, dict[str, Any]]] = [
    ("hf", "m", {}),
    ("hf", "m", {"shards": 3}),
    ("gguf", "m.gguf", {}),
    ("gguf", "m.gguf", {"type": "F32"}),
    ("meta", "m", {}),
    ("meta", "m", {"shards": 2}),
    ("llama2c", "m.bin", {}),
    ("llama2c", "m.bin", {"type": "v1"}),
    ("state_dict", "m.safetensors", {}),
    ("state_dict", "m.pt", {}),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("to", "name", "options"), TARGETS)
def test_a_round_trip_gives_every_tensor_back(
    tiny_llama: Path, tiny_untied: Path, tmp_path: Path, tied: bool, to: str, name: str, options: dict[str, Any]
) -> None:
    source = tiny_llama if tied else tiny_untied
    told = convert(source, tmp_path / name, to, Findings(), **options)
    assert told["exact"] and formats.detect(tmp_path / name) == to
    convert(tmp_path / name, tmp_path / "back", "hf", Findings())
    theirs = load_file(source / "model.safetensors")
    assert same(hf.read(tmp_path / "back").tensors, theirs)
    assert told["fingerprint"] == fingerprint(theirs)


def test_a_model_in_half_precision_keeps_its_dtype_through_gguf_and_meta(tiny_llama: Path, tmp_path: Path) -> None:
    convert(tiny_llama, tmp_path / "half", "hf", Findings(), type="BF16")
    convert(tmp_path / "half", tmp_path / "m.gguf", "gguf", Findings())
    convert(tmp_path / "m.gguf", tmp_path / "meta", "meta", Findings(), shards=2)
    convert(tmp_path / "meta", tmp_path / "back", "hf", Findings())
    assert same(load_file(tmp_path / "back" / "model.safetensors"), load_file(tmp_path / "half" / "model.safetensors"))


def test_a_cast_is_told_in_the_config_and_loaded_so(tiny_llama: Path, tmp_path: Path) -> None:
    told = convert(tiny_llama, tmp_path / "half", "hf", Findings(), type="F16")
    assert not told["exact"] and AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.float16


def test_transformers_loads_what_was_cut_into_shards(tiny_untied: Path, tmp_path: Path) -> None:
    convert(tiny_untied, tmp_path / "m", "hf", Findings(), shards=4)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    held = {name: file.name for file in (tmp_path / "m").glob("*.safetensors") for name in load_file(file)}
    assert index["weight_map"] == held and len(set(held.values())) >= 4
    ids = torch.tensor([[3, 4, 5]])
    one, two = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_untied, tmp_path / "m"))
    assert torch.equal(one(ids).logits, two(ids).logits)


def test_a_sharded_bin_checkpoint_is_read_with_and_without_its_index(tiny_untied: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_untied / "model.safetensors")
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, held in parts.items():
        torch.save({name: tensors[name] for name in held}, tmp_path / file)
    assert same(formats.open_checkpoint(tmp_path).tensors, tensors)
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert same(formats.open_checkpoint(tmp_path).tensors, tensors)


def test_a_full_disk_is_refused_before_a_byte_is_written(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Refusal) as refusal:
        convert(tiny_llama, tmp_path / "m", "hf", Findings())
    assert codes(refusal) == ["no-space"] and list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_unless_told_to_overwrite(tiny_llama: Path, tmp_path: Path) -> None:
    for to, name in (("hf", "m"), ("gguf", "m.gguf")):
        convert(tiny_llama, tmp_path / name, to, Findings())
        with pytest.raises(Refusal) as refusal:
            convert(tiny_llama, tmp_path / name, to, Findings())
        assert codes(refusal) == ["output-exists"]
        convert(tiny_llama, tmp_path / name, to, Findings(), overwrite=True)


def test_a_result_that_does_not_read_back_as_written_is_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(weights: Any, out: Path, *_: Any) -> None:
        damaged = {name: tensor.clone() for name, tensor in weights.items()}
        damaged["model.norm.weight"][0] += 1
        torch.save(damaged, out)

    monkeypatch.setattr(module, "write_state_dict", faulty)
    with pytest.raises(Refusal) as refusal:
        convert(tiny_llama, tmp_path / "m.pt", "state_dict", Findings())
    assert codes(refusal) == ["fingerprint-mismatch"] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "options"), [("onnx", {}), ("gguf", {"type": "Q4_K"}), ("hf", {"type": "Q8_0"}), ("llama2c", {"type": "v9"})]
)
def test_what_cannot_be_written_is_refused_by_name(
    tiny_llama: Path, tmp_path: Path, to: str, options: dict[str, str]
) -> None:
    with pytest.raises(Refusal) as refusal:
        convert(tiny_llama, tmp_path / "m", to, Findings(), **options)
    assert codes(refusal) == ["unknown-format"] and not (tmp_path / "m").exists()


def test_missing_shards_are_all_named(tiny_untied: Path, tmp_path: Path) -> None:
    convert(tiny_untied, tmp_path / "m", "hf", Findings(), shards=4)
    gone = sorted((tmp_path / "m").glob("*.safetensors"))[1:3]
    for file in gone:
        file.unlink()
    with pytest.raises(Refusal, match=f"{gone[0].name}, {gone[1].name}") as refusal:
        hf.read(tmp_path / "m")
    assert codes(refusal) == ["missing-shard"]


@pytest.mark.parametrize("to", ["gguf", "meta", "llama2c"])
@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"num_attention_heads": 8}, {"hidden_size": None}])
def test_a_config_that_its_tensors_contradict_is_refused(
    tiny_llama: Path, tmp_path: Path, to: str, change: dict[str, Any]
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config.pop("head_dim", None)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(Refusal) as refusal:
        convert(tmp_path / "m", tmp_path / "out", to, Findings())
    assert set(codes(refusal)) == {"config-mismatch"} and not (tmp_path / "out").exists()
