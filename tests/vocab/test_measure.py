"""Measuring tokenizers, judged by transformers and sentencepiece."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner
from vocab_texts import CHINESE, MIXED

from lingraft.cli import app
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
    assert [line.split()[0] for line in table(rows).splitlines()[1:]] == ["base", "larger"]
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


def lingraft(*words: str | Path) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    return done.exit_code, json.loads(done.stdout) if done.exit_code < 2 else {}


def test_the_command_measures_several_tokenizers_on_the_users_text(
    make_base: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    base, drawn = make_base(), tmp_path / "bars.svg"
    code, told = lingraft("vocab", base, "--measure", corpus, "--against", base / "tokenizer.json", "--picture", drawn)
    text = corpus.read_text(encoding="utf-8")
    tokens = len(AutoTokenizer.from_pretrained(base)(text).input_ids)
    assert code == 0 and told["characters"] == len(text) and told["picture"] == str(drawn)
    assert [(one["name"], one["tokens"]) for one in told["tokenizers"]] == [
        (str(base), tokens),
        (str(base / "tokenizer.json"), tokens),
    ]
    assert drawn.read_bytes().startswith(b"<?xml")


def test_growing_can_measure_before_and_after(make_base: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    base, out = make_base(), tmp_path / "larger"
    code, told = lingraft(
        "vocab", base, "--corpus", corpus, "--size", 20, "--init", "mean", "--out", out, "--measure", corpus
    )
    before, after = told["measured"]["tokenizers"]
    assert code == 0 and told["new_pieces"] == 20 and before["name"] == str(base) and after["name"] == str(out)
    assert after["tokens"] < before["tokens"] and after["size"] == before["size"] + 20


@pytest.mark.parametrize("words", [[], ["--against", "x"], ["--corpus", "x"], ["--out", "x"], ["--picture", "x.png"]])
def test_a_command_that_lacks_its_other_half_is_wrong_usage(make_base: Callable[..., Path], words: list[str]) -> None:
    assert lingraft("vocab", make_base(), *words)[0] == 2


def test_a_picture_of_another_kind_is_refused(make_base: Callable[..., Path], corpus: Path) -> None:
    code, told = lingraft("vocab", make_base(), "--measure", corpus, "--picture", "bars.bmp")
    assert code == 1 and told["problems"][0]["code"] == "unknown-format"


def test_an_empty_text_is_refused(make_base: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    code, told = lingraft("vocab", make_base(), "--measure", tmp_path / "empty.txt")
    assert code == 1 and told["problems"][0]["code"] == "data-invalid"
