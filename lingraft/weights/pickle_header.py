"""Read what a torch pickle (.bin, .pt, .pth) holds: names, dtypes and shapes, without torch and without running it.

Layouts: a zip archive with ``data.pkl`` and the storages (torch 1.6 on), or a row of pickles followed by the raw
storages (before). The pickles themselves go through `unpickler`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from lingraft.problems import Refusal, refuse
from lingraft.weights.unpickler import Reader, Sketch, Storage

LONGEST = 1 << 30  # bytes of structure; the tensors' own bytes lie elsewhere
ENCRYPTED = 1  # bit of a zip member's flags (PKWARE's APPNOTE, 4.4.4)
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class PickleHeader:
    """What a pickle holds: its objects (tensors as `Sketch`), the names in it beyond tensors, and its storages.

    ``places`` gives every storage's first byte and length in the file; a storage in a compressed member has none.
    """

    content: Any
    strange: frozenset[str]
    storage_bytes: int
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def read_pickle(path: Path) -> PickleHeader:
    """Read a pickle's structure; the data of its tensors is not touched.

    Errors: `lfs-pointer`, `truncated-file` (says how many bytes are missing), `corrupt-file`, `unreadable` (encrypted).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(20)
        file.seek(0)
        if first.startswith(b"version https://"):
            refuse(
                "lfs-pointer",
                f"{path} is a Git LFS pointer of {size} bytes, not the weights",
                "run `git lfs pull` in that repository, or download the file itself",
                path,
            )
        try:
            if first.startswith(b"PK"):
                return _zip(path, file, size)
            if first.startswith(LEGACY[:15]):
                return _legacy(path, file, size)
        except Refusal:
            raise
        except Exception as error:  # a hostile pickle can make the unpickler raise anything
            _broken(path, error)
    if first.startswith(b"\x80"):
        return _bare(path)
    return refuse(
        "corrupt-file",
        f"{path} ({size:,} bytes) is no torch file" + (": it is empty" if not size else ""),
        "download the file again",
        path,
    )


def read_part(path: Path, begin: int, length: int) -> PickleHeader:
    """Read a torch zip that lies inside another file; its places are counted from the whole file's beginning.

    Errors: as `read_pickle`.
    """
    with path.open("rb") as file:
        if begin < 0 or length < 0 or begin + length > path.stat().st_size:
            refuse(
                "truncated-file",
                f"{path} has {path.stat().st_size:,} of {begin + length:,} bytes",
                "download the file again",
                path,
            )
        try:
            found = _zip(path, _Window(file, begin, length), length)
        except Refusal:
            raise
        except Exception as error:
            _broken(path, error)
    return replace(found, places={key: (begin + at, nbytes) for key, (at, nbytes) in found.places.items()})


class _Window(io.RawIOBase):
    """A part of a file that looks like a file."""

    def __init__(self, file: IO[bytes], begin: int, length: int) -> None:
        self.file, self.begin, self.length, self.at = file, begin, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        return self.at

    def read(self, size: int = -1, /) -> bytes:
        left = max(self.length - self.at, 0)
        self.file.seek(self.begin + self.at)
        found = self.file.read(left if size is None or size < 0 else min(size, left))
        self.at += len(found)
        return found


def _zip(path: Path, file: IO[bytes] | _Window, size: int) -> PickleHeader:
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], file))
    except zipfile.BadZipFile:
        _cut(path, file, size)
    with archive:
        if locked := next((item.filename for item in archive.infolist() if item.flag_bits & ENCRYPTED), None):
            refuse(
                "unreadable",
                f"{path} is an encrypted archive: {locked} asks for a password",
                "decrypt it first, with its owner's password",
                path,
            )
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"), None)
        if name is None:
            refuse("corrupt-file", f"{path} is a zip archive without torch's data.pkl", "check what it is", path)
        if archive.getinfo(name).file_size > LONGEST:
            refuse(
                "corrupt-file",
                f"{path}: data.pkl says it has {archive.getinfo(name).file_size:,} bytes",
                "download the file again",
                path,
            )
        reader = Reader(io.BytesIO(archive.read(name)))
        content = reader.load()
        inside = name.removesuffix("data.pkl") + "data/"
        held = {
            item.filename.removeprefix(inside): item.file_size
            for item in archive.infolist()
            if item.filename.startswith(inside)
        }
        if archive_text(archive, name, "byteorder") == "big":
            refuse("unknown-format", f"{path} was saved on a big-endian machine", "convert it there", path)
        for key, nbytes in reader.storages.items():
            if held.get(key, -1) < nbytes:
                refuse(
                    "corrupt-file",
                    f"{path}: storage {key} has {max(held.get(key, 0), 0):,} of {nbytes:,} bytes",
                    "download the file again",
                    path,
                )
        places = {
            item.filename.removeprefix(inside): (_data_start(file, item), item.file_size)
            for item in archive.infolist()
            if item.filename.startswith(inside) and item.compress_type == zipfile.ZIP_STORED
        }
        if any(begin + nbytes > size for begin, nbytes in places.values()):
            raise ValueError("a storage that reaches beyond the end of the file")
    return PickleHeader(content, frozenset(reader.strange), sum(reader.storages.values()), places)


