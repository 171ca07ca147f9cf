"""An unpickler behind which nothing can run: every name in a pickle becomes an inert stand-in, tensors become sketches.

Names beyond tensors and plain containers are collected, and the caller decides whether they are harmless.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import IO, Any, NamedTuple

from lingraft.weights.safetensors_header import ITEMSIZES

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "Float8_e4m3fnStorage": "F8_E4M3",
    "Float8_e5m2Storage": "F8_E5M2",
    "UntypedStorage": "U8",
}
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
}
PLAIN = {
    ("torch", "device"),
    ("torch", "Tensor"),
    ("torch.serialization", "_get_layout"),
    ("collections", "defaultdict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("collections", "Counter"),
    ("builtins", "set"),
    ("builtins", "int"),
    ("builtins", "float"),
    ("builtins", "bytearray"),
    ("__builtin__", "set"),
    ("argparse", "Namespace"),
}


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


class _Inert:
    """Stands for whatever a pickle names: takes every call and keeps nothing, so nothing can run."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return object.__new__(cls)

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

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


class Reader(pickle.Unpickler):
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


def _typed(
    storage: Storage, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: str, *_: object
) -> Sketch:
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
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _typed,
    "_rebuild_parameter": _same,
    "_rebuild_parameter_with_state": _same,
}
