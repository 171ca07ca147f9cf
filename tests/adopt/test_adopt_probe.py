"""The weights decide: real trained models whose config is gone, or plausibly wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lingraft.adopt.run import adopt
from lingraft.problems import Findings


def value(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one entry of the report."""
    return next(item for item in answer["values"] if item["name"] == name)


@pytest.fixture(scope="module")
def stories(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K as a Hugging Face directory: a real Llama of 260,000 parameters."""
    from lingraft.weights import hf, llama2c

    folder = tmp_path_factory.mktemp("stories") / "hf"
    folder.mkdir()
    hf.write(llama2c.read(test_data / "models" / "stories260K.bin"), folder)
    return folder


def copy(source: Path, folder: Path, **wrong: Any) -> Path:
    """Copy a model with some fields of its config changed; without any, with no config at all."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    if wrong:
        (folder / "config.json").write_text(json.dumps({**config, **wrong}))
    return folder


def test_every_field_of_a_real_model_comes_back_from_its_weights(stories: Path, tmp_path: Path) -> None:
    answer = adopt(copy(stories, tmp_path / "bare"), tmp_path / "out", findings=Findings())
    wanted = json.loads((stories / "config.json").read_text())
    assert {k: answer["config"][k] for k in wanted if k != "architectures"} == {
        k: wanted[k] for k in wanted if k != "architectures"
    }
    assert {value(answer, name)["how"] for name in ("head_dim", "rope_theta", "hidden_act")} == {"probed"}
    assert answer["missing"] == []


@pytest.mark.parametrize("wrong", [{"num_attention_heads": 4, "num_key_value_heads": 2}, {"rope_theta": 500000.0}])
def test_a_plausible_wrong_config_is_found_out(stories: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    findings = Findings()
    answer = adopt(copy(stories, tmp_path / "wrong", **wrong), tmp_path / "out", findings=findings)
    assert answer["config"]["num_attention_heads"] == 8 and answer["config"]["rope_theta"] == 10000.0
    (name, claimed) = next(iter(wrong.items()))
    asked = {"num_attention_heads": ("head_dim", 16)}.get(name, (name, claimed))
    lost = next(c for c in answer["candidates"] if (c["name"], c["value"]) == asked)
    assert lost["loses_clearly"] and lost["margin"] > 0.01
    assert any(w.code == "config-mismatch" and asked[0] in w.message for w in findings.warnings)


def test_llama2c_tokens_make_a_tokenizer_that_reads_as_published(
    stories: Path, test_data: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    bare = tmp_path / "w.safetensors"
    shutil.copy(stories / "model.safetensors", bare)
    adopt(bare, tmp_path / "out", tokenizer=test_data / "models" / "stories260K.tok512.bin", findings=Findings())
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("Once upon a time")["input_ids"]
    assert ids == [1, 403, 407, 261, 378]


@pytest.mark.slow
def test_smollm2_comes_back_and_says_paris(tmp_path: Path, real_model: Path) -> None:
    import torch

    from lingraft.models import load

    answer = adopt(copy(real_model, tmp_path / "src"), tmp_path / "out", findings=Findings())
    wanted = json.loads((real_model / "config.json").read_text())
    assert {k: answer["config"].get(k) for k in wanted} == wanted
    ours, published = (load_file(path / "model.safetensors") for path in (tmp_path / "out", real_model))
    assert ours.keys() == published.keys() and all(torch.equal(ours[name], published[name]) for name in ours)
    others = {(c["name"], c["value"]): c for c in answer["candidates"]}
    assert all(others["rope_theta", usual]["loses_clearly"] for usual in (10000.0, 500000.0))
    model, tokenizer = load(tmp_path / "out", dtype=torch.float32)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = tokenizer.decode(model.generate(**asked, max_new_tokens=12, do_sample=False)[0])
    assert "The capital of France is Paris." in said
