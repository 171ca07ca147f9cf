"""Damaged, mixed and strangely encoded files: each has its code, and is named by file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lingraft.data.conversations import conversations
from lingraft.data.labelled import labelled
from lingraft.data.preferences import preferences
from lingraft.data.text import documents, stream
from lingraft.problems import Findings, Refusal

GOOD = json.dumps({"text": "好"}, ensure_ascii=False)
TALK = {"instruction": "问", "output": "答"}


def _write(path: Path, rows: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def _refusal(read: Callable[..., Any], path: Path) -> Any:
    with pytest.raises(Refusal) as refused:
        read([path], Findings())
    (problem,) = refused.value.problems
    return problem


@pytest.mark.parametrize(
    ("name", "content", "code", "where"),
    [
        ("utf16.txt", "春天\n".encode("utf-16"), "data-invalid", ":1"),
        ("utf16.jsonl", (GOOD + "\n").encode("utf-16"), "data-invalid", ":1"),
        ("gb.txt", "line one\n春天".encode("gb18030"), "data-invalid", ":2"),
        ("gb.jsonl", GOOD.encode() + b"\n" + GOOD.encode("gb18030"), "data-invalid", ":2"),
        ("nul.txt", "春天\n夏\0天\n".encode(), "data-invalid", ":2"),
        ("nul.jsonl", (GOOD + "\n" + "\0" * 20 + "\n").encode(), "data-invalid", ":2"),
        ("cut.jsonl", (GOOD + "\n" + GOOD[:-3]).encode(), "data-invalid", ":2"),
        ("deep.jsonl", b"[" * 100_000 + b"]" * 100_000, "data-invalid", ":1"),
        ("pointer.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "lfs-pointer", ""),
        ("not.parquet", b"hello, this is no parquet file", "unreadable", ""),
        ("cut.parquet", b"PAR1" + b"\x15\x04" * 50, "truncated-file", ""),
        ("cut.txt.gz", gzip.compress("春天来了。\n".encode() * 9999)[:-40], "truncated-file", ""),
        ("not.jsonl.gz", b"plain", "corrupt-file", ""),
    ],
)
def test_damage_is_refused_by_its_code_and_place(
    tmp_path: Path, name: str, content: bytes, code: str, where: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    problem = _refusal(documents, path)
    assert problem.code == code and problem.path == f"{path}{where}"
    assert problem.message.count("\n") == 0 and name in problem.message and problem.remedy


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n" + GOOD.encode() + b"\r\n"),
        ("list.jsonl", f"\n[\n{GOOD},\n{GOOD}]".encode()),
        ("lines.json", f"{GOOD}\n{GOOD}\n".encode()),
        ("oneline.json", f"[{GOOD}, {GOOD}]".encode()),
        ("bom.json", b"\xef\xbb\xbf[" + GOOD.encode() + b"," + GOOD.encode() + b"]"),
        ("pretty.json", (json.dumps({"text": "好"}, indent=2) + "\n" + json.dumps({"text": "好"}, indent=2)).encode()),
    ],
)
def test_what_is_in_a_file_decides_how_it_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [d.text for d in documents([tmp_path / name], Findings())] == ["好", "好"]


def test_a_byte_order_mark_goes_and_crlf_becomes_lf(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "一\r\n二\r\n".encode())
    assert [d.text for d in documents([tmp_path], Findings())] == ["一\n二\n"]


def test_a_file_larger_than_a_block_comes_whole_in_blocks(tmp_path: Path) -> None:
    text = "春天来了。" * 100 + "\n"
    (tmp_path / "a.txt").write_text(text * 5000, encoding="utf-8")
    (tmp_path / "b.txt").write_text("春" * 2_500_000, encoding="utf-8")  # one huge line
    blocks = list(stream([tmp_path], Findings()))
    for name, whole in (("a.txt", text * 5000), ("b.txt", "春" * 2_500_000)):
        mine = [b for b in blocks if b.source.endswith(name)]
        assert "".join(b.text for b in mine) == whole and [b.more for b in mine] == [True] * (len(mine) - 1) + [False]


def test_a_long_list_is_read_a_value_at_a_time(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " + "文" * (i % 7000)} for i in range(300)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    found = documents([tmp_path / "a.json"], Findings())
    assert [d.text for d in found] == [r["text"] for r in rows]
    assert [int(d.source.rpartition(":")[2]) for d in found] == [2 + 3 * i for i in range(300)]


def test_mixed_shapes_are_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        TALK,
        {"prompt": "问", "completion": "答"},
        {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]},
        TALK,
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    assert len(conversations([tmp_path], Findings())) == 4
    assert "2 alpaca, 1 prompt-completion, 1 messages" in capsys.readouterr().err


def test_every_bad_row_is_counted_and_the_first_five_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("\n".join([json.dumps(TALK)] + ["{}"] * 9), encoding="utf-8")
    message = _refusal(conversations, tmp_path / "m.jsonl").message
    assert message.startswith("9 of 10 rows") and "m.jsonl:6" in message and "m.jsonl:7" not in message
    assert "and 4 more" in message


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "问", "chosen": "好", "rejected": "坏"},
        {
            "prompt": [{"role": "user", "content": "问"}],
            "chosen": [{"role": "assistant", "content": "好"}],
            "rejected": [{"role": "assistant", "content": "坏"}],
        },
        {
            "chosen": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "好"}],
            "rejected": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "坏"}],
        },
        {
            "conversations": [{"from": "human", "value": "问"}],
            "chosen": {"from": "gpt", "value": "好"},
            "rejected": {"from": "gpt", "value": "坏"},
        },
        {"instruction": "问", "input": "", "chosen": "好", "rejected": "坏", "system": ""},
    ],
)
def test_preferences_are_read_in_every_shape(tmp_path: Path, row: Any) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (found,) = preferences([tmp_path / "p.jsonl"], Findings())
    assert ([m.content for m in found.prompt], found.chosen, found.rejected) == (["问"], "好", "坏")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'label,text\n体育,"他赢了，\n又赢了"\n财经,涨了\n'),
        ("b.csv", '"他赢了，\n又赢了",体育\n涨了,财经\n'),
        ("c.tsv", "他赢了，又赢了\t体育\n\n涨了\t财经\n"),
        ("d.jsonl", '{"text": "他赢了，又赢了", "label": "体育"}\n{"sentence": "涨了", "category": "财经"}\n'),
    ],
)
def test_labelled_texts_are_read_from_every_container(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = labelled([tmp_path / name], Findings())
    assert [(i.text.replace("\n", ""), i.label) for i in found] == [("他赢了，又赢了", "体育"), ("涨了", "财经")]


def test_a_table_cut_inside_a_quote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n好,1\n"坏', encoding="utf-8")
    assert _refusal(labelled, tmp_path / "a.csv").path == f"{tmp_path / 'a.csv'}:3"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.csv", "text;label\n一二,三;A\n四;B\n"),
        ("tab.csv", "label\ttext\nA\t一二,三\nB\t四\n"),
        ("more.csv", 'id,评论,标签\n1,"一二,三",A\n2,四,B\n'),
        ("comma.tsv", 'text,label\n"一二,三",A\n四,B\n'),
    ],
)
def test_a_header_says_which_columns_are_meant_and_what_parts_them(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert [(i.text, i.label) for i in labelled([tmp_path / name], Findings())] == [("一二,三", "A"), ("四", "B")]


def test_three_columns_without_known_names_are_refused_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,body,score\n1,一二三,A\n", encoding="utf-8")
    with pytest.raises(Refusal, match="no columns called text and label"):
        labelled([tmp_path / "x.csv"], Findings())


def test_whole_numbers_written_as_floats_are_classes(tmp_path: Path) -> None:
    _write(tmp_path / "x.jsonl", [{"text": "一", "label": 1.0}, {"text": "二", "label": 0}])
    assert [i.label for i in labelled([tmp_path / "x.jsonl"], Findings())] == ["1", "0"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_half_a_character_is_refused_by_line(tmp_path: Path, name: str) -> None:
    rows = ['{"text": "好 \\ud83d\\ude00"}', '{"text": "坏 \\ud83d"}']
    (tmp_path / name).write_text("\n".join(rows) if name == "x.jsonl" else f"[{rows[0]},\n{rows[1]}]", encoding="utf-8")
    with pytest.raises(Refusal, match=f"1 of 2 rows .*{name}:2: half a character"):
        documents([tmp_path / name], Findings())


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "response": "a"},
        {"kind": "QA", "input": "q", "target": "a"},
        {"messages": [{"role": "User", "content": "q"}, {"role": "ASSISTANT", "content": "a"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "a"},
            ]
        },
    ],
)
def test_questions_and_answers_are_read_under_their_usual_names(tmp_path: Path, row: Any) -> None:
    _write(tmp_path / "x.jsonl", [row])
    ((asked, said),) = [c.messages for c in conversations([tmp_path / "x.jsonl"], Findings())]
    assert (asked.role, asked.content, said.role, said.content) == ("user", "q", "assistant", "a")


@pytest.mark.parametrize("given", [5, [{"type": "image_url", "image_url": "x"}]])
def test_an_input_that_is_no_text_is_refused_not_left_out(tmp_path: Path, given: Any) -> None:
    _write(tmp_path / "x.jsonl", [{"instruction": "q", "input": given, "output": "a"}])
    with pytest.raises(Refusal, match="`input` is not text"):
        conversations([tmp_path / "x.jsonl"], Findings())
