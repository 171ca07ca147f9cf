"""The rows in a data file with the lines they begin on: JSON lines, JSON lists, Parquet, and `datasets`.

A broken row comes as a row with an error, so that the next ones are read all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lingraft.data.files import Source, Undecodable, explained, kind, opened, opened_text, wrong_bytes
from lingraft.data.hub import Hub
from lingraft.problems import refuse

_BLOCK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_LOOK = 1 << 20  # bytes of the first line that are looked at


@dataclass(frozen=True)
class Row:
    """One row: the line it begins on (from 1; the number of the row where there are no lines), its value or error."""

    line: int
    value: Any
    error: str | None = None


def rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .json or .parquet file or of a Hub data set; what is in it decides, not the name.

    Errors: `unreadable`, `truncated-file`, `corrupt-file`, `lfs-pointer`.
    """
    if isinstance(source, Hub):
        yield from (Row(number, value) for number, value in enumerate(source.rows(), 1))
    elif kind(source) == ".parquet":
        yield from _parquet(source)
    else:
        try:
            with explained(source):
                yield from _list(source) if _is_list(source) else _lines(source)
        except Undecodable as error:
            yield Row(error.line, None, str(error))


def _is_list(path: Path) -> bool:
    """Tell whether a file is a JSON list, or an object over several lines, instead of a row a line."""
    first = b""
    with opened(path) as file:
        while not first and (line := file.readline(_LOOK)):
            first = line.removeprefix(_BOM).strip()
    if first[:1] not in (b"[", b"{") or wrong_bytes(first, True) is not None:
        return False
    try:
        whole = json.loads(first)
    except json.JSONDecodeError as error:
        # A bracket that is not closed on its line begins a list. A brace may be a broken row.
        return first[:1] == b"[" or (kind(path) == ".json" and len(first) < _LOOK and _may_go_on(error, first.decode()))
    except RecursionError:
        return False
    return isinstance(whole, list) and (not whole or isinstance(whole[0], dict | list | str))


def _lines(path: Path) -> Iterator[Row]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            why = wrong_bytes(line, number == 1)
            if why is not None:
                yield Row(number, None, why)
                if "UTF-16" in why:
                    return
            elif line.strip(b" \t\r\n" + _BOM * (number == 1)):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    value = json.loads(text)
                    yield Row(number, value, _half(text, value))
                except (ValueError, RecursionError) as error:
                    yield Row(number, None, f"not JSON ({_reason(error)})")


def _list(path: Path) -> Iterator[Row]:
    with opened_text(path) as file:
        text = _Text(file)
        text.skip()
        if text.peek() == "{":
            yield from _object(text)
            return
        text.at += 1
        text.skip()
        while text.peek() not in ("]", ""):
            line = text.line
            value, error = text.value()
            if error is not None:
                # What follows a broken row cannot be told apart from it.
                yield Row(line, None, f"not JSON from here on ({error})")
                return
            yield Row(line, value, _half(text.last, value))
            text.skip()
            if text.peek() == ",":
                text.at += 1
                text.skip()
            elif text.peek() not in ("]", ""):
                yield Row(text.line, None, "not JSON from here on (a comma or the closing bracket is missing)")
                return
        if not text.peek():
            yield Row(text.line, None, "the closing bracket is missing: the file is cut short")


def _object(text: _Text) -> Iterator[Row]:
    """Yield objects that are written over several lines, one after another."""
    while text.peek():
        line = text.line
        value, error = text.value()
        yield Row(line, value, _half(text.last, value) if error is None else f"not JSON from here on ({error})")
        if error is not None:
            return
        text.skip()


class _Text:
    """A stream of text with JSON values in it; holds the value at hand and a block beyond."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.at = 0
        self.counted = 0  # up to where newlines are in ``lines``
        self.lines = 1
        self.ended = False
        self.last = ""  # the value read last, as it stands there

    @property
    def line(self) -> int:
        """Return the line that ``at`` is on."""
        self.lines += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.lines

    def more(self) -> None:
        """Drop what was read, and read on: at least as much again as is held, so that long values stay cheap."""
        _ = self.line
        block = self.file.read(max(_BLOCK, len(self.text) - self.at))
        self.text, self.at, self.counted, self.ended = self.text[self.at :] + block, 0, 0, not block

    def peek(self) -> str:
        """Return the next character, or nothing at the end."""
        if self.at >= len(self.text) and not self.ended:
            self.more()
        return self.text[self.at : self.at + 1]

    def skip(self) -> None:
        """Go on to the next character that is no space."""
        while self.peek() and self.peek() in " \t\r\n\ufeff":
            self.at += 1

    def value(self) -> tuple[Any, str | None]:
        """Return the value that begins here, or why there is none."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                cut = isinstance(error, json.JSONDecodeError) and _may_go_on(error, self.text)
                if self.ended or not cut:
                    return None, _reason(error)
            else:
                if end < len(self.text) or self.ended:
                    self.last, self.at = self.text[self.at : end], end
                    return value, None
            self.more()


def _may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Tell whether an error may be due to the end of what was read so far."""
    return error.pos >= len(text) - 16 or error.msg.startswith("Unterminated")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    with explained(path), opened(path) as file:
        starts, size = file.read(4) == b"PAR1", file.seek(0, 2)
        file.seek(max(0, size - 4))
        if starts and file.read(4) != b"PAR1":
            refuse(
                "truncated-file",
                f"{path} is cut short: a Parquet file ends with PAR1, this one of {size:,} bytes does not",
                "fetch it again",
                path,
            )
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, value)
    except (pyarrow.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:200]
        refuse("unreadable", f"{path} is not a readable Parquet file: {why}", "fetch it again", path)


def _half(text: str, value: Any) -> str | None:
    """Say where a value holds half a character (an escape like \\ud83d alone), which no tokenizer can read."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half a character: an escape \\ud800 to \\udfff without its other half"
    return None


def _reason(error: Exception) -> str:
    return getattr(error, "msg", None) or str(error) or type(error).__name__
