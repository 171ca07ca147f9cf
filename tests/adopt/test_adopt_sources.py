"""Weights in every container that training and downloads leave, adopted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adopt_models import save
from safetensors.torch import load_file, save_file

from lingraft.adopt.run import adopt
from lingraft.problems import Findings


def as_state_dict(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(weights, folder / "weights.bin")
    return folder / "weights.bin"


def as_dcp(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

    save_distributed({"model": weights}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    return folder / "dcp"


def as_global_step(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    (folder / "global_step7").mkdir()
    torch.save(
        {"module": weights, "dp_world_size": 1, "ds_version": "0.19"},
        folder / "global_step7" / "mp_rank_00_model_states.pt",
    )
    return folder / "global_step7"


@pytest.mark.parametrize("leave", [as_state_dict, as_dcp, as_global_step])
def test_what_a_trainer_leaves_is_adopted(
    tmp_path: Path, leave: Callable[[dict[str, torch.Tensor], Path], Path]
) -> None:
    wanted = save("llama", tmp_path / "src")
    weights = load_file(tmp_path / "src" / "model.safetensors")
    adopt(leave(weights, tmp_path), tmp_path / "out", settings={"head_dim": "16"}, findings=Findings())
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert back.keys() == weights.keys() and all(torch.equal(back[name], value) for name, value in weights.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_key_value_heads"] == wanted["num_key_value_heads"]


@pytest.mark.parametrize("to", ["meta", "gguf", "llama2c"])
def test_published_containers_are_adopted_with_their_tokenizer(test_data: Path, tmp_path: Path, to: str) -> None:
    from lingraft.weights.convert import convert

    source = test_data / "models" / "stories260K.bin"
    if to != "llama2c":
        adopt(source, tmp_path / "hf", findings=Findings())
        target = tmp_path / ("stories.gguf" if to == "gguf" else "meta")
        convert(tmp_path / "hf", target, to=to, findings=Findings())
        source = target
    answer = adopt(source, tmp_path / "out", findings=Findings())
    assert answer["missing"] == [] and answer["config"]["num_attention_heads"] == 8
    assert answer["config"]["rope_theta"] == 10000.0 and (tmp_path / "out" / "tokenizer.json").is_file()
    how = {value["name"]: value["how"] for value in answer["values"]}
    assert how["max_position_embeddings"] == ("assumed" if to == "meta" else "read")
    assert how["rms_norm_eps"] == ("assumed" if to == "llama2c" else "read")


def test_a_bare_model_assumes_what_nothing_tells(tmp_path: Path) -> None:
    save("gemma2", tmp_path / "src")
    answer = adopt(tmp_path / "src", tmp_path / "out", settings={"head_dim": "32"}, findings=Findings())
    how = {value["name"]: value["how"] for value in answer["values"]}
    assert {name for name, one in how.items() if one == "read"} == {
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
    }
    assert {how[n] for n in ("sliding_window", "attn_logit_softcapping", "rope_theta")} == {"assumed"}


def test_a_query_scale_that_a_config_tells_is_kept(tmp_path: Path) -> None:
    wanted = save("gemma2", tmp_path / "src", query_pre_attn_scalar=144, sliding_window=64)
    (tmp_path / "src" / "config.json").write_text(json.dumps(wanted))
    answer = adopt(tmp_path / "src", tmp_path / "out", findings=Findings())
    assert (answer["config"]["query_pre_attn_scalar"], answer["config"]["sliding_window"]) == (144, 64)
    assert answer["config"]["layer_types"] == wanted["layer_types"]


SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_a_claimed_rotary_scaling_is_kept_and_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoConfig

    wanted = save("llama", tmp_path / "src")
    (tmp_path / "src" / "config.json").write_text(
        json.dumps({**wanted, "rope_parameters": None, "rope_theta": 5e5, "rope_scaling": SCALING})
    )
    adopt(tmp_path / "src", tmp_path / "out", findings=Findings())
    read = AutoConfig.from_pretrained(tmp_path / "out").rope_parameters
    assert (read["rope_type"], read["factor"], read["rope_theta"]) == ("llama3", 8.0, 5e5)


def test_a_mixed_file_of_text_and_vision_is_refused_by_its_tensors(tmp_path: Path) -> None:
    from lingraft.problems import Refusal

    save("llama", tmp_path / "src")
    weights = load_file(tmp_path / "src" / "model.safetensors")
    save_file({**weights, "visual.blocks.0.attn.qkv.weight": torch.zeros(6, 2)}, tmp_path / "vl.safetensors")
    with pytest.raises(Refusal) as refusal:
        adopt(tmp_path / "vl.safetensors", tmp_path / "out", settings={"head_dim": "16"}, findings=Findings())
    assert "visual.blocks.0.attn.qkv.weight" in str(refusal.value.problems[0].tensor)
    assert not (tmp_path / "out").exists()
