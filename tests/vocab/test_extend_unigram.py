"""Unigram tokenizers: trained and read by the tokenizers library and by sentencepiece, which go on agreeing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vocab_bases import model_beside
from vocab_texts import CHINESE, ENGLISH, MIXED, WITHOUT_HAN

from lingraft.problems import Findings
from lingraft.vocab.run import extend


@pytest.fixture
def fast_only(tmp_path: Path) -> Path:
    """A base with tokenizer.json alone, special tokens behind the vocabulary, and rare characters unknown to it."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    made.train_from_iterator([*ENGLISH * 4, CHINESE[0][:20]], trainer)
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    folder = tmp_path / "base"
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    model_beside(folder, made.get_vocab_size())
    return folder


@pytest.fixture
def with_model(tmp_path: Path) -> Path:
    """A base whose tokenizer.model is of type unigram with byte fallback, and the tokenizer.json of the same."""
    folder = tmp_path / "base"
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*ENGLISH * 3, CHINESE[0][:12]]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        model_type="unigram",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    fast = Tokenizer(models.Unigram(pieces, model.unk_id(), byte_fallback=True))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>").save_pretrained(folder)
    model_beside(folder, len(pieces))
    return folder


def grown(base: Path, corpus: Path) -> Path:
    out = base.parent / "larger"
    answer = extend(base, out, corpus=[corpus], size=30, init="pieces", findings=Findings())
    assert answer["new_pieces"] == 30 and answer["new_size"] == len(AutoTokenizer.from_pretrained(out))
    return out


@pytest.mark.parametrize("kind", ["fast_only", "with_model"])
def test_old_ids_and_text_without_han_stay(kind: str, request: pytest.FixtureRequest, corpus: Path) -> None:
    base = request.getfixturevalue(kind)
    old, new = (AutoTokenizer.from_pretrained(path) for path in (base, grown(base, corpus)))
    assert {token: new.get_vocab()[token] for token in old.get_vocab()} == old.get_vocab()
    assert [new(text).input_ids for text in WITHOUT_HAN] == [old(text).input_ids for text in WITHOUT_HAN]
    vocab = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert (
        json.loads((base.parent / "larger" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"][
            : len(vocab)
        ]
        == vocab
    )


@pytest.mark.parametrize("kind", ["fast_only", "with_model"])
def test_new_pieces_are_taken(kind: str, request: pytest.FixtureRequest, corpus: Path) -> None:
    base = request.getfixturevalue(kind)
    old, new = (AutoTokenizer.from_pretrained(path) for path in (base, grown(base, corpus)))
    used = {i for text in CHINESE for i in new(text).input_ids if i >= len(old)}
    assert len(used) > 20
    text = "".join(CHINESE)  # fewer tokens where the base spells it in bytes, fewer lost characters where it cannot
    before, after = (tok.decode(tok(text, add_special_tokens=False).input_ids) for tok in (old, new))
    if kind == "with_model":
        assert before == after == text and len(new(text).input_ids) < 0.8 * len(old(text).input_ids)
    else:
        assert sum(char not in after for char in text) < sum(char not in before for char in text)


def test_both_files_of_a_unigram_base_agree(with_model: Path, corpus: Path) -> None:
    out = grown(with_model, corpus)
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    fast = AutoTokenizer.from_pretrained(out)
    texts = [part for text in [*CHINESE, MIXED.replace(" ", "")] for part in text.split("，")]
    assert [model.encode(text) for text in texts] == [fast(t, add_special_tokens=False).input_ids for t in texts]
