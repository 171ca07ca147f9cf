"""Texts are read from every published container, and bad rows are refused by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lingraft.data.text import documents
from lingraft.problems import Findings, Refusal


def test_text_files_folders_globs_and_gzip_are_read_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("\ufeff春天", encoding="utf-8")
    (tmp_path / "a.md").write_text("autumn", encoding="utf-8")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "冬"}) + "\n\n" + json.dumps("夏") + "\n")
    texts = [d.text for d in documents([tmp_path], Findings())]
    assert texts == ["autumn", "冬", "夏", "春天"]
    assert [d.text for d in documents([str(tmp_path / "sub" / "*.txt")], Findings())] == ["春天"]


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["一", "二"]}).to_parquet(str(tmp_path / "x.parquet"))
    assert [d.text for d in documents([tmp_path / "x.parquet"], Findings())] == ["一", "二"]


def test_bad_rows_are_refused_by_file_and_line_with_a_count(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "好"}\n{"txt": "x"}\n{broken\n{"text": ""}\n', encoding="utf-8")
    with pytest.raises(Refusal) as refused:
        documents([path], Findings())
    (problem,) = refused.value.problems
    assert problem.code == "data-invalid" and problem.path == f"{path}:2"
    assert problem.message.startswith("3 of 4 rows") and f"{path}:3" in problem.message


def test_bad_rows_are_left_out_where_allowed_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "好"}\nnull\n', encoding="utf-8")
    findings = Findings(allow=frozenset({"data-invalid"}))
    assert [d.source for d in documents([path], findings)] == [f"{path}:1"]
    assert findings.allowed[0].code == "data-invalid"


@pytest.mark.parametrize(
    ("name", "content"), [("e.txt", b"  \n"), ("e.jsonl", b""), ("g.txt", "中文".encode("gb18030"))]
)
def test_empty_and_wrongly_encoded_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal) as refused:
        documents([tmp_path / name], Findings())
    assert refused.value.problems[0].code == "data-invalid"


def test_a_path_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        documents([tmp_path / "none.txt"], Findings())
    assert refused.value.problems[0].code == "not-found"
