"""Read the held-out text: a .txt is one document, a .jsonl is one a row under "text".

Nothing is cleaned or split here: what is measured is what the user gave, newlines included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from lingraft.problems import refuse

SUFFIXES = (".txt", ".jsonl")


def read_documents(path: Path) -> list[str]:
    """Return the documents of a .txt or .jsonl file, or of all such files in a folder, in name order.

    Rows and files without a character are left out. Errors: `not-found`, `unreadable`, and `data-invalid` with
    file and line, also where nothing is left to measure.
    """
    if not path.exists():
        refuse("not-found", f"{path} does not exist", "check the path of the held-out text", path)
    files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
    documents = [text for file in files for text in _of_file(file) if text.strip()]
    if not documents:
        refuse("data-invalid", f"{path} holds no text to measure", 'give a .txt, or a .jsonl with "text" rows', path)
    return documents


def digest(documents: Sequence[str]) -> str:
    """Return a digest of the documents' content and their borders, whatever file they came from."""
    lengths = json.dumps([len(text) for text in documents])
    return str(blake3("\0".join([lengths, *documents]).encode("utf-8", "surrogatepass")).hexdigest())


def _of_file(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(
            "data-invalid",
            f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}",
            "convert it to UTF-8 (for example with iconv)",
            path,
        )
    except OSError as error:
        refuse("unreadable", f"{path} cannot be read: {error.strerror}", "check its permissions", path)
    if path.suffix != ".jsonl":
        yield text
        return
    # not splitlines(): JSON strings may hold U+2028 and its like unescaped
    for number, row in enumerate(text.split("\n"), 1):
        if row.strip():
            yield _row(path, number, row)


def _row(path: Path, number: int, row: str) -> str:
    try:
        value = json.loads(row)
    except ValueError as error:
        refuse("data-invalid", f"{path}:{number}: not JSON: {error}", "mend the line named", path)
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        refuse("data-invalid", f'{path}:{number}: no "text" string', 'write rows as {"text": "…"}', path)
    return text
