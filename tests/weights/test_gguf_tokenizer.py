"""Tokenizers in GGUF: llama.cpp, transformers and SentencePiece must cut every text into the same tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import make_llama
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from weights_judges import LlamaCpp, codes

import lingraft
from lingraft.problems import Refusal
from lingraft.weights import gguf, gguf_pre, gguf_tokenizer_write, gguf_write, hf

TEXTS = [
    "Hello 2024 world's 12345 don't THE they'LL",
    "  leading and   many   spaces \n\n\t tabs\r\n",
    " ",
    "",
    "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。2024年3月",
    "naïve café ﬁne Ⅷ ½ ² x² _under_ a.b/c\\d",
    "MixedCaseWords HTTPServer iPhone's №5 😀👩‍👩‍👧 \u200b zero",
    "!!!???...  \n  x = [1,2,3]; // ok",
    "ไทย हिन्दी العربية Ελληνικά русский",
]
NAMES = [names[0] for _, names in gguf_pre.SPLITS]


def corpus() -> list[str]:
    folder = Path(lingraft.__file__).parent / "text"
    rows = [row for name in ("en.jsonl", "zh.jsonl") for row in (folder / name).read_text("utf-8").splitlines()[:150]]
    return [json.loads(row)["text"] for row in rows]


def byte_level(folder: Path, name: str) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that splits as ``name`` says, and save it over the folder's tokenizer."""
    model = {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": name in gguf_pre.WHOLE_WORDS}
    raw = Tokenizer.from_str(
        json.dumps(
            {
                "model": model,
                "pre_tokenizer": gguf_pre.pre_tokenizer(name),
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            }
        )
    )
    raw.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=1200,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>")
    fast.add_tokens(["<tool>"])
    fast.save_pretrained(folder)
    return fast


@pytest.mark.parametrize("name", NAMES)
def test_a_byte_level_tokenizer_cuts_alike_in_llama_cpp_and_back(
    name: str, tmp_path: Path, llama_cpp: type[LlamaCpp]
) -> None:
    fast = byte_level(make_llama(tmp_path / "m", rows=1208), name)
    gguf_write.write(hf.read(tmp_path / "m"), tmp_path / "m.gguf")
    (tmp_path / "back").mkdir()
    gguf.write_tokenizer(tmp_path / "m.gguf", tmp_path / "back")
    engine, back = llama_cpp(tmp_path / "m.gguf"), AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in [*TEXTS, "<|im_start|>user\nhi <tool>x<|im_end|>\n"]:
        assert engine.tokens(text) == fast(text).input_ids == back(text).input_ids, text


@pytest.mark.parametrize("model", ["llama2.model", "chinese-llama2.model"])
@pytest.mark.slow
def test_a_sentencepiece_tokenizer_cuts_alike_in_llama_cpp_and_back(
    model: str, test_data: Path, tmp_path: Path, llama_cpp: type[LlamaCpp]
) -> None:
    import sentencepiece

    file = test_data / "tokenizers" / model
    judge = sentencepiece.SentencePieceProcessor(str(file))
    folder = make_llama(tmp_path / "m", rows=judge.get_piece_size())
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(file, folder / "tokenizer.model")
    gguf_write.write(hf.read(folder), tmp_path / "m.gguf")
    (tmp_path / "back").mkdir()
    hf.write(gguf.read(tmp_path / "m.gguf"), tmp_path / "back")
    engine, back = llama_cpp(tmp_path / "m.gguf"), AutoTokenizer.from_pretrained(tmp_path / "back")
    again = sentencepiece.SentencePieceProcessor(str(tmp_path / "back" / "tokenizer.model"))
    for text in TEXTS:
        wanted = [1, *judge.encode(text)]
        assert wanted == engine.tokens(text) == back(text).input_ids == [1, *again.encode(text)], text


@pytest.mark.slow
def test_a_fast_tokenizer_without_its_sentencepiece_model_cuts_alike_in_llama_cpp(
    test_data: Path, tmp_path: Path, llama_cpp: type[LlamaCpp]
) -> None:
    from lingraft.weights.sentencepiece_json import tokenizer_json
    from lingraft.weights.sentencepieces import read_pieces

    folder = make_llama(tmp_path / "m", rows=32000)
    pieces, prefix = read_pieces((test_data / "tokenizers" / "llama2.model").read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(pieces, prefix, before=1)))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}')
    gguf_write.write(hf.read(folder), tmp_path / "m.gguf")
    engine, fast = llama_cpp(tmp_path / "m.gguf"), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert engine.tokens(text) == fast(text).input_ids, text


def test_template_and_special_tokens_come_back(tiny_llama: Path, tmp_path: Path) -> None:
    gguf_write.write(hf.read(tiny_llama), tmp_path / "m.gguf")
    (tmp_path / "back").mkdir()
    hf.write(gguf.read(tmp_path / "m.gguf"), tmp_path / "back")
    one, two = AutoTokenizer.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tmp_path / "back")
    assert (one.chat_template, one.bos_token, one.eos_token) == (two.chat_template, two.bos_token, two.eos_token)
    assert one.all_special_ids == two.all_special_ids and len(one) == len(two)


def test_llama_cpp_speaks_through_the_template(tiny_llama: Path, tmp_path: Path, llama_cpp: type[LlamaCpp]) -> None:
    gguf_write.write(hf.read(tiny_llama), tmp_path / "m.gguf")
    told = llama_cpp(tmp_path / "m.gguf").post("/apply-template", {"messages": [{"role": "user", "content": "hi"}]})
    assert told["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_more_tokens_than_rows_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        gguf_tokenizer_write.vocabulary(hf.read(tiny_llama).side_content(), 100)
    assert codes(refusal) == ["vocab-mismatch"]


def test_rows_without_tokens_become_unused_tokens_that_do_not_come_back(tiny_llama: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    import torch

    checkpoint = hf.read(tiny_llama)
    taller = {**checkpoint.tensors, "model.embed_tokens.weight": torch.randn(416, 32)}
    gguf_write.write(replace(checkpoint, tensors=taller), tmp_path / "m.gguf")
    (tmp_path / "back").mkdir()
    gguf.write_tokenizer(tmp_path / "m.gguf", tmp_path / "back")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "back")) == 400


def test_a_split_that_llama_cpp_has_no_name_for_is_refused(tiny_llama: Path) -> None:
    files = hf.read(tiny_llama).side_content()
    told = json.loads(files["tokenizer.json"])
    told["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(Refusal) as refusal:
        gguf_tokenizer_write.vocabulary({**files, "tokenizer.json": json.dumps(told).encode()}, 400)
    assert codes(refusal) == ["unknown-format"]
