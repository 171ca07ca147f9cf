"""Conversations are read in every published shape; what answers nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lingraft.data.conversations import conversations, shape
from lingraft.problems import Findings, Refusal

ALPACA = {"instruction": "翻译", "input": "hello", "output": "你好"}
SHAPES: dict[str, Any] = {
    "alpaca": ALPACA,
    "messages": {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]},
    "firefly": {"conversation": [{"human": "问", "assistant": "答"}, {"human": "又问", "assistant": "又答"}]},
    "prompt-completion": {"prompt": "问", "completion": "答"},
}


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    assert shape(SHAPES[name]) == name
    (found,) = conversations([_write(tmp_path / "c.jsonl", [SHAPES[name]])], Findings())
    assert [m.role for m in found.messages[:2]] == ["user", "assistant"]


def test_alpacas_input_follows_its_instruction(tmp_path: Path) -> None:
    (found,) = conversations([_write(tmp_path / "c.jsonl", [ALPACA])], Findings())
    assert found.messages[0].content == "翻译\nhello"


def test_a_json_list_names_the_line_each_row_begins_on(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([ALPACA, ALPACA], ensure_ascii=False, indent=2), encoding="utf-8")
    assert [c.source for c in conversations([path], Findings())] == [f"{path}:2", f"{path}:7"]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": ""},
        {"instruction": "q", "output": None},
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]},
        {"conversation": []},
        {"conversations": [{"from": "alien", "value": "x"}]},
        {"prompt": 3, "completion": "x"},
        ["not", "an", "object"],
    ],
)
def test_what_answers_nothing_is_refused_by_line(tmp_path: Path, row: Any) -> None:
    path = _write(tmp_path / "c.jsonl", [ALPACA, row])
    with pytest.raises(Refusal) as refused:
        conversations([path], Findings())
    assert refused.value.problems[0].code == "data-invalid"
    assert refused.value.problems[0].path == f"{path}:2"


def test_a_list_cut_short_is_refused_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([ALPACA, ALPACA], indent=1)[:-20], encoding="utf-8")
    with pytest.raises(Refusal) as refused:
        conversations([path], Findings())
    assert "1 of 2 rows" in refused.value.problems[0].message


def test_the_published_sets_are_read_whole(test_data: Path) -> None:
    folder = test_data / "instructions"
    assert len(conversations([folder / "alpaca-zh-1k.json"], Findings())) == 1000
    assert len(conversations([folder / "multiturn-zh-33.jsonl"], Findings())) == 33
