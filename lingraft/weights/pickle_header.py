"""Read what a torch pickle (.bin, .pt, .pth) holds: names, dtypes and shapes, without torch and without running it.

Every class or function that the pickle names is replaced by an inert stand-in, so nothing of it ever runs; names
beyond tensors and plain containers are collected, and the caller decides whether they are harmless.
Layouts: a zip archive whose ``data.pkl`` comes first (torch 1.6 on), or a row of pickles followed by the raw
storages (before).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from lingraft.problems import Refusal, refuse
from lingraft.weights.safetensors_header import ITEMSIZES

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "Float8_e4m3fnStorage": "F8_E4M3",
    "Float8_e5m2Storage": "F8_E5M2", "UntypedStorage": "U8",
}  # fmt: skip
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PLAIN = {
    ("torch", "device"), ("torch", "Tensor"), ("torch.serialization", "_get_layout"), ("collections", "defaultdict"),
    ("_codecs", "encode"), ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"), ("collections", "Counter"), ("builtins", "set"), ("builtins", "int"),
    ("builtins", "float"), ("builtins", "bytearray"), ("__builtin__", "set"), ("argparse", "Namespace"),
}  # fmt: skip


class Storage(NamedTuple):
    """One block of raw data, which several tensors may share."""

    dtype: str
    key: str
    numel: int
    start: int = 0  # in elements; only old files cut one storage out of another


@dataclass(frozen=True)
class Sketch:
    """A tensor's dtype, shape, and where it lies in which storage (offset and stride in elements)."""

    dtype: str
    shape: tuple[int, ...]
    storage: str
    offset: int = 0
    stride: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * ITEMSIZES.get(self.dtype, 1)


@dataclass(frozen=True)
class PickleHeader:
    """What a pickle holds: its objects (tensors as `Sketch`), the names in it beyond tensors, and its storages.

    ``places`` gives every storage's first byte and length in the file; a storage in a compressed member has none.
    """

    content: Any
    strange: frozenset[str]
    storage_bytes: int
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class _Inert:
    """Stands for whatever a pickle names: takes every call and keeps nothing, so nothing can run."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None: ...
    def __setitem__(self, key: object, value: object) -> None: ...
    def append(self, value: object) -> None: ...
    def extend(self, value: object) -> None: ...
    def add(self, value: object) -> None: ...
    def __hash__(self) -> int:
        return id(self)


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict; drops the attributes (`_metadata`) that torch hangs on a module's state dict."""

    def __setstate__(self, state: object) -> None: ...


class _Reader(pickle.Unpickler):
    """The standard unpickler with every door to the outside closed."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.strange: set[str] = set()
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name == "OrderedDict":
            return _Dict
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch._utils" and name in _REBUILD:
            return _REBUILD[name]
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return lambda function, _kind, arguments, _state: function(*arguments)
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return lambda items=(): frozenset(items)
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) not in PLAIN and (module, name) != ("torch.nn.parameter", "Parameter"):
            self.strange.add(f"{module}.{name}")
        return _Inert

    def persistent_load(self, pid: Any) -> Storage:
        _, dtype, key, _, count = pid[:5]
        if not isinstance(dtype, str):
            raise ValueError("a storage of a type that torch does not have")
        nbytes = int(count) * ITEMSIZES[dtype]
        self.storages[str(key)] = max(nbytes, self.storages.get(str(key), 0))
        cut = pid[5] if len(pid) > 5 else None
        return Storage(dtype, str(key), int(cut[2] if cut else count), int(cut[1]) if cut else 0)


def _tensor(storage: Storage, offset: int, size: Any, stride: Any = (), *_: object) -> Sketch:
    return _checked(storage, storage.dtype, offset, size, stride)


def _typed(storage: Storage, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: str,
           *_: object) -> Sketch:  # fmt: skip
    return _checked(storage, dtype, offset, size, stride)


def _checked(storage: Storage, dtype: str, offset: int, size: Any, stride: Any) -> Sketch:
    """Return a tensor that lies inside its storage; one that does not is damage, or an attack."""
    shape, steps = tuple(int(n) for n in size), tuple(int(n) for n in stride)
    whole = storage.numel * ITEMSIZES[storage.dtype] // ITEMSIZES[dtype]
    last = int(offset) + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if min((int(offset), *shape, *steps)) < 0 or (0 not in shape and last >= whole):
        raise ValueError(f"a tensor of shape {list(shape)} does not fit into its storage of {whole:,} elements")
    return Sketch(dtype, shape, storage.key, storage.start + int(offset), steps)


def _same(data: Any, *_: object) -> Any:
    return data


_REBUILD: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor, "_rebuild_tensor_v2": _tensor, "_rebuild_tensor_v3": _typed,
    "_rebuild_parameter": _same, "_rebuild_parameter_with_state": _same,
}  # fmt: skip


def read_pickle(path: Path) -> PickleHeader:
    """Read a pickle's structure; the data of its tensors is not touched.

    Errors: `lfs-pointer`, `truncated-file` (says how many bytes are missing), `corrupt-file`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(20)
        file.seek(0)
        if first.startswith(b"version https://"):
            refuse("lfs-pointer", f"{path} is a Git LFS pointer of {size} bytes, not the weights",
                   "run `git lfs pull` in that repository, or download the file itself", path)  # fmt: skip
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
    return refuse("corrupt-file", f"{path} ({size:,} bytes) is no torch file" + (": it is empty" if not size else ""),
                  "download the file again", path)  # fmt: skip


