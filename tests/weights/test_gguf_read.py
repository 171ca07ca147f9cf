"""Reading GGUF: the gguf package judges values of every type, transformers the real model, llama.cpp the meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from weights_judges import codes, same

from lingraft.problems import Refusal
from lingraft.weights import formats, gguf, gguf_header, gguf_rope, gguf_write, hf

TYPES = [*sorted(kind.name for kind in quants._type_traits), "F32", "F16"]


def file_of(path: Path, kind: GGMLQuantizationType, raw: np.ndarray, shape: tuple[int, int]) -> Path:
    """Write one embedding of raw blocks, and the least that a llama needs to be told."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(0)
    writer.add_embedding_length(shape[1])
    writer.add_head_count(2)
    writer.add_tensor("token_embd.weight", raw, raw_shape=raw.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", TYPES)
def test_every_type_comes_out_as_the_gguf_package_dequantises_it(tmp_path: Path, name: str) -> None:
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 120, (6, 512 // block * size), dtype=np.uint8)
    found = gguf.read(file_of(tmp_path / "m.gguf", kind, raw, (6, 512))).tensors["model.embed_tokens.weight"]
    assert found.shape == (6, 512)
    assert np.array_equal(found.float().numpy(), quants.dequantize(raw, kind).reshape(6, 512), equal_nan=True)


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_XXS", "Q8_0", "BF16"])
def test_a_block_of_rows_is_the_same_block(tmp_path: Path, name: str) -> None:
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 120, (9, 256 // block * size), dtype=np.uint8)
    found = gguf.read(file_of(tmp_path / "m.gguf", kind, raw, (9, 256))).tensors
    entry = found.entries["model.embed_tokens.weight"]
    assert torch.equal(entry.read(2, 7), found["model.embed_tokens.weight"][2:7])


def test_our_header_is_the_gguf_packages(tiny_llama: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    gguf_write.write(hf.read(tiny_llama), tmp_path / "m.gguf")
    ours, theirs = gguf_header.read_header(tmp_path / "m.gguf"), GGUFReader(tmp_path / "m.gguf")
    assert ours.metadata == {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert {n: (i.begin, i.nbytes) for n, i in ours.tensors.items()} == {
        t.name: (t.data_offset, t.n_bytes) for t in theirs.tensors
    }


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.05, 0.001])
def test_a_truncated_file_is_told_as_one(tiny_llama: Path, tmp_path: Path, kept: float) -> None:
    gguf_write.write(hf.read(tiny_llama), tmp_path / "m.gguf")
    raw = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(Refusal) as refusal:
        gguf.read(tmp_path / "m.gguf")
    assert codes(refusal) == ["truncated-file"]


def test_a_pointer_and_a_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "n.gguf").write_text("hello " * 20)
    for file, code in (("m.gguf", "lfs-pointer"), ("n.gguf", "corrupt-file")):
        with pytest.raises(Refusal) as refusal:
            gguf_header.read_header(tmp_path / file)
        assert codes(refusal) == [code]


@pytest.mark.parametrize("seed", range(12))
def test_a_header_with_noise_in_it_never_ends_in_a_traceback(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    gguf_write.write(hf.read(tiny_llama), tmp_path / "m.gguf")
    raw = bytearray((tmp_path / "m.gguf").read_bytes())
    noise = np.random.default_rng(seed)
    for place in noise.integers(4, 8000, 12):
        raw[place] = noise.integers(0, 256)
    (tmp_path / "m.gguf").write_bytes(raw)
    try:
        formats.open_checkpoint(tmp_path / "m.gguf")
    except Refusal:
        return


def test_an_architecture_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "rwkv6")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Refusal, match="rwkv6") as refusal:
        gguf.read(tmp_path / "m.gguf")
    assert codes(refusal) == ["unknown-format"]


@pytest.mark.parametrize(("factor", "original", "width"), [(8.0, 8192, 128), (32.0, 8192, 64), (4.0, 4096, 64)])
def test_llama_3s_scaling_is_found_again_in_its_factors(factor: float, original: int, width: int) -> None:
    told = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    assert gguf_rope.llama3_scaling(gguf_rope.llama3_factors(500000.0, width, told), 500000.0) == told


@pytest.mark.slow
def test_the_published_smollm2_answers_paris_in_transformers(smollm2: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf.write(gguf.read(smollm2), tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


@pytest.mark.slow
def test_the_published_smollm2_is_read_as_transformers_reads_it(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name).state_dict()
    ours = gguf.read(smollm2).tensors
    assert set(ours) == set(theirs) - {"lm_head.weight"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def split(tiny_untied: Path, tmp_path: Path) -> Path:
    """A folder with one model in three parts, as the gguf package's own writer splits it."""
    gguf_write.write(hf.read(tiny_untied), tmp_path / "whole.gguf")
    whole = gguf_header.read_header(tmp_path / "whole.gguf")
    (tmp_path / "split").mkdir()
    writer = GGUFWriter(tmp_path / "split" / "m.gguf", "llama", split_max_tensors=8)
    for key, value in whole.metadata.items():
        if key.startswith("llama.") and not isinstance(value, list):
            writer.add_float32(key, value) if isinstance(value, float) else writer.add_uint32(key, value)
    for name, info in whole.tensors.items():
        raw = np.frombuffer(whole.mapped, np.float32, info.nbytes // 4, info.begin).reshape(info.shape)
        writer.add_tensor(name, raw.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "split"


def test_a_split_model_is_read_by_its_folder_and_by_any_part(split: Path, tiny_untied: Path) -> None:
    parts = sorted(split.glob("*.gguf"))
    assert len(parts) == 3
    for path in (split, parts[0]):
        assert same(formats.open_checkpoint(path).tensors, hf.read(tiny_untied).tensors)


def test_missing_parts_are_all_named(split: Path) -> None:
    for part in sorted(split.glob("*.gguf"))[1:]:
        part.unlink()
    with pytest.raises(Refusal, match=r"m-00002-of-00003\.gguf, m-00003-of-00003\.gguf") as refusal:
        formats.open_checkpoint(split)
    assert codes(refusal) == ["missing-shard"]
