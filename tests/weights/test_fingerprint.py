"""The fingerprint, against its definition written out once more, and whatever the container."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from weights_judges import every_dtype

from lingraft.problems import Findings
from lingraft.weights import formats, hf
from lingraft.weights.convert import convert
from lingraft.weights.fingerprint import fingerprint


def by_definition(file: Path) -> str:
    """Compute the fingerprint of a safetensors file from the contract alone, through the safetensors package."""
    lines = []
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            part, tensor = opened.get_slice(name), opened.get_tensor(name)
            raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
            lines.append(f"{name}\t{part.get_dtype()}\t{part.get_shape()}\t{blake3(raw).hexdigest()}\n")
    return str(blake3("".join(sorted(lines)).encode()).hexdigest())


def of(path: Path) -> str:
    return fingerprint(formats.open_checkpoint(path).tensors)


def test_it_is_what_the_contract_defines(tmp_path: Path) -> None:
    save_file({name: t.detach().contiguous().clone() for name, t in every_dtype().items()}, tmp_path / "w.safetensors")
    assert of(tmp_path / "w.safetensors") == by_definition(tmp_path / "w.safetensors")


def test_a_plain_dict_with_views_has_the_same_one_as_the_file(tmp_path: Path) -> None:
    save_file({name: t.detach().contiguous().clone() for name, t in every_dtype().items()}, tmp_path / "w.safetensors")
    assert fingerprint(every_dtype()) == by_definition(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("to", "name"), [("gguf", "m.gguf"), ("meta", "m"), ("llama2c", "m.bin"), ("state_dict", "m.pt")]
)
def test_every_container_of_the_same_weights_has_it(tiny_llama: Path, tmp_path: Path, to: str, name: str) -> None:
    convert(tiny_llama, tmp_path / name, to, Findings())
    assert of(tmp_path / name) == by_definition(tiny_llama / "model.safetensors")


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_writing_tells_it_and_sharding_does_not_change_it(tiny_untied: Path, tmp_path: Path, shards: int) -> None:
    told = convert(tiny_untied, tmp_path / "m", "hf", Findings(), shards=shards)["fingerprint"]
    assert told == by_definition(tiny_untied / "model.safetensors") == fingerprint(hf.read(tmp_path / "m").tensors)


def test_a_head_that_is_the_embedding_and_buffers_are_left_out(tiny_llama: Path) -> None:
    tensors = load_file(tiny_llama / "model.safetensors")
    more = {
        **tensors,
        "lm_head.weight": tensors["model.embed_tokens.weight"].clone(),
        "model.rotary_emb.inv_freq": torch.ones(4),
    }
    assert fingerprint(more) == fingerprint(tensors)


def test_another_head_another_dtype_and_one_flipped_bit_each_change_it(tiny_llama: Path) -> None:
    tensors = load_file(tiny_llama / "model.safetensors")
    flipped = tensors["model.norm.weight"].clone()
    flipped.view(torch.int32)[3] ^= 1
    variants = [
        {**tensors, "lm_head.weight": torch.zeros(400, 32)},
        {**tensors, "model.norm.weight": flipped},
        {name: tensor.double() for name, tensor in tensors.items()},
    ]
    assert len({fingerprint(variant) for variant in [tensors, *variants]}) == 4


def test_a_tensor_larger_than_a_block_has_the_hash_of_all_its_bytes(tmp_path: Path) -> None:
    tall = torch.from_numpy(np.random.default_rng(0).standard_normal((40_000, 500)).astype(np.float32))  # 80 MB
    save_file({"tall": tall}, tmp_path / "w.safetensors")
    assert of(tmp_path / "w.safetensors") == by_definition(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "gpt_neox.embed_in.weight",
        "model.decoder.embed_tokens.weight",
        "transformer.word_embeddings.weight",
    ],
)
def test_a_head_saved_beside_the_embedding_it_is_tied_to_changes_nothing_in_any_family(name: str) -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert fingerprint({name: rows, "lm_head.weight": rows.clone()}) == fingerprint({name: rows})
    assert fingerprint({name: rows, "lm_head.weight": rows + 1}) != fingerprint({name: rows})
