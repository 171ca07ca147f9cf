"""Write torch's zip container (.pth) as a stream: what `torch.save` writes, without the tensors in memory.

torch.save wants the whole dict at once; here the pickle of the structure is made from headers alone, and every
storage is written when its bytes are at hand. Layout: ``archive/data.pkl``, ``archive/version``,
``archive/byteorder`` and one stored (not compressed) member ``archive/data/N`` a tensor.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

ROOT = "archive"
STORAGES = {
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.float64: "DoubleStorage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
    torch.int16: "ShortStorage",
    torch.int8: "CharStorage",
    torch.uint8: "ByteStorage",
    torch.bool: "BoolStorage",
}


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written: dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class TorchZip:
    """One .pth file being written: `member` opens each planned tensor's storage, in any order."""

    def __init__(self, path: Path, plan: Mapping[str, Planned]) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._keys = {name: str(i) for i, name in enumerate(plan)}
        self._record("data.pkl", _structure(plan, self._keys))
        self._record("byteorder", b"little")
        self._record("version", b"3\n")

    def __enter__(self) -> TorchZip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def _record(self, name: str, content: bytes) -> None:
        self._zip.writestr(_member(name), content)

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """Open the storage of one tensor for writing its little-endian contiguous bytes."""
        with self._zip.open(_member(f"data/{self._keys[name]}"), "w", force_zip64=True) as file:
            yield file


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{ROOT}/{name}", (1980, 1, 1, 0, 0, 0))  # the same weights give the same file


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    numel: int


class _Pickler(pickle.Pickler):
    """Pickles `Planned` tensors as torch does: a rebuild call on a storage that lies elsewhere in the archive."""

    def __init__(self, file: IO[bytes], keys: Mapping[int, str]) -> None:
        super().__init__(file, protocol=2)
        self.keys = keys

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Planned):
            return NotImplemented
        empty = torch.empty(value.shape, dtype=value.dtype, device="meta")
        storage = _Storage(value.dtype, self.keys[id(value)], empty.numel())
        rebuild = torch._utils._rebuild_tensor_v2
        return rebuild, (storage, 0, value.shape, tuple(empty.stride()), False, OrderedDict())

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        return "storage", getattr(torch, STORAGES[value.dtype]), value.key, "cpu", value.numel


def _structure(plan: Mapping[str, Planned], keys: Mapping[str, str]) -> bytes:
    raw = io.BytesIO()
    own = {name: Planned(planned.dtype, planned.shape) for name, planned in plan.items()}  # each an object of its own
    _Pickler(raw, {id(planned): keys[name] for name, planned in own.items()}).dump(own)
    return raw.getvalue()
