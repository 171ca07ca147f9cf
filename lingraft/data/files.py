"""Which files a data path means, and the rows in them with their line numbers.

One place knows about folders, globs, gzip, encodings, JSON, JSON lines and Parquet, so that every loader
can refuse a bad row as ``file:line`` without repeating how the line was found.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, refuse

TEXT = (".txt", ".md")
ROWS = (".jsonl", ".json", ".parquet")
_SHOWN = 5  # bad rows named one by one in a message; the rest are counted


@dataclass(frozen=True)
class Row:
    """One row: the line it begins on (from 1; a Parquet row's number), and its value or its error."""

    line: int
    value: Any
    error: str | None = None


def kind(path: Path) -> str:
    """Return the suffix that says how to read ``path``: ``.jsonl`` for ``rows.jsonl.gz``."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def expand(paths: Sequence[Path | str], kinds: tuple[str, ...]) -> list[Path]:
    """Return the files that paths, folders (searched deeply, in name order) and globs mean.

    Errors: `not-found` for a path that means no file, `unknown-format` for a file of another kind.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and kind(p) in kinds)
            hidden = [p for p in inside if any(part.startswith(".") for part in p.relative_to(path).parts)]
            matches = [p for p in inside if p not in hidden]
        elif path.exists():
            if kind(path) not in kinds:
                refuse("unknown-format", f"{path} is not one of {', '.join(kinds)}",
                       "convert it, or name another file", path)  # fmt: skip
            matches = [path]
        else:
            matches = sorted(p for p in _glob(path) if p.is_file())
        if not matches:
            refuse("not-found", f"{path} holds no data file ({', '.join(kinds)})" if path.is_dir()
                   else f"{path} does not exist", "check the path of the data", path)  # fmt: skip
        found.extend(matches)
    return list(dict.fromkeys(found))


def read_text(path: Path) -> str:
    """Return a file's text (UTF-8, a byte order mark dropped, gzip undone).

    Errors: `unreadable`, and `data-invalid` naming the line that is not UTF-8.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        refuse("unreadable", f"{path} cannot be read: {error}", "check the file, or fetch it again", path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        refuse("data-invalid", f"{path}:{line}: this is not UTF-8 text", "convert it, perhaps by iconv -f GB18030",
               f"{path}:{line}")  # fmt: skip


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .json (a list, or one row) or .parquet file; a broken row has an error."""
    if kind(path) == ".parquet":
        yield from _parquet(path)
    elif kind(path) == ".jsonl":
        yield from _json_lines(read_text(path))
    else:
        yield from _json(read_text(path))


def reject(path: Path, bad: Sequence[tuple[int, str]], total: int, findings: Findings) -> None:
    """Note a file's unusable rows as one `data-invalid` that names the first lines and counts them all."""
    if not bad:
        return
    named = "; ".join(f"{path}:{line}: {why}" for line, why in bad[:_SHOWN])
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    findings.problem("data-invalid", f"{len(bad)} of {total} rows cannot be used: {named}{more}",
                     "mend these lines, or leave them out knowingly with --allow data-invalid",
                     f"{path}:{bad[0][0]}")  # fmt: skip


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield Row(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield Row(number, None, f"not JSON ({_reason(error)})")


def _json(text: str) -> Iterator[Row]:
    decoder, at, line = json.JSONDecoder(), _skip(text, 0), 1
    if text[at : at + 1] != "[":
        # Many files named .json hold JSON lines.
        yield from _one(text) if text.strip() else ()
        return
    seen = 0
    at = _skip(text, at + 1)
    while at < len(text) and text[at] != "]":
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            # What follows a broken row cannot be told apart from it.
            yield Row(line, None, f"not JSON from here on ({_reason(error)})")
            return
        yield Row(line, value)
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", seen, at)
            yield Row(line, None, "not JSON from here on (a comma or the closing bracket is missing)")
            return
    if at >= len(text):
        yield Row(text.count("\n") + 1, None, "the closing bracket is missing: the file is cut short")


def _one(text: str) -> Iterator[Row]:
    try:
        yield Row(1, json.loads(text))
    except (ValueError, RecursionError):
        yield from _json_lines(text)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, value)
    except (pyarrow.ArrowInvalid, OSError) as error:
        refuse("unreadable", f"{path} is not a readable Parquet file: {error}", "fetch it again", path)


def _glob(pattern: Path) -> list[Path]:
    anchor = Path(pattern.anchor)
    return (
        list(anchor.glob(str(pattern.relative_to(anchor)))) if any(c in str(pattern) for c in "*?[") else []
    )


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _reason(error: Exception) -> str:
    return getattr(error, "msg", None) or str(error) or type(error).__name__
