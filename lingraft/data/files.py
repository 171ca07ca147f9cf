"""Which files a data path means, and how they are opened: folders, globs, gzip, encodings, damage.

One place knows about these, so that every loader can refuse a bad row as ``file:line`` without repeating how the
line was found. Files are read as streams: none needs to fit into memory.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from lingraft.data.hub import Hub, hub_of
from lingraft.problems import Findings, refuse

TEXT = (".txt", ".md")
ROWS = (".jsonl", ".json", ".parquet")
TABLES = (".csv", ".tsv")
SHOWN = 5  # bad rows named one by one in a message; the rest are counted
_POINTER = b"version https://git-lfs"

Source = Path | Hub


class Undecodable(Exception):
    """A file that is not UTF-8 text: the line, and why."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def kind(path: Path) -> str:
    """Return the suffix that says how to read ``path``: ``.jsonl`` for ``rows.jsonl.gz``."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def expand(paths: Sequence[Path | str], kinds: tuple[str, ...]) -> list[Source]:
    """Return what paths, folders (searched deeply, in name order), globs and Hub ids mean.

    Errors: `not-found` for a path that means no file, `unknown-format` for a file of another kind.
    """
    found: list[Source] = []
    for given in paths:
        path = Path(given)
        hub = hub_of(str(given))
        if hub is not None:
            found.append(hub)
            continue
        matches = _matches(path, kinds)
        if not matches:
            refuse(
                "not-found",
                f"{path} holds no data file ({', '.join(kinds)})" if path.is_dir() else f"{path} does not exist",
                "check the path of the data",
                path,
            )
        found.extend(matches)
    return list(dict.fromkeys(found))


def opened(path: Path) -> BinaryIO:
    """Open a file for reading bytes, gzip undone; read it inside ``explained``."""
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        refuse("lfs-pointer", f"{path} is a Git LFS pointer, not the data", "fetch the file itself: git lfs pull", path)
    return cast(BinaryIO, gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def opened_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a file for reading UTF-8 text; a byte order mark is dropped, and CRLF is LF unless ``newline`` is given."""
    return io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline=newline)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into `truncated-file`, `corrupt-file`, `unreadable`."""
    try:
        yield
    except EOFError:
        refuse("truncated-file", f"{path} is cut short: its gzip stream does not end", "fetch it again", path)
    except (gzip.BadGzipFile, zlib.error) as error:
        refuse("corrupt-file", f"{path} is not sound gzip: {error}", "fetch it again", path)
    except UnicodeDecodeError as error:
        raise Undecodable(*first_bad_line(path)) from error
    except OSError as error:
        refuse("unreadable", f"{path} cannot be read: {error.strerror or error}", "check the file", path)


def first_bad_line(path: Path) -> tuple[int, str]:
    """Return the first line that is no UTF-8 text, and why."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            why = wrong_bytes(line, number == 1)
            if why is not None:
                return number, why
    return 1, "this is not UTF-8 text"


def wrong_bytes(line: bytes, first: bool) -> str | None:
    """Say why a line is no UTF-8 text, or None where it is."""
    if first and line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "this is UTF-16, not UTF-8 (iconv -f UTF-16 -t UTF-8)"
    if b"\0" in line:
        return "a NUL byte: the file is damaged, or not text"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "this is not UTF-8 (perhaps iconv -f GB18030 -t UTF-8)"
    return None


class Rejected:
    """Count a source's unusable rows, naming the first of them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.count = 0
        self.first: list[tuple[int, str]] = []

    def add(self, line: int, why: str) -> None:
        """Note one row."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((line, why))

    def tell(self, total: int, findings: Findings) -> None:
        """Note them all as one `data-invalid` that names the first lines and counts the rest."""
        if not total:
            findings.problem("data-invalid", f"{self.source} holds no rows", "name another file", str(self.source))
        if not self.count:
            return
        named = "; ".join(f"{self.source}:{line}: {why}" for line, why in self.first)
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        findings.problem(
            "data-invalid",
            f"{self.count} of {total} rows cannot be used: {named}{more}",
            "mend these lines, or leave them out knowingly with --allow data-invalid",
            f"{self.source}:{self.first[0][0]}",
        )


def _matches(path: Path, kinds: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and kind(p) in kinds)
        return [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if path.exists():
        if kind(path) not in kinds:
            refuse(
                "unknown-format", f"{path} is not one of {', '.join(kinds)}", "convert it, or name another file", path
            )
        return [path]
    if not any(c in str(path) for c in "*?["):
        return []
    anchor = Path(path.anchor)
    return sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file() and kind(p) in kinds)