def _zip(path: Path, file: IO[bytes], size: int) -> PickleHeader:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        _cut(path, file, size)
    with archive:
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"), None)
        if name is None:
            refuse("corrupt-file", f"{path} is a zip archive without torch's data.pkl", "check what it is", path)
        reader = _Reader(io.BytesIO(archive.read(name)))
        content = reader.load()
        inside = name.removesuffix("data.pkl") + "data/"
        held = {item.filename.removeprefix(inside): item.file_size for item in archive.infolist()
                if item.filename.startswith(inside)}  # fmt: skip
        if archive_text(archive, name, "byteorder") == "big":
            refuse("unknown-format", f"{path} was saved on a big-endian machine", "convert it there", path)
        for key, nbytes in reader.storages.items():
            if held.get(key, -1) < nbytes:
                refuse("corrupt-file", f"{path}: storage {key} has {max(held.get(key, 0), 0):,} of {nbytes:,} bytes",
                       "download the file again", path)  # fmt: skip
        places = {item.filename.removeprefix(inside): (_data_start(file, item), item.file_size)
                  for item in archive.infolist()
                  if item.filename.startswith(inside) and item.compress_type == zipfile.ZIP_STORED}  # fmt: skip
    return PickleHeader(content, frozenset(reader.strange), sum(reader.storages.values()), places)


def archive_text(archive: zipfile.ZipFile, pickle_name: str, record: str) -> str:
    """Return a small text record that lies beside data.pkl, or an empty text."""
    name = pickle_name.removesuffix("data.pkl") + record
    return archive.read(name).decode("ascii", "replace") if name in archive.namelist() else ""


def _data_start(file: IO[bytes], item: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: only its own header tells how long its name and padding are."""
    file.seek(item.header_offset + 26)
    lengths = file.read(4)
    return item.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


def _cut(path: Path, file: IO[bytes], size: int) -> NoReturn:
    """Tell how much is missing of an archive whose table of contents, at its end, is gone."""
    file.seek(0)
    local = file.read(30)
    at = 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    file.seek(at)
    reader = _Reader(file)
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
        _Reader(file).load()
    reader = _Reader(file)
    content = reader.load()
    keys = [str(key) for key in _Reader(file).load()]
    at, places = file.tell(), {}
    for key in keys:
        nbytes = reader.storages[key]
        places[key] = (at + 8, nbytes)
        at += 8 + nbytes
    needed = at
    if size < needed:
        refuse("truncated-file", f"{path} has {size:,} of {needed:,} bytes: {needed - size:,} are missing",
               "download the file again", path)  # fmt: skip
    return PickleHeader(content, frozenset(reader.strange), sum(reader.storages.values()), places)


def _bare(path: Path) -> PickleHeader:
    """Read a plain pickle: no torch file, but its names can be told."""
    with path.open("rb") as file:
        reader = _Reader(file)
        try:
            return PickleHeader(reader.load(), frozenset(reader.strange), 0)
        except Exception as error:
            if reader.strange:
                return PickleHeader(None, frozenset(reader.strange), 0)
            _broken(path, error)


def _broken(path: Path, error: Exception) -> NoReturn:
    code = isinstance(error, EOFError) or "truncated" in str(error) or "Ran out of input" in str(error)
    refuse("truncated-file" if code else "corrupt-file", f"{path} cannot be read: {error or type(error).__name__}",
           "download the file again", path)  # fmt: skip


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