def archive_text(archive: zipfile.ZipFile, pickle_name: str, record: str) -> str:
    """Return a small text record that lies beside data.pkl, or an empty text."""
    name = pickle_name.removesuffix("data.pkl") + record
    return archive.read(name).decode("ascii", "replace") if name in archive.namelist() else ""


def _data_start(file: IO[bytes] | _Window, item: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: only its own header tells how long its name and padding are."""
    file.seek(item.header_offset + 26)
    lengths = file.read(4)
    return item.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def _cut(path: Path, file: IO[bytes] | _Window, size: int) -> NoReturn:
    """Tell how much is missing of an archive whose table of contents, at its end, is gone."""
    file.seek(0)
    local = file.read(30)
    at = 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    file.seek(at)
    reader = Reader(cast(IO[bytes], file))
    try:
        reader.load()
        whole = sum(reader.storages.values())
        missing = f" of at least {whole:,}: {whole - size:,} or more are missing" if whole > size else ""
        detail = f"{size:,} bytes{missing}, and its table of contents, at the end, is gone"
    except Exception:
        detail = f"{size:,} bytes, and ends before its table of contents"
    refuse("truncated-file", f"{path} has {detail}", "download the file again", path)


def _legacy(path: Path, file: IO[bytes], size: int) -> PickleHeader:
    for _ in range(3):  # magic number, protocol version, machine
        Reader(file).load()
    reader = Reader(file)
    content = reader.load()
    keys = [str(key) for key in Reader(file).load()]
    at, places = file.tell(), {}
    for key in keys:
        nbytes = reader.storages[key]
        places[key] = (at + 8, nbytes)
        at += 8 + nbytes
    needed = at
    if size < needed:
        refuse(
            "truncated-file",
            f"{path} has {size:,} of {needed:,} bytes: {needed - size:,} are missing",
            "download the file again",
            path,
        )
    return PickleHeader(content, frozenset(reader.strange), sum(reader.storages.values()), places)


def _bare(path: Path) -> PickleHeader:
    """Read a plain pickle: no torch file, but its names can be told."""
    with path.open("rb") as file:
        reader = Reader(file)
        try:
            return PickleHeader(reader.load(), frozenset(reader.strange), 0)
        except Exception as error:
            if reader.strange:
                return PickleHeader(None, frozenset(reader.strange), 0)
            _broken(path, error)


def _broken(path: Path, error: Exception) -> NoReturn:
    code = isinstance(error, EOFError) or "truncated" in str(error) or "Ran out of input" in str(error)
    refuse(
        "truncated-file" if code else "corrupt-file",
        f"{path} cannot be read: {error or type(error).__name__}",
        "download the file again",
        path,
    )


def sketches(content: Any, prefix: str = "") -> Iterator[tuple[str, Sketch]]:
    """Walk nested dicts and lists and give every tensor with its dotted name."""
    if isinstance(content, Sketch):
        yield prefix, content
        return
    items: Iterator[tuple[object, Any]] = iter(())
    if isinstance(content, Mapping):
        items = iter(content.items())
    elif isinstance(content, (list, tuple)) and not isinstance(content, Storage):
        items = iter(enumerate(content))
    for key, value in items:
        yield from sketches(value, f"{prefix}.{key}" if prefix else str(key))
