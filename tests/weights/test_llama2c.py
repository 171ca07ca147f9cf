"""llama2.c files: the published stories260K is the judge, byte for byte and by the story it tells."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from weights_judges import codes, same

from lingraft.problems import Findings, Refusal
from lingraft.weights import formats, hf, llama2c, llama2c_tokenizer, llama2c_write
from lingraft.weights.convert import convert


@pytest.fixture
def stories(test_data: Path) -> Path:
    return test_data / "models" / "stories260K.bin"


@pytest.fixture
def as_hf(stories: Path, tmp_path: Path) -> Path:
    convert(stories, tmp_path / "hf", "hf", Findings())
    return tmp_path / "hf"


def test_the_published_model_tells_a_story_in_transformers(as_hf: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(as_hf), AutoTokenizer.from_pretrained(as_hf)
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    assert ids[0].tolist() == [1, 403, 407, 261, 378]
    story = tokenizer.decode(model.generate(ids, max_new_tokens=40, do_sample=False)[0])
    assert "there was a little girl named Lily. She loved to play outside" in story


def test_the_published_models_perplexity_on_its_own_kind_of_text_is_low(as_hf: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(as_hf), AutoTokenizer.from_pretrained(as_hf)
    ids = tokenizer("Once upon a time, there was a little girl named Lily.", return_tensors="pt").input_ids
    assert torch.exp(model(ids, labels=ids).loss) < 1.4


def test_writing_the_published_model_gives_its_very_bytes(stories: Path, tmp_path: Path) -> None:
    llama2c_write.write(llama2c.read(stories), tmp_path / "again.bin", 0)
    assert (tmp_path / "again.bin").read_bytes() == stories.read_bytes()


def test_the_tokenizer_goes_both_ways_byte_for_byte(stories: Path) -> None:
    theirs = stories.with_name("stories260K.tok512.bin")
    files = llama2c_tokenizer.tokenizer_files(theirs, 512)
    assert llama2c_tokenizer.tokenizer_bytes(files["tokenizer.model"]) == theirs.read_bytes()


def test_sentencepiece_encodes_alike_with_the_model_made_from_the_file(stories: Path, tmp_path: Path) -> None:
    import sentencepiece

    made = llama2c_tokenizer.tokenizer_files(stories.with_name("stories260K.tok512.bin"), 512)["tokenizer.model"]
    ours = sentencepiece.SentencePieceProcessor(model_proto=made)
    theirs = sentencepiece.SentencePieceProcessor(str(stories.with_name("stories260K.tok512.rebuilt.model")))
    for text in ("Once upon a time", "  Lily's dog – 你好!\n", "naïve"):
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("version", [0, 1])
def test_an_fp32_model_comes_back_bit_for_bit(tiny_untied: Path, tmp_path: Path, version: int) -> None:
    llama2c_write.write(hf.read(tiny_untied), tmp_path / "m.bin", version)
    assert same(formats.open_checkpoint(tmp_path / "m.bin").tensors, hf.read(tiny_untied).tensors)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_transformers_gives_the_same_logits_after_a_round_trip(tiny_llama: Path, tmp_path: Path, version: int) -> None:
    llama2c_write.write(hf.read(tiny_llama), tmp_path / "m.bin", version)
    (tmp_path / "hf").mkdir()
    hf.write(llama2c.read(tmp_path / "m.bin"), tmp_path / "hf")
    ids = torch.tensor([[5, 6, 7, 8]])
    one, two = (AutoModelForCausalLM.from_pretrained(p, rms_norm_eps=1e-6) for p in (tiny_llama, tmp_path / "hf"))
    assert torch.allclose(one(ids).logits, two(ids).logits, atol=0.02 if version == 2 else 0)


def test_v2_holds_int8_groups_and_their_scales_as_run_c_reads_them(tiny_llama: Path, tmp_path: Path) -> None:
    llama2c_write.write(hf.read(tiny_llama), tmp_path / "m.bin", 2)
    raw = (tmp_path / "m.bin").read_bytes()
    magic, version, dim, _, layers, _, _, vocab, _, tied, group = struct.unpack_from("<Ii7iBi", raw)
    assert (magic, version, bool(tied)) == (0x616B3432, 2, True)
    at = 256 + 4 * (2 * layers + 1) * dim  # the fp32 norms come first, then the embedding
    values = np.frombuffer(raw, np.int8, vocab * dim, at).reshape(-1, group)
    scales = np.frombuffer(raw, np.float32, vocab * dim // group, at + vocab * dim)
    embedding = hf.read(tiny_llama).tensors["model.embed_tokens.weight"].numpy().reshape(-1, group)
    assert np.abs(values * scales[:, None] - embedding).max() <= scales.max() / 2 * 1.001


def test_a_quantised_file_is_read_the_same_in_blocks_of_rows(tiny_llama: Path, tmp_path: Path) -> None:
    llama2c_write.write(hf.read(tiny_llama), tmp_path / "m.bin", 2)
    found = llama2c.read(tmp_path / "m.bin").tensors
    for name in found:
        assert torch.equal(found.entries[name].read(3, 11), found[name][3:11]), name


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_truncated_file_is_told_with_its_missing_tensor(tiny_untied: Path, tmp_path: Path, version: int) -> None:
    llama2c_write.write(hf.read(tiny_untied), tmp_path / "m.bin", version)
    raw = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(raw[: len(raw) - 2000])
    with pytest.raises(Refusal, match=r"lm_head\.weight") as refusal:
        formats.open_checkpoint(tmp_path / "m.bin")
    assert codes(refusal) == ["truncated-file"]


def test_a_rotary_base_that_run_c_does_not_know_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    checkpoint = hf.read(tiny_llama)
    changed = {k: v for k, v in checkpoint.config.items() if k != "rope_parameters"} | {"rope_theta": 500000.0}
    with pytest.raises(Refusal) as refusal:
        llama2c_write.write(replace(checkpoint, config=changed), tmp_path / "m.bin")
    assert codes(refusal) == ["config-mismatch"]


def test_a_text_or_a_pickle_is_no_llama2c_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("once upon a time " * 100)
    torch.save({"a": torch.ones(9)}, tmp_path / "b.bin")
    assert not llama2c.knows(tmp_path / "a.bin") and not llama2c.knows(tmp_path / "b.bin")
