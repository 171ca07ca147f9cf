"""Cut at seams, a text has the tokens that it has whole, whatever the tokenizer does with newlines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lingraft.data import seams
from lingraft.data.prepare import pack_items
from lingraft.data.text import Document
from lingraft.data.tokens import encoder, of_documents

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = "".join(
    f"第{i}回　春风{i * 7919 % 1000}里，\n“他说：好。”\n\n  The river, no. {i},\r\nis wide.\n" for i in range(400)
)
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def _byte_level(split: Any) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)]
    )
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=ALPHABET)
    raw.train_from_iterator([TEXT], trainer)
    return raw


def _llama() -> Tokenizer:
    """As Llama-2's: a space before every text, no pre-tokenisation, newlines by byte fallback."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    raw.train_from_iterator(TEXT.split("\n"), trainer)
    return raw


def _unigram() -> Tokenizer:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(
        [TEXT],
        trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", show_progress=False, special_tokens=["<unk>"]),
    )
    return raw


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: _byte_level([]),
    "llama": _llama,
    "unigram": _unigram,
    "qwen": lambda: _byte_level([pre_tokenizers.Split(Regex(QWEN), "isolated")]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_parts_laid_end_to_end_have_the_tokens_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "_CHUNK", 500)
    raw = MAKERS[name]()
    cutter = seams.Cutter(lambda texts: [e.ids for e in raw.encode_batch(list(texts), add_special_tokens=False)])
    parts = list(cutter.cut(TEXT[at : at + 3000] for at in range(0, len(TEXT), 3000)))
    assert [i for ids in cutter.tokens(parts) for i in ids] == raw.encode(TEXT, add_special_tokens=False).ids
    assert len(parts) > 10 or name == "unigram"


def test_a_document_in_blocks_has_the_pieces_of_one_in_a_single_block(tokenizer: Any) -> None:
    blocks = [Document(TEXT[at : at + 9000], "a", more=at + 9000 < len(TEXT)) for at in range(0, len(TEXT), 9000)]
    one, several = (list(of_documents(found, tokenizer, 100)) for found in ([Document(TEXT, "a")], blocks))
    assert [p.ids.tolist() for p in one] == [p.ids.tolist() for p in several]


def test_a_text_without_any_newline_is_cut_all_the_same(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "_WAIT", 2000)
    cutter = seams.Cutter(encoder(tokenizer))
    assert len(list(cutter.cut("春天来了" * 200 for _ in range(10)))) > 2


def test_a_truncation_inside_tokenizer_json_cuts_nothing(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    raw.enable_truncation(16)
    raw.enable_padding()
    raw.save(str(tmp_path / "tokenizer.json"))
    other = AutoTokenizer.from_pretrained(tmp_path)
    document = Document("春天来了。" * 50, "a")
    assert pack_items([document], other, 64).stats["tokens"] == pack_items([document], tokenizer, 64).stats["tokens"]
