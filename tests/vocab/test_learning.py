"""Learning pieces: words, merges, the sample and the budget."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from lingraft.problems import Findings, Refusal
from lingraft.vocab import learn_words
from lingraft.vocab.budget import FEW, NEEDED, choose
from lingraft.vocab.corpus import sample
from lingraft.vocab.han import has_han, is_han, is_piece
from lingraft.vocab.learn_words import Word


def words_of(runs: dict[str, int], size: int = 10) -> list[str]:
    return [word.text for word in learn_words.learn(runs, lambda texts: [3 * len(text) for text in texts], size)]


def test_words_come_before_characters_and_parts_of_words_do_not_come() -> None:
    filler = dict.fromkeys("的一是了人在大这", 4000)
    found = words_of({"越来越": 30, "没有": 25, "没什": 1, **filler}, size=3)
    assert found[:2] == ["越来越", "没有"] and "越来" not in found


def test_two_frequent_characters_that_happen_to_meet_are_no_word() -> None:
    draw = random.Random(0)
    runs = Counter("".join(draw.choices("的一是了人有大这", k=6)) for _ in range(2000))
    assert all(len(text) == 1 for text in words_of(runs))


def test_a_count_is_what_longest_matching_uses() -> None:
    runs = {"中国人民": 12, "人民": 9, "中国": 7, **dict.fromkeys("的一是了", 5000)}
    counts = {word.text: word.count for word in learn_words.learn(runs, lambda t: [3 * len(x) for x in t], 3)}
    assert counts == {"中国人民": 12, "人民": 9, "中国": 7}


def test_more_budget_pays_for_more_pieces() -> None:
    pieces = [Word(f"词{i}", 200 - i, 4) for i in range(200)]
    sizes = [choose(pieces, 10_000, budget)[1].size for budget in (0, 1_000, 5_000, 10_000)]
    assert sizes == sorted(sizes) and sizes[0] == FEW and sizes[-1] > sizes[1]


@pytest.mark.parametrize("budget", [1, 4_000, 5_000])
def test_a_slower_machine_does_not_change_a_small_choice(budget: int) -> None:
    pieces = [Word(f"词{i}", 100 - i, 4) for i in range(90)]
    assert [piece.text for piece in choose(pieces, 10_000, budget)[0]] == [f"词{i}" for i in range(FEW)]


def test_each_further_piece_is_met_often_enough_and_the_reason_says_so() -> None:
    pieces = [Word(f"词{i}", 2_000 - i, 4) for i in range(150)] + [Word(f"少{i}", 5, 4) for i in range(200)]
    kept, choice = choose(pieces, 10_000, 1_000)
    assert len(kept) == choice.size == 150 and min(piece.count for piece in kept) * 0.1 >= NEEDED
    assert f"{choice.size} new pieces" in choice.why and "would need about" in choice.why


def test_a_character_needs_more_training_than_a_word() -> None:
    words = [Word(f"可以{i}", 90, 4) for i in range(FEW + 1)]
    kept, _ = choose([*words, Word("看", 90, 3)], 1_000, 1_000)
    assert [piece.text for piece in kept] == [word.text for word in words]


def test_a_large_corpus_is_sampled_evenly_and_reproducibly(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_text("".join(f'{{"text": "第{i}篇文章"}}\n' for i in range(4000)), encoding="utf-8")
    first, again = (sample([path], Findings(), limit=2000, seed=7) for _ in range(2))
    assert first == again and first.characters > 20_000 and sum(map(len, first.texts)) <= 2000
    numbers = [int(text[1:-3]) for text in first.texts]
    assert 1500 < sum(numbers) / len(numbers) < 2500 and first.share == pytest.approx(len(numbers) / 4000, rel=0.5)


def test_a_text_file_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "gb.txt"
    path.write_bytes("第一行\n".encode() + "第二行\n".encode("gb18030"))
    with pytest.raises(Refusal) as caught:
        sample([path], Findings())
    assert caught.value.problems[0].code == "data-invalid"


def test_a_piece_holds_han_and_chinese_punctuation_only() -> None:
    assert is_piece("，我们") and not any(map(is_piece, ("，。", "T恤", "カ", "")))
    assert is_han("𠀀㐀々") and has_han("abc中") and not has_han("䷀、カ한")
