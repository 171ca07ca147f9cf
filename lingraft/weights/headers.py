"""Dtype, shape and size of every tensor in a weight file, from its header alone and without torch.

One table of containers, told apart by their first bytes, so that `inspect` answers within a second.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights.safetensors_header import read_listing

LFS = b"version https://git-lfs"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Header:
    """One tensor as its file announces it; ``shared`` names the storage where several tensors may share one."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shared: str = ""

    @property
    def count(self) -> int:
        return prod(self.shape)


def of_file(path: Path, findings: Findings) -> dict[str, Header]:
    """Return the headers of one weight file; what is wrong with it becomes a problem, and the rest is still told.

    Problems: `lfs-pointer`, `truncated-file`, `corrupt-file`, `unsafe-pickle`, `unknown-format`.
    """
    try:
        return _read(path, findings)
    except Refusal as refusal:
        findings.absorb(refusal)
    except OSError as error:
        if path.is_symlink() and not path.exists():
            told, remedy = f"is a link to {path.readlink()}, which is gone", "download the file again, or mend the link"
        else:
            told, remedy = f"cannot be read: {error.strerror}", "check its permissions"
        findings.problem("unreadable", f"{path} {told}", remedy, path)
    return {}


def _read(path: Path, findings: Findings) -> dict[str, Header]:
    first = first_bytes(path)
    refuse_pointer(path, first)
    if first.startswith(b"GGUF"):
        return of_gguf(path)
    if path.suffix == ".safetensors":
        return {
            name: Header(span.dtype, span.shape, span.end - span.begin)
            for name, span in read_listing(path).tensors.items()
        }
    if path.suffix in PICKLES or first.startswith((b"PK", b"\x80\x02")):
        return of_pickle(path, findings)
    return refuse(
        "unknown-format",
        f"{path} begins with {first[:8]!r}: no container that lingraft reads",
        "check what the file is",
        path,
    )


def of_gguf(path: Path) -> dict[str, Header]:
    """Return the headers of a GGUF file under its own tensor names."""
    from lingraft.weights.gguf_header import read_header

    return {name: Header(info.type.name, info.shape, info.nbytes) for name, info in read_header(path).tensors.items()}


def of_pickle(path: Path, findings: Findings) -> dict[str, Header]:
    """Return the headers of a state dict in a torch pickle, which may sit below a key such as ``state_dict``."""
    from lingraft.weights.pickle_header import read_pickle, sketches

    found = read_pickle(path)
    refuse_strange(path, found.strange, findings)
    content = found.content
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {name: Header(s.dtype, s.shape, s.nbytes, s.storage) for name, s in sketches(content)}


def refuse_strange(path: Path, strange: frozenset[str], findings: Findings) -> None:
    """Note an `unsafe-pickle` that names anything beyond tensors and plain containers."""
    if strange:
        findings.problem(
            "unsafe-pickle",
            f"{path} names {', '.join(sorted(strange)[:5])}: code beyond tensors, which loading it would run",
            "do not load it; ask its author for a .safetensors file",
            path,
        )


def first_bytes(path: Path, count: int = 64) -> bytes:
    """Return the beginning of a file."""
    with path.open("rb") as file:
        return file.read(count)


def refuse_pointer(path: Path, first: bytes | None = None) -> None:
    """Refuse a Git LFS pointer that stands where a file should be; it tells how large the file would be."""
    if not (first_bytes(path) if first is None else first).startswith(LFS):
        return
    text = first_bytes(path, 400).decode("ascii", "replace")
    size = next((row.split()[-1] for row in text.splitlines() if row.startswith("size ")), "")
    whole = f" (the file itself has {int(size):,} bytes)" if size.isdigit() else ""
    refuse(
        "lfs-pointer",
        f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the file{whole}",
        "run `git lfs pull` in that repository, or download the file itself",
        path,
    )


@dataclass(frozen=True)
class Llama2c:
    """What the header of a llama2.c ``.bin`` says."""

    version: int
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    nbytes: int  # what the file must have at least

    @property
    def parameters(self) -> int:
        matrices = self.dim * self.dim * 2 + 2 * self.dim * self.kv_width + 3 * self.dim * self.hidden
        rows = self.vocab * self.dim * (1 if self.tied else 2)
        return self.layers * (matrices + 2 * self.dim) + self.dim + rows

    @property
    def kv_width(self) -> int:
        return self.dim // self.heads * self.kv_heads


def of_llama2c(path: Path) -> Llama2c | None:
    """Read a llama2.c header (v0, v1, v2), or return None where the sizes make no sense.

    Source: https://github.com/karpathy/llama2.c, export.py.
    """
    raw = first_bytes(path, 256)
    if len(raw) < 28:
        return None
    magic, version = struct.unpack_from("<Ii", raw)
    if magic == 0x616B3432 and version in (1, 2) and len(raw) >= 41:
        dim, hidden, layers, heads, kv, vocab, _ = struct.unpack_from("<7i", raw, 8)
        tied, group = bool(raw[36]), struct.unpack_from("<i", raw, 37)[0]
    else:
        version = 0
        dim, hidden, layers, heads, kv, vocab, _ = struct.unpack_from("<7i", raw)
        tied, vocab, group = vocab > 0, abs(vocab), 0
    sane = (
        min(dim, hidden, layers, heads, kv, vocab) > 0
        and dim % heads == 0
        and heads % kv == 0
        and max(dim, hidden) < 1 << 17
        and layers < 1000
        and vocab < 1 << 21
    )
    if not sane:
        return None
    found = Llama2c(version, dim, hidden, layers, heads, kv, vocab, tied, 0)
    if version == 2:
        norms = (2 * layers + 1) * dim
        quantised = found.parameters - norms
        nbytes = 256 + 4 * norms + quantised + 4 * quantised // max(group, 1)
    else:
        nbytes = (256 if version else 28) + 4 * found.parameters
    return Llama2c(version, dim, hidden, layers, heads, kv, vocab, tied, nbytes)
