"""Read texts with a class each: .csv and .tsv (with or without a header), .jsonl, .json and .parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lingraft.data.files import ROWS, TABLES, Rejected, Source, Undecodable, expand, explained, kind, opened_text
from lingraft.data.hub import Hub
from lingraft.data.rows import Row, rows
from lingraft.data.text import require_some
from lingraft.problems import Findings
from lingraft.progress import say

_LOOK = 100  # rows that decide which column of a table without a header is the text
_TEXT = ("text", "sentence", "title", "content", "review", "comment", "文本", "内容", "句子", "标题", "评论")
_CLASS = ("label", "class", "category", "labels", "标签", "类别", "分类")
_WIDEST = 2**31 - 1  # characters of a cell


@dataclass(frozen=True)
class Labelled:
    """One text, the name of its class, and ``file:line`` of where it came from."""

    text: str
    label: str
    source: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what cleaning mends."""
        return (self.text,)

    @property
    def whole(self) -> bool:
        """Tell whether there is anything to learn."""
        return bool(self.text.strip())

    def saying(self, texts: Sequence[str]) -> Labelled:
        """Return it with another text, of the same class."""
        return replace(self, text=texts[0])


def labelled(paths: Sequence[Path | str], findings: Findings) -> list[Labelled]:
    """Read every labelled text below ``paths``.

    Errors: `not-found`, `unknown-format`, `unreadable`, `data-invalid` by file and line (left out where allowed).
    """
    found: list[Labelled] = []
    for source in expand(paths, (*TABLES, *ROWS)):
        rejected = Rejected(source)
        total, before = 0, len(found)
        names = _class_names(source)
        for row in _table(source) if isinstance(source, Path) and kind(source) in TABLES else rows(source):
            total += 1
            pair = None if row.error else _pair(row.value, names)
            if pair is None:
                rejected.add(row.line, row.error or "no text with a class in it")
            else:
                found.append(Labelled(*pair, f"{source}:{row.line}"))
        if len(found) > before:
            say(f"{source}: {len(found) - before:,} labelled texts")
        rejected.tell(total, findings)
    findings.settle()
    require_some(bool(found), paths, "no labelled text in it")
    return found


def _table(path: Path) -> Iterator[Row]:
    """Yield rows as {"text", "label"}: by the header where there is one, else the longer column is the text."""
    csv.field_size_limit(_WIDEST)
    try:
        with explained(path), opened_text(path) as file:
            first = file.readline()
        with explained(path), opened_text(path, newline="") as file:
            delimiter = _delimiter(first, kind(path))
            tab = delimiter == "\t"
            reader = csv.reader(
                file,
                delimiter=delimiter,
                strict=not tab,
                quoting=csv.QUOTE_NONE if tab else csv.QUOTE_MINIMAL,
            )
            yield from _cells(reader)
    except Undecodable as error:
        yield Row(error.line, None, str(error))
    except csv.Error as error:
        yield Row(reader.line_num, None, f"not {kind(path)[1:]} from here on ({error})")


def _delimiter(first: str, suffix: str) -> str:
    """Return what parts the columns: the suffix says so, unless a header has its names by another mark.

    Excel writes semicolons where a comma is the decimal point.
    """
    usual = "\t" if suffix == ".tsv" else ","
    return next((mark for mark in (usual, ";", "\t", ",") if _header(first.split(mark)) is not None), usual)


def _header(cells: Sequence[str]) -> tuple[int, int] | None:
    """Return the columns of text and class where a row names both."""
    head = [cell.strip().strip('"').lower() for cell in cells]
    at_text = next((head.index(n) for n in _TEXT if n in head), None)
    at_class = next((head.index(n) for n in _CLASS if n in head), None)
    return None if at_text is None or at_class is None else (at_text, at_class)


def _cells(reader: Any) -> Iterator[Row]:
    listed = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    first = list(islice(listed, _LOOK))
    if not first:
        return
    head = first[0][1]
    named = _header(head)
    if named is None and len(head) != 2:
        what = ", ".join(cell[:20] for cell in head[:6])
        yield Row(first[0][0], None, f"no columns called text and label among its {len(head)} ({what})")
        return
    at_text, at_class = named or _guess([cells for _, cells in first])
    for line, cells in chain(first if named is None else first[1:], listed):
        if len(cells) <= max(at_text, at_class):
            yield Row(line, None, f"{len(cells)} columns instead of {len(head)}")
        elif "\0" in cells[at_text]:
            yield Row(line, None, "a NUL byte: the file is damaged, or not text")
        else:
            yield Row(line, {"text": cells[at_text], "label": cells[at_class]})


def _class_names(source: Source) -> list[str]:
    """Return the names behind the class numbers of a Hub data set."""
    if not isinstance(source, Hub):
        return []
    feature = next((source.table.features[n] for n in _CLASS if n in source.table.features), None)
    return list(getattr(feature, "names", None) or [])


def _guess(table: Sequence[Sequence[str]]) -> tuple[int, int]:
    widths = [sum(len(cells[i]) for cells in table if len(cells) > i) for i in range(2)]
    return (0, 1) if widths[0] >= widths[1] else (1, 0)


def _pair(value: Any, names: Sequence[str]) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    text = next((value[n] for n in _TEXT if isinstance(value.get(n), str)), "")
    label = next((value[n] for n in _CLASS if isinstance(value.get(n), str | int | float)), None)
    if not text.strip() or label is None or not str(label).strip():
        return None
    if isinstance(label, float):
        if not label.is_integer():
            return None
        label = int(label)
    if isinstance(label, int) and 0 <= label < len(names):
        label = names[label]
    return text.strip(), str(label).strip()
