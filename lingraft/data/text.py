"""Read plain text: .txt and .md files are one document each, .jsonl, .json and .parquet rows one a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.data.files import ROWS, TEXT, expand, kind, read_text, reject, rows
from lingraft.problems import Findings, refuse

_FIELDS = ("text", "content")


@dataclass(frozen=True)
class Document:
    """One text, and ``file:line`` of where it came from."""

    text: str
    source: str


def documents(paths: Sequence[Path | str], findings: Findings) -> list[Document]:
    """Read every document below ``paths``.

    Errors: `not-found`, `unknown-format`, `unreadable`, and `data-invalid` by file and line; rows are
    left out instead where ``findings`` allows it. A corpus without any text is refused all the same.
    """
    found = list(stream(paths, findings))
    findings.settle()
    if not found:
        refuse("data-invalid", f"{', '.join(map(str, paths))}: no text in it", "name files that hold text",
               str(paths[0]) if paths else None)  # fmt: skip
    return found


def stream(paths: Sequence[Path | str], findings: Findings) -> Iterator[Document]:
    """Yield the documents one by one, noting bad rows in ``findings`` as each file ends."""
    for path in expand(paths, TEXT + ROWS):
        if kind(path) in TEXT:
            text = read_text(path)
            if text.strip():
                yield Document(text, str(path))
            else:
                reject(path, [(1, "the file is empty")], 1, findings)
            continue
        bad: list[tuple[int, str]] = []
        total = 0
        for row in rows(path):
            total += 1
            text_or_none = _text(row.value)
            if row.error is None and text_or_none is not None and text_or_none.strip():
                yield Document(text_or_none, f"{path}:{row.line}")
            else:
                bad.append((row.line, row.error or _why(row.value)))
        reject(path, bad, total, findings)
        if not total:
            reject(path, [(1, "the file holds no rows")], 0, findings)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next((value[f] for f in _FIELDS if isinstance(value.get(f), str)), None)
    return None


def _why(value: Any) -> str:
    if isinstance(value, dict) and not any(f in value for f in _FIELDS):
        return f"no `text` among its keys ({', '.join(map(str, list(value)[:6]))})"
    return "its text is empty" if _text(value) is not None else "not text, and not an object with `text`"
