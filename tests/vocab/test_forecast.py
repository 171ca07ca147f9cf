"""The forecast before training, held against what growing really does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lingraft.cli import app
from lingraft.problems import Findings
from lingraft.vocab.run import extend

Base = Callable[..., Path]


def lingraft(*words: str | Path | int) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    return done.exit_code, json.loads(done.stdout) if done.exit_code < 2 else {}


@pytest.mark.parametrize("whole", [True, False])
def test_the_forecast_of_tokens_per_character_comes_true(
    make_base: Base, corpus: Path, tmp_path: Path, whole: bool
) -> None:
    base = make_base(whole=whole)
    code, told = lingraft("vocab", base, "--corpus", corpus, "--dry-run")
    assert code == 0 and [row["size"] for row in told["sizes"]] == sorted(row["size"] for row in told["sizes"])
    for row in told["sizes"][:2]:
        out = tmp_path / str(row["size"])
        grown = extend(base, out, corpus=[corpus], size=row["size"], init="mean", findings=Findings())
        assert grown["tokens_per_character"]["before"] == pytest.approx(told["tokens_per_character"])
        assert grown["tokens_per_character"]["after"] == pytest.approx(row["tokens_per_character"], rel=1e-6)


def test_auto_takes_the_size_that_the_forecast_names(make_base: Base, corpus: Path, tmp_path: Path) -> None:
    base = make_base()
    words = ("vocab", base, "--corpus", corpus, "--budget", 500)
    told, grown = lingraft(*words, "--dry-run")[1], lingraft(*words, "--init", "mean", "--out", tmp_path / "out")[1]
    assert told["auto"] == {"size": grown["new_pieces"], "why": grown["why"]}


def test_a_larger_vocabulary_needs_more_training_and_more_parameters(make_base: Base, corpus: Path) -> None:
    told = lingraft("vocab", make_base(tied=False), "--corpus", corpus, "--dry-run", "--size", 12)[1]["sizes"]
    assert {row["size"]: row["new_parameters"] for row in told}[12] == 12 * 2 * 32
    assert [row["tokens_needed"] for row in told] == sorted(row["tokens_needed"] for row in told)
    assert all(row["saved"] > 0 for row in told)


def test_a_forecast_without_a_corpus_is_wrong_usage(make_base: Base) -> None:
    assert lingraft("vocab", make_base(), "--dry-run")[0] == 2


def test_several_files_may_follow_one_option(make_base: Base, corpus: Path, tmp_path: Path) -> None:
    second = tmp_path / "more.txt"
    second.write_text("新的一句话。" * 50, encoding="utf-8")
    one, two = (lingraft("vocab", make_base(), "--corpus", corpus, *rest, "--dry-run")[1] for rest in ([], [second]))
    assert two["corpus_tokens"] > one["corpus_tokens"]
    assert lingraft("vocab", make_base(), corpus, "--dry-run")[0] == 2


@pytest.mark.parametrize(
    "words", [["--dry-run"], ["--out", "LARGER", "--size", 9], ["--out", "LARGER"], ["--measure", "TEXT"]]
)
def test_every_answer_of_vocab_is_whole_in_chinese(
    make_base: Base, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[Any]
) -> None:
    monkeypatch.setenv("LINGRAFT_LANG", "zh")
    given = [{"LARGER": tmp_path / "larger", "TEXT": corpus}.get(word, word) for word in words]
    learning = [] if "--measure" in words else ["--corpus", corpus]
    done = CliRunner().invoke(app, list(map(str, ["vocab", make_base(), *learning, *given])))
    assert done.exit_code == 0
    assert not re.findall(r"[a-z]{4,} [a-z]{2,}", done.output.replace(str(tmp_path), ""))  # no two words of English
