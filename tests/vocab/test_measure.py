"""Measuring tokenizers, judged by transformers and sentencepiece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from vocab_texts import CHINESE, MIXED

from lingraft.problems import Findings, Refusal
from lingraft.vocab.measure import measure, picture, table
from lingraft.vocab.run import extend


def test_tokens_and_characters_are_those_of_transformers(make_base: Callable[..., Path]) -> None:
    base = make_base()
    tokens = sum(len(AutoTokenizer.from_pretrained(base)(text).input_ids) for text in CHINESE)
    found = measure(base, CHINESE)
    assert found.tokens == tokens and found.characters == sum(map(len, CHINESE))
    assert found.tokens_per_character == pytest.approx(1 / found.characters_per_token)


def test_only_parts_of_characters_count_as_byte_tokens(make_base: Callable[..., Path]) -> None:
    base = make_base()
    assert measure(base, ["The river runs"]).byte_share == 0
    broken = [t for t in AutoTokenizer.from_pretrained(base).batch_decode([[i] for i in _ids(base)]) if "\ufffd" in t]
    assert measure(base, [MIXED]).byte_share == pytest.approx(len(broken) / len(_ids(base)))


def _ids(base: Path) -> list[int]:
    return list(AutoTokenizer.from_pretrained(base)(MIXED).input_ids)


def test_before_and_after_stand_in_one_table_and_one_picture(
    make_base: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    base = make_base()
    extend(base, tmp_path / "larger", corpus=[corpus], size=20, init="mean", findings=Findings())
    rows = [measure(path, CHINESE) for path in (base, tmp_path / "larger")]
    assert rows[1].tokens_per_character < rows[0].tokens_per_character and rows[1].byte_share < rows[0].byte_share
    assert [line.split("|")[1].strip() for line in table(rows).splitlines()[2:]] == ["base", "larger"]
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        picture(rows, tmp_path / f"bars.{ending}")
        assert (tmp_path / f"bars.{ending}").read_bytes().startswith(start)


def test_the_llama2_model_spells_rare_chinese_in_bytes(test_data: Path) -> None:
    folder = test_data / "tokenizers"
    llama, chinese = (measure(folder / f"{name}.model", ["饕餮龘"]) for name in ("llama2", "chinese-llama2"))
    assert llama.tokens == 10 and llama.byte_share == 0.9 and chinese.byte_share < 0.9


def test_a_path_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        measure(tmp_path, CHINESE)
    assert caught.value.problems[0].code == "unknown-format"
