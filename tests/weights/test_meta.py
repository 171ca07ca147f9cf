"""Meta's shards: torch reads them, and Meta's own arithmetic on them gives transformers' logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from meta_reference import joined, logits
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from weights_judges import codes, same

from lingraft.problems import Refusal
from lingraft.weights import hf, meta, meta_names, meta_write
from lingraft.weights.tensors import Entry

SHARDS = [1, 2, 4, 8]


def written(model: Path, out: Path, shards: int) -> Path:
    out.mkdir(parents=True)
    meta_write.write(hf.read(model), out, shards)
    return out


@pytest.fixture
def llama3(tmp_path: Path) -> Path:
    """A tied Llama with rope theta 500,000 and scaled positions, whose embedding Meta cuts by rows."""
    torch.manual_seed(1)
    scaling = {**meta_names.LLAMA3_SCALING, "factor": 32.0}
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=67,
        tie_word_embeddings=True,
        rope_theta=500000.0,
        rope_scaling=scaling,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama3")
    return tmp_path / "llama3"


@pytest.mark.parametrize("shards", SHARDS)
def test_metas_arithmetic_on_shards_gives_transformers_logits(eight_heads: Path, tmp_path: Path, shards: int) -> None:
    folder = written(eight_heads, tmp_path / "meta", shards)
    params = json.loads((folder / "params.json").read_text())
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    theirs = AutoModelForCausalLM.from_pretrained(eight_heads, dtype=torch.float32)(ids[None]).logits[0]
    assert torch.allclose(logits(joined(folder, params["dim"]), params, ids), theirs, atol=1e-4)


@pytest.mark.parametrize("shards", SHARDS)
def test_a_round_trip_returns_every_tensor_bit_for_bit(eight_heads: Path, tmp_path: Path, shards: int) -> None:
    assert same(meta.read(written(eight_heads, tmp_path / "meta", shards)).tensors, hf.read(eight_heads).tensors)


def test_an_uneven_vocabulary_leaves_its_remainder_on_the_last_shard(eight_heads: Path, tmp_path: Path) -> None:
    folder = written(eight_heads, tmp_path / "meta", 8)
    rows = [torch.load(file, weights_only=True)["output.weight"].shape[0] for file in sorted(folder.glob("*.pth"))]
    assert rows == [32] * 7 + [35]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_llama_3_is_cut_by_rows_and_its_tie_and_scaling_come_back(llama3: Path, tmp_path: Path, shards: int) -> None:
    found = meta.read(written(llama3, tmp_path / "meta", shards))
    first = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    assert first["tok_embeddings.weight"].shape == (67 // shards, 32)
    assert same(found.tensors, hf.read(llama3).tensors) and found.config["tie_word_embeddings"]
    theirs = AutoModelForCausalLM.from_pretrained(llama3).config.rope_parameters
    assert LlamaConfig(**found.config).rope_parameters == theirs


def test_transformers_gives_the_same_logits_after_a_round_trip(eight_heads: Path, tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    hf.write(meta.read(written(eight_heads, tmp_path / "meta", 2)), tmp_path / "back")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    one, two = (AutoModelForCausalLM.from_pretrained(p)(ids).logits for p in (eight_heads, tmp_path / "back"))
    assert torch.equal(one, two)


def test_blocks_of_rows_across_shards_are_the_same_rows(eight_heads: Path, tmp_path: Path) -> None:
    found = meta.read(written(eight_heads, tmp_path / "meta", 4)).tensors
    for name in found:
        assert torch.equal(found.entries[name].read(1, 40), found[name][1:40]), name


def test_every_tensor_is_read_once_however_many_shards_are_written(eight_heads: Path, tmp_path: Path) -> None:
    checkpoint, reads = hf.read(eight_heads), list[tuple[str, int]]()
    for name, entry in checkpoint.tensors.entries.items():

        def read(start: int, stop: int | None, name: str = name, entry: Entry = entry) -> torch.Tensor:
            reads.append((name, start))
            return entry.read(start, stop)

        checkpoint.tensors.entries[name] = Entry(entry.dtype, entry.shape, read)
    (tmp_path / "meta").mkdir()
    meta_write.write(checkpoint, tmp_path / "meta", 8)
    assert len(reads) == len(set(reads)) == len(checkpoint.tensors)


def test_missing_shards_are_all_named(eight_heads: Path, tmp_path: Path) -> None:
    folder = written(eight_heads, tmp_path / "meta", 8)
    for number in (2, 6, 7):
        (folder / f"consolidated.{number:02d}.pth").unlink()
    with pytest.raises(Refusal, match=r"consolidated\.02\.pth"):
        meta.read(folder)
    shutil.copy(folder / "consolidated.00.pth", folder / "consolidated.02.pth")
    with pytest.raises(Refusal, match=r"consolidated\.06\.pth, consolidated\.07\.pth") as refusal:
        meta.read(folder)
    assert codes(refusal) == ["missing-shard"]


def test_a_truncated_shard_is_told(eight_heads: Path, tmp_path: Path) -> None:
    file = written(eight_heads, tmp_path / "meta", 2) / "consolidated.01.pth"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(Refusal) as refusal:
        meta.read(file.parent)
    assert codes(refusal) == ["truncated-file"] and "consolidated.01.pth" in str(refusal.value)


def test_a_shard_of_another_model_is_told(eight_heads: Path, tiny_untied: Path, tmp_path: Path) -> None:
    folder = written(eight_heads, tmp_path / "meta", 2)
    other = written(tiny_untied, tmp_path / "other", 2)
    shutil.copy(other / "consolidated.01.pth", folder / "consolidated.01.pth")
    with pytest.raises(Refusal) as refusal:
        meta.read(folder)
    assert codes(refusal) == ["corrupt-file"]


def test_heads_that_cannot_be_cut_are_refused(tiny_untied: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        written(tiny_untied, tmp_path / "meta", 4)  # 2 key/value heads
    assert codes(refusal) == ["config-mismatch"]


@pytest.mark.parametrize(
    ("dim", "width"),
    [
        (4096, 11008),
        (5120, 13824),
        (8192, 28672),
        (4096, 14336),
        (576, 1536),
        (64, 112),
        (2048, 5632),
        (768, 2048),
        (896, 4864),
        (33, 77),
    ],
)
def test_params_json_gives_the_feed_forward_width_again(dim: int, width: int) -> None:
    told = meta_names._feed_forward(dim, width)
    assert meta_names.feed_forward_width(dim, told["multiple_of"], told.get("ffn_dim_multiplier")) == width


def test_metas_tokenizer_reads_in_transformers_as_sentencepiece_does(
    eight_heads: Path, tmp_path: Path, test_data: Path
) -> None:
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    folder = written(eight_heads, tmp_path / "meta", 1)
    model = shutil.copy(test_data / "tokenizers" / "llama2.model", folder / "tokenizer.model")
    (tmp_path / "hf").mkdir()
    hf.write(meta.read(folder), tmp_path / "hf")
    judge, found = SentencePieceProcessor(model_file=str(model)), AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("hello world", "你好，世界", "a\nb"):
        assert found(text).input_ids == [judge.bos_id(), *judge.encode(text)]
