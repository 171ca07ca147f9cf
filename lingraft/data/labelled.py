"""Read texts with a class each: .csv and .tsv (with or without a header), .jsonl, .json and .parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.data.files import ROWS, Row, expand, kind, read_text, reject, rows
from lingraft.problems import Findings, refuse

_TEXT = ("text", "sentence", "title", "content")
_CLASS = ("label", "class", "category")


@dataclass(frozen=True)
class Labelled:
    """One text, the name of its class, and ``file:line`` of where it came from."""

    text: str
    label: str
    source: str


def labelled(paths: Sequence[Path | str], findings: Findings) -> list[Labelled]:
    """Read every labelled text below ``paths``.

    Errors: `not-found`, `unknown-format`, `unreadable`, `data-invalid` by file and line (left out where allowed).
    """
    found: list[Labelled] = []
    for path in expand(paths, (".csv", ".tsv", *ROWS)):
        bad: list[tuple[int, str]] = []
        total = 0
        for row in _table(path) if kind(path) in (".csv", ".tsv") else rows(path):
            total += 1
            pair = None if row.error else _pair(row.value)
            if pair is None:
                bad.append((row.line, row.error or "no text with a class in it"))
            else:
                found.append(Labelled(*pair, f"{path}:{row.line}"))
        reject(path, bad or ([] if total else [(1, "the file holds no rows")]), total, findings)
    findings.settle()
    if not found:
        refuse("data-invalid", f"{', '.join(map(str, paths))}: no labelled text in it", "name files that hold some")
    return found


def _table(path: Path) -> Iterator[Row]:
    """Yield rows as {"text", "label"}: by the header where there is one, else the longer column is the text."""
    tab = kind(path) == ".tsv"
    reader = csv.reader(io.StringIO(read_text(path)), delimiter="\t" if tab else ",",
                        quoting=csv.QUOTE_NONE if tab else csv.QUOTE_MINIMAL)  # fmt: skip
    listed: list[tuple[int, list[str]]] = []
    try:
        listed.extend((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        yield Row(reader.line_num, None, f"not {kind(path)[1:]}: {error}")
    if not listed:
        return
    head = [cell.strip().lower() for cell in listed[0][1]]
    at_text = next((head.index(n) for n in _TEXT if n in head), None)
    at_class = next((head.index(n) for n in _CLASS if n in head), None)
    if at_text is None or at_class is None:
        at_text, at_class = _guess([cells for _, cells in listed])
    else:
        listed = listed[1:]
    for line, cells in listed:
        if len(cells) <= max(at_text, at_class):
            yield Row(line, None, f"{len(cells)} columns instead of {len(head)}")
        else:
            yield Row(line, {"text": cells[at_text], "label": cells[at_class]})


def _guess(table: Sequence[Sequence[str]]) -> tuple[int, int]:
    widths = [sum(len(cells[i]) for cells in table if len(cells) > i) for i in range(2)]
    return (0, 1) if widths[0] >= widths[1] else (1, 0)


def _pair(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    text = next((value[n] for n in _TEXT if isinstance(value.get(n), str)), "")
    label = next((value[n] for n in _CLASS if isinstance(value.get(n), str | int)), None)
    if not text.strip() or label is None or not str(label).strip():
        return None
    return text.strip(), str(label).strip()
