"""What a path is, and what is wrong with it: real artefacts of transformers, peft and torch, whole and damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_parts import edit_json, edit_weights, look, problems
from safetensors.torch import load_file, save_file
from tiny_models import make_llama, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9000000000\n".format("0" * 64)


@pytest.fixture
def model(tiny_untied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_untied, tmp_path / "model"))


@pytest.fixture
def sharded(tiny_untied: Path, tmp_path: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(tiny_untied).save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    return tmp_path / "sharded"


def test_a_whole_model_is_described_as_transformers_sees_it(tiny_untied: Path) -> None:
    answer, findings = look(tiny_untied)
    live = AutoModelForCausalLM.from_pretrained(tiny_untied)
    assert not findings.problems and not findings.warnings
    assert answer["kind"] == "hf-model" and answer["architecture"] == "LlamaForCausalLM"
    assert answer["parameters"] == live.num_parameters()
    assert answer["tensors"] == len(load_file(tiny_untied / "model.safetensors"))
    assert answer["tokenizer_size"] == len(AutoTokenizer.from_pretrained(tiny_untied))
    assert (answer["tied"], answer["vocab_size"], answer["use"]) == (False, 400, str(tiny_untied))
    assert answer["bytes"] == sum(f.stat().st_size for f in tiny_untied.rglob("*") if f.is_file())


def test_a_tied_head_is_counted_once(tiny_llama: Path) -> None:
    answer, _ = look(tiny_llama)
    assert answer["tied"] is True
    assert answer["parameters"] == AutoModelForCausalLM.from_pretrained(tiny_llama).num_parameters()


def test_a_gpt2_fits_its_config(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    answer, findings = look(tmp_path)
    assert (answer["kind"], answer["tied"], findings.problems) == ("hf-model", True, [])


def test_an_old_bin_is_read_without_torch(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    answer, findings = look(model)
    assert answer["tensors"] == 21 and answer["dtypes"] == {"F32": answer["parameters"]} and not findings.problems


def test_the_fingerprint_is_that_of_the_weights(tiny_untied: Path, sharded: Path) -> None:
    assert look(tiny_untied, True)[0]["fingerprint"] == look(sharded, True)[0]["fingerprint"] is not None


# Damage


def test_a_truncated_shard_tells_its_missing_bytes(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    size = shard.stat().st_size
    os.truncate(shard, size - 1000)
    [problem] = look(sharded)[1].problems
    assert problem.code == "truncated-file" and "1,000 are missing" in problem.message and problem.path == str(shard)


@pytest.mark.parametrize("legacy", (False, True))
def test_a_truncated_bin_tells_its_missing_bytes(legacy: bool, model: Path) -> None:
    torch.save(
        load_file(model / "model.safetensors"), model / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy
    )
    (model / "model.safetensors").unlink()
    os.truncate(model / "pytorch_model.bin", 50_000)
    [problem] = look(model)[1].problems
    assert problem.code == "truncated-file" and "are missing" in problem.message


@pytest.mark.parametrize("name", ("model.safetensors", "pytorch_model.bin", "tokenizer.json", "tokenizer.model"))
def test_a_git_lfs_pointer_is_told(name: str, model: Path) -> None:
    if name == "pytorch_model.bin":
        (model / "model.safetensors").unlink()
    (model / name).write_text(POINTER)
    [problem] = look(model)[1].problems
    assert problem.code == "lfs-pointer" and problem.path == str(model / name)


def test_a_gguf_pointer_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text(POINTER)
    answer, findings = look(tmp_path / "model.gguf")
    assert answer["kind"] == "gguf" and [p.code for p in findings.problems] == ["lfs-pointer"]
    assert "9,000,000,000" in findings.problems[0].message


def test_every_missing_shard_is_named(sharded: Path) -> None:
    lost = sorted(sharded.glob("*.safetensors"))[1:3]
    for shard in lost:
        shard.unlink()
    [problem] = look(sharded)[1].problems
    assert problem.code == "missing-shard" and all(shard.name in problem.message for shard in lost)


def test_missing_shards_are_told_without_an_index_too(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    sorted(sharded.glob("*.safetensors"))[-1].unlink()
    assert problems(sharded) == ["missing-shard"]


def test_an_index_that_names_what_no_shard_holds_is_corrupt(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[0]
    lost = next(iter(load_file(shard)))
    edit_weights(shard, **{lost.replace(".", "__"): None, "other__weight": torch.ones(1)})
    assert "corrupt-file" in problems(sharded)
    assert lost in next(p.message for p in look(sharded)[1].problems if p.code == "corrupt-file")


def test_a_wrong_total_size_is_a_warning(sharded: Path) -> None:
    edit_json(sharded / "model.safetensors.index.json", metadata={"total_size": 12})
    _, findings = look(sharded)
    assert (findings.problems, [w.code for w in findings.warnings]) == ([], ["corrupt-file"])


@pytest.mark.parametrize("name", ("config.json", "tokenizer.json", "model.safetensors.index.json"))
def test_corrupt_json_is_named(name: str, sharded: Path) -> None:
    (sharded / name).write_text('{"half":')
    assert str(sharded / name) in {p.path for p in look(sharded)[1].problems if p.code == "corrupt-file"}


def test_a_pickle_with_code_in_it_is_refused_and_never_run(model: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    (model / "model.safetensors").unlink()
    torch.save({"w": torch.ones(2), "e": Evil()}, model / "pytorch_model.bin")
    [problem] = [p for p in look(model)[1].problems if p.code == "unsafe-pickle"]
    assert "system" in problem.message and not (tmp_path / "ran").exists()


def test_garbage_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    answer, findings = look(tmp_path)
    assert answer["kind"] == "unknown" and [p.code for p in findings.problems] == ["unknown-format"]


# Does it fit together?


@pytest.mark.parametrize(
    "field",
    (
        {"hidden_size": 48},
        {"num_hidden_layers": 3},
        {"intermediate_size": 96},
        {"num_key_value_heads": 4},
        {"head_dim": 16},
    ),
    ids=str,
)
def test_a_config_that_the_shapes_contradict_is_told(field: dict[str, int], model: Path) -> None:
    edit_json(model / "config.json", **field)
    found = problems(model)
    assert found and set(found) == {"config-mismatch"}


def test_an_edited_vocab_size_is_told(model: Path) -> None:
    edit_json(model / "config.json", vocab_size=401)
    assert set(problems(model)) == {"vocab-mismatch"}


def test_a_lost_matrix_is_told(model: Path) -> None:
    edit_weights(model / "model.safetensors", model__layers__1__mlp__up_proj__weight=None)
    assert problems(model) == ["config-mismatch"]


def test_a_tokenizer_larger_than_the_rows_is_a_problem(model: Path) -> None:
    make_tokenizer(model, size=420)
    [problem] = look(model)[1].problems
    assert problem.code == "tokenizer-mismatch" and "420" in problem.message and "400" in problem.message


def test_a_tokenizer_within_the_padding_is_fine(tmp_path: Path) -> None:
    base = make_llama(tmp_path, rows=448)
    _, findings = look(base)
    assert not findings.problems and not findings.warnings


def test_a_much_smaller_tokenizer_is_a_warning(tmp_path: Path) -> None:
    _, findings = look(make_llama(tmp_path, rows=2000))
    assert (findings.problems, [w.code for w in findings.warnings]) == ([], ["tokenizer-mismatch"])


def test_an_untied_config_without_a_head_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "m")
    edit_json(model / "config.json", tie_word_embeddings=False)
    assert problems(model) == ["config-mismatch"]


# Other containers


def test_the_llama2_tokenizer_is_counted(test_data: Path) -> None:
    answer, _ = look(test_data / "tokenizers" / "llama2.model")
    assert (answer["kind"], answer["tokenizer_size"]) == ("tokenizer", 32000)


def test_stories260k_is_known_by_its_header(test_data: Path) -> None:
    answer, findings = look(test_data / "models" / "stories260K.bin")
    assert (answer["kind"], answer["parameters"], answer["tied"]) == ("llama2c", 260032, True)
    assert not findings.problems


def test_a_cut_llama2c_file_tells_its_missing_bytes(test_data: Path, tmp_path: Path) -> None:
    whole = (test_data / "models" / "stories260K.bin").read_bytes()
    (tmp_path / "s.bin").write_bytes(whole[:1_000_000])
    [problem] = look(tmp_path / "s.bin")[1].problems
    assert problem.code == "truncated-file" and "40,156 are" in problem.message


def test_metas_shards_are_counted_and_missing_ones_named(tiny_untied: Path, tmp_path: Path) -> None:
    from lingraft.problems import Findings
    from lingraft.weights.convert import convert

    convert(tiny_untied, tmp_path / "meta", to="meta", shards=2, findings=Findings())
    answer, findings = look(tmp_path / "meta")
    assert answer["kind"] == "meta-checkpoint" and not findings.problems
    assert answer["parameters"] == look(tiny_untied)[0]["parameters"]
    (tmp_path / "meta" / "consolidated.01.pth").unlink()
    assert problems(tmp_path / "meta") == ["missing-shard"]


def test_a_gguf_is_counted_with_its_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    from lingraft.problems import Findings
    from lingraft.weights.convert import convert

    convert(tiny_llama, tmp_path / "m.gguf", to="gguf", findings=Findings())
    answer, findings = look(tmp_path / "m.gguf")
    assert (answer["kind"], answer["tokenizer_size"], answer["tied"]) == ("gguf", 400, True)
    assert not findings.problems
    os.truncate(tmp_path / "m.gguf", (tmp_path / "m.gguf").stat().st_size - 64)
    assert problems(tmp_path / "m.gguf") == ["truncated-file"]


def test_a_bare_state_dict_is_told_from_a_model(tiny_untied: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_untied / "model.safetensors", tmp_path / "weights.safetensors")
    answer, _ = look(tmp_path / "weights.safetensors")
    assert (answer["kind"], answer["vocab_size"]) == ("state-dict", 400)


def test_looking_does_not_import_torch(tiny_untied: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; from lingraft.weights.inspect import inspect;"
        f"from lingraft.problems import Findings; inspect(Path({str(tiny_untied)!r}), False, Findings());"
        f"sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_25_gigabytes_take_less_than_a_second(tmp_path: Path) -> None:
    import struct

    width, rows, each = 8192, 16384, 93
    listing = {
        f"model.layers.{i}.x.weight": {
            "dtype": "BF16",
            "shape": [rows, width],
            "data_offsets": [i * rows * width * 2, (i + 1) * rows * width * 2],
        }
        for i in range(each)
    }
    raw = json.dumps(listing).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + each * rows * width * 2)  # sparse: the disk holds only the header
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    started = time.process_time()
    answer, _ = look(tmp_path)
    assert answer["bytes"] > 24.9e9 and time.process_time() - started < 0.5
