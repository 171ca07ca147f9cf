"""Bare weight files and the names in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_judges import codes, every_dtype, same

from lingraft.problems import Refusal
from lingraft.weights import formats, names, state_dict, state_dict_write


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
def test_a_single_file_is_opened_and_written_as_others_read_it(tmp_path: Path, ending: str) -> None:
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in every_dtype().items()}
    state_dict_write.write(tensors, tmp_path / f"w{ending}", ending)
    judge = load_file if ending == ".safetensors" else lambda file: torch.load(file, weights_only=True, mmap=True)
    assert same(judge(tmp_path / f"w{ending}"), tensors)
    assert same(formats.open_checkpoint(tmp_path / f"w{ending}").tensors, tensors)


def test_a_folder_of_bare_files_is_one_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "part1.pt")
    torch.save({"b": torch.zeros(2)}, tmp_path / "part2.pt")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    assert set(formats.open_checkpoint(tmp_path).tensors) == {"a", "b"}


def test_two_files_with_the_same_tensor_are_refused(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save({"x": torch.ones(2)}, tmp_path / name)
    with pytest.raises(Refusal) as refusal:
        state_dict.read(tmp_path)
    assert codes(refusal) == ["corrupt-file"]


def test_a_wrappers_prefix_is_taken_off_where_every_key_has_it() -> None:
    assert set(names.without_wrappers({"module._orig_mod.a": 1, "module._orig_mod.b": 2})) == {"a", "b"}


def test_a_stray_prefix_on_part_of_the_keys_stays() -> None:
    assert set(names.without_wrappers({"module.a": 1, "b": 2})) == {"module.a", "b"}


def test_metas_names_without_a_head_count_are_refused(tmp_path: Path) -> None:
    save_file(
        {"tok_embeddings.weight": torch.ones(4, 4), "layers.0.attention.wq.weight": torch.ones(4, 4)},
        tmp_path / "m.safetensors",
    )
    with pytest.raises(Refusal) as refusal:
        state_dict.read(tmp_path / "m.safetensors")
    assert codes(refusal) == ["unknown-format"]


def test_a_file_without_tensors_by_name_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(Refusal) as refusal:
        state_dict.read(tmp_path / "list.pt")
    assert codes(refusal) == ["unknown-format"]


def test_llama2cs_own_training_checkpoint_is_a_model(test_data: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from lingraft.weights import llama2c, meta_names
    from lingraft.weights.rotary import pairs_from_hf

    published = llama2c.read(test_data / "models" / "stories260K.bin").tensors
    heads = {"q_proj": 8, "k_proj": 4}
    state = {}
    for name, tensor in published.items():
        kind = name.split(".")[-2]
        index = pairs_from_hf(tensor.shape[0], heads[kind]) if kind in heads else torch.arange(tensor.shape[0])
        state[f"_orig_mod.{meta_names.meta_name(name)}"] = tensor[index]
    state["_orig_mod.output.weight"] = published["model.embed_tokens.weight"]
    arguments = {"dim": 64, "n_layers": 5, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 512, "max_seq_len": 512}
    torch.save({"model": state, "model_args": arguments, "iter_num": 1}, tmp_path / "ckpt.pt")
    found = formats.open_checkpoint(tmp_path / "ckpt.pt")
    model = LlamaForCausalLM(LlamaConfig(**found.config))
    assert found.config["tie_word_embeddings"] and model.num_parameters() == 260032
    assert all(torch.equal(found.tensors[name], published[name]) for name in published)
