"""Hugging Face directories: transformers' own choice among files, and every damage told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_judges import codes, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import hf
from lingraft.weights.convert import convert


@pytest.fixture
def sharded(tiny_untied: Path, tmp_path: Path) -> Path:
    convert(tiny_untied, tmp_path / "sharded", "hf", Findings(), shards=4)
    return tmp_path / "sharded"


def test_shards_without_their_index_are_read(sharded: Path, tiny_untied: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    assert same(hf.read(sharded).tensors, load_file(tiny_untied / "model.safetensors"))


def test_a_single_file_wins_over_an_index_as_in_transformers(sharded: Path) -> None:
    from transformers import AutoModelForCausalLM

    tensors = {name: torch.full_like(t, 0.5) for name, t in hf.read(sharded).tensors.items()}
    save_file(tensors, sharded / "model.safetensors", {"format": "pt"})
    theirs = AutoModelForCausalLM.from_pretrained(sharded).state_dict()
    assert same(hf.read(sharded).tensors, tensors) and same(theirs, tensors)


def test_missing_and_truncated_shards_are_told_together(sharded: Path) -> None:
    files = sorted(sharded.glob("*.safetensors"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-100])
    files[2].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(Refusal) as refusal:
        hf.read(sharded)
    assert codes(refusal) == ["missing-shard", "truncated-file", "lfs-pointer"]


def test_an_index_that_names_tensors_no_shard_holds_is_told(sharded: Path) -> None:
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = index["weight_map"]["model.norm.weight"]
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refusal, match=r"model\.layers\.9") as refusal:
        hf.read(sharded)
    assert codes(refusal) == ["corrupt-file"]


def test_the_index_decides_between_two_copies_of_a_tensor(sharded: Path) -> None:
    told = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]["model.norm.weight"]
    wanted = hf.read(sharded).tensors["model.norm.weight"].clone()
    other = next(file for file in sorted(sharded.glob("*.safetensors")) if file.name != told)
    save_file({**load_file(other), "model.norm.weight": torch.zeros_like(wanted)}, other, {"format": "pt"})
    assert torch.equal(hf.read(sharded).tensors["model.norm.weight"], wanted)


def test_non_persistent_buffers_are_left_out(tiny_llama: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_llama / "model.safetensors")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({**tensors, **buffer}, tmp_path / "model.safetensors", {"format": "pt"})
    assert same(hf.read(tmp_path).tensors, tensors)


def test_shards_in_a_folder_below_are_where_the_index_says(tiny_untied: Path, tmp_path: Path) -> None:
    from inspect_parts import look
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_untied).save_pretrained(tmp_path, max_shard_size="60KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first = min(index["weight_map"].values())
    (tmp_path / "part").mkdir()
    (tmp_path / first).rename(tmp_path / "part" / first)
    index["weight_map"] = {n: f"part/{f}" if f == first else f for n, f in index["weight_map"].items()}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert same(hf.read(tmp_path).tensors, theirs) and not look(tmp_path)[1].warnings
