"""Every text in training files of any layout, to look for held-out text in it: nothing is checked or left out.

Of a row, whatever it holds (a document, a conversation, a preferred pair), all its strings; a row that is no JSON
counts as the text that it is.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lingraft.problems import refuse

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".parquet", ".tsv", ".csv")


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files that paths, folders and globs mean. Error: `not-found`."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            some = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) in SUFFIXES)
        else:
            some = [path] if path.is_file() else sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
        if not some:
            refuse("not-found", f"{path} holds no training text", f"name {', '.join(SUFFIXES)} files", path)
        found += some
    return list(dict.fromkeys(found))


def texts_of(files: Iterable[Path]) -> Iterator[str]:
    """Yield the texts of training files. Error: `unreadable`."""
    for file in files:
        try:
            yield from _texts(file)
        except (OSError, EOFError, ValueError) as error:
            refuse("unreadable", f"{file} cannot be read: {error}", "check it, or leave it out", file)


def _kind(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _texts(file: Path) -> Iterator[str]:
    if _kind(file) == ".parquet":
        import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            yield from ("\n".join(_strings(row)) for row in batch.to_pylist())
        return
    open_file = gzip.open if file.suffix.lower() == ".gz" else open
    with open_file(file, "rt", encoding="utf-8-sig", errors="replace") as lines:
        if _kind(file) == ".jsonl":
            yield from (_of_json(line) for line in lines)
        else:
            content = str(lines.read())
            yield from ([_of_json(content)] if _kind(file) == ".json" else [content])


def _of_json(text: str) -> str:
    try:
        return "\n".join(_strings(json.loads(text)))
    except ValueError:
        return text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _strings(part)
