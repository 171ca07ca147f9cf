"""SentencePiece tokenizers: both files grow and agree; judged by sentencepiece, transformers and golden facts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb2
from transformers import AutoTokenizer
from vocab_bases import model_beside
from vocab_texts import CHINESE, ENGLISH, MIXED, WITHOUT_HAN

from lingraft.problems import Findings
from lingraft.vocab.han import has_han
from lingraft.vocab.run import extend

Unite = Callable[..., Path]


def save_base(folder: Path, model: Path) -> Path:
    folder.mkdir()
    shutil.copyfile(model, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "legacy": False,
                "add_bos_token": True,
                "add_eos_token": False,
            }
        ),
        encoding="utf-8",
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    model_beside(folder, pieces)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A base with a SentencePiece BPE of 400 pieces and byte fallback, trained on English and a little Chinese."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*ENGLISH * 3, CHINESE[0][:12]]),
        model_prefix=str(tmp_path / "small"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        minloglevel=2,
    )
    return save_base(tmp_path / "base", tmp_path / "small.model")


def proto(folder: Path) -> pb2.ModelProto:
    return pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())


def agreeing(folder: Path, texts: list[str]) -> list[str]:
    """Return the texts that the .model file and tokenizer.json encode alike."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = AutoTokenizer.from_pretrained(folder)
    return [text for text in texts if model.encode(text) == fast(text, add_special_tokens=False).input_ids]


def test_learned_pieces_stand_in_both_files_and_they_agree(small: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = extend(small, out, corpus=[corpus], size=40, init="mean", findings=Findings())
    lines = [line for text in [*CHINESE, MIXED] for line in text.split("，")]
    assert set(agreeing(out, lines)) >= set(agreeing(small, lines)) and answer["new_pieces"] == 40
    assert len(AutoTokenizer.from_pretrained(out)) == len(proto(out).pieces) == answer["new_size"]
    assert answer["tokens_per_character"]["after"] < 0.8 * answer["tokens_per_character"]["before"]


def test_old_pieces_keep_ids_and_scores_and_new_scores_fall(small: Path, corpus: Path, tmp_path: Path) -> None:
    extend(small, tmp_path / "out", corpus=[corpus], size=40, init="mean", findings=Findings())
    old, new = proto(small).pieces, proto(tmp_path / "out").pieces
    assert list(new[: len(old)]) == list(old)
    scores = [min(piece.score for piece in old), *(piece.score for piece in new[len(old) :])]
    assert all(later < earlier for earlier, later in pairwise(scores))


def test_text_without_han_is_encoded_as_before_in_both_files(small: Path, corpus: Path, tmp_path: Path) -> None:
    extend(small, tmp_path / "out", corpus=[corpus], size=40, init="mean", findings=Findings())
    for load in (AutoTokenizer.from_pretrained, _model):
        old, new = load(small), load(tmp_path / "out")
        assert [new.encode(text) for text in WITHOUT_HAN] == [old.encode(text) for text in WITHOUT_HAN]


def _model(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_unknown_characters_still_fall_back_to_bytes(small: Path, corpus: Path, tmp_path: Path) -> None:
    extend(small, tmp_path / "out", corpus=[corpus], size=40, init="mean", findings=Findings())
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert new.decode(new("龘𠀀🙂", add_special_tokens=False).input_ids) == "龘𠀀🙂"


@pytest.fixture
def unite(test_data: Path, tmp_path: Path) -> Unite:
    """Unite the genuine Llama-2 tokenizer with the Chinese model of 20,000 pieces."""

    def run(all_pieces: bool) -> Path:
        base = save_base(tmp_path / "llama2", test_data / "tokenizers" / "llama2.model")
        extend(
            base,
            tmp_path / "united",
            unite=test_data / "tokenizers" / "chinese-sp-20k.model",
            all_pieces=all_pieces,
            init="mean",
            findings=Findings(),
        )
        return tmp_path / "united"

    return run


def test_llama2_and_the_whole_chinese_model_have_49953_pieces(unite: Unite, test_data: Path) -> None:
    out = unite(all_pieces=True)
    old = pb2.ModelProto.FromString((test_data / "tokenizers" / "llama2.model").read_bytes())
    assert len(proto(out).pieces) == 49_953
    assert list(proto(out).pieces[:32_000]) == list(old.pieces)
    model = _model(out)
    assert len(model.encode("人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。")) == 16
    english = (test_data / "english" / "wiki-30.txt").read_text(encoding="utf-8")
    assert len(model.encode(english)) < len(_model(out.parent / "llama2").encode(english))  # a whole union changes it


def test_a_union_leaves_english_alone_and_both_files_agree(unite: Unite, test_data: Path) -> None:
    out = unite(all_pieces=False)
    base = out.parent / "llama2"
    taken = [piece.piece for piece in proto(out).pieces[32_000:]]
    assert len(taken) == 17_141 and all(map(has_han, taken))
    english = (test_data / "english" / "wiki-30.txt").read_text(encoding="utf-8")
    assert _model(out).encode(english) == _model(base).encode(english)
    novel = (test_data / "corpus" / "novel-laocan.txt").read_text(encoding="utf-8")[:400_000]
    lines = [line for line in [*novel.split("\n"), *english.split("\n")] if line]
    agreed = agreeing(base, lines)
    assert len(agreed) > 0.5 * len(lines) and agreeing(out, agreed) == agreed


def test_a_tokenizer_model_alone_is_read_as_sentencepiece_reads_it(small: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (small / name).unlink(missing_ok=True)
    extend(small, tmp_path / "out", corpus=[corpus], size=20, init="pieces", findings=Findings())
    texts = [*MIXED.splitlines(), *ENGLISH]
    assert agreeing(tmp_path / "out", texts) == texts
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("hello").input_ids[0] == proto(small).trainer_spec.bos_id


def test_a_united_piece_of_characters_that_are_none_is_left_out_for_the_two_libraries_differ_on_it(
    small: Path, tmp_path: Path
) -> None:
    other = pb2.ModelProto.FromString((small / "tokenizer.model").read_bytes())
    for text in ("龘靐", "齉", "齉齉"):
        other.pieces.add(piece=text, score=-1.0, type=1)
    (tmp_path / "other.model").write_bytes(other.SerializeToString())
    told = extend(small, tmp_path / "out", unite=tmp_path / "other.model", init="mean", findings=Findings())
    assert told["new_pieces"] == 2 and "1 hold a character" in told["why"]
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("龘靐齉齉齉", "一龘靐"):
        assert new(text, add_special_tokens=False).input_ids == _model(tmp_path / "out").encode(text)
