"""Read plain text: .txt and .md files are one document each, .jsonl, .json and .parquet rows one a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from lingraft.data.files import ROWS, TEXT, Rejected, Undecodable, expand, explained, first_bad_line, kind, opened_text
from lingraft.data.rows import rows
from lingraft.problems import Findings, refuse

_FIELDS = ("text", "content")
_BLOCK = 1 << 20  # characters of a text file that are held at once
_ENDS = ("\n", "。", ". ", " ")


@dataclass(frozen=True)
class Document:
    """One text, and ``file:line`` of where it came from; ``more`` where a further block of the same text follows."""

    text: str
    source: str
    more: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what cleaning mends."""
        return (self.text,)

    @property
    def whole(self) -> bool:
        """Tell whether there is anything to learn."""
        return bool(self.text.strip())

    def saying(self, texts: Sequence[str]) -> Document:
        """Return it with another text."""
        return replace(self, text=texts[0])


def documents(paths: Sequence[Path | str], findings: Findings) -> list[Document]:
    """Read every document below ``paths`` into memory.

    Errors: `not-found`, `unknown-format`, `unreadable`, and `data-invalid` by file and line; rows are
    left out instead where ``findings`` allows it. A corpus without any text is refused all the same.
    """
    found = list(stream(paths, findings))
    findings.settle()
    require_some(bool(found), paths, "no text in it")
    return found


def require_some(some: bool, paths: Sequence[Path | str], why: str) -> None:
    """Refuse (`data-invalid`) data of which nothing is left."""
    if not some:
        refuse(
            "data-invalid",
            f"{', '.join(map(str, paths))}: {why}",
            "name files that hold some",
            str(paths[0]) if paths else None,
        )


def stream(paths: Sequence[Path | str], findings: Findings) -> Iterator[Document]:
    """Yield the documents one by one, noting bad rows in ``findings`` as each file ends.

    A text file of more than a million characters comes in several blocks.
    """
    for source in expand(paths, TEXT + ROWS):
        rejected = Rejected(source)
        total = 0
        if isinstance(source, Path) and kind(source) in TEXT:
            total = 1
            try:
                yield from _file(source)
            except Undecodable as error:
                rejected.add(error.line, str(error))
        else:
            for row in rows(source):
                total += 1
                text = _text(row.value)
                if row.error is None and text is not None and text.strip():
                    yield Document(text, f"{source}:{row.line}")
                else:
                    rejected.add(row.line, row.error or _why(row.value))
        rejected.tell(total, findings)


def _file(path: Path) -> Iterator[Document]:
    _check(path)
    held = ""
    with explained(path), opened_text(path) as file:
        for block in _blocks(file):
            if held:
                yield Document(held, str(path), more=True)
            held = block
    yield Document(held, str(path))


def _check(path: Path) -> None:
    """Read a file through before its first block is used: half a document would be worse than none."""
    empty = True
    with explained(path), opened_text(path) as file:
        while block := file.read(_BLOCK):
            if "\0" in block:
                raise Undecodable(*first_bad_line(path))
            empty = empty and not block.strip()
    if empty:
        raise Undecodable(1, "the file is empty")


def _blocks(file: TextIO) -> Iterator[str]:
    """Yield about _BLOCK characters at once, up to the end of a line (or sentence, or word)."""
    rest = ""
    while block := file.read(_BLOCK):
        rest += block
        if len(block) == _BLOCK:
            end = next((at for mark in _ENDS if (at := rest.rfind(mark) + len(mark)) >= len(mark)), len(rest))
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


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
