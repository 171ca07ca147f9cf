"""The fingerprint of a set of weights: the same for the same tensors, whatever the container or the sharding.

BLAKE3 over sorted UTF-8 lines ``name TAB dtype TAB [shape] TAB hex NEWLINE``, where dtype is spelled as in
safetensors (``BF16``), shape as ``[2, 3]`` and hex is BLAKE3 of the little-endian contiguous bytes. Left out:
non-persistent buffers, and a head that is tied to the embedding (one that equals it byte for byte).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from blake3 import blake3

from lingraft.weights.safetensors import DTYPE_NAMES
from lingraft.weights.tensors import Tensor, Weights, header, row_blocks

BUFFERS = ("inv_freq", "masked_bias", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
HEAD = "lm_head.weight"
EMBEDDINGS = (
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "gpt_neox.embed_in.weight",
    "model.decoder.embed_tokens.weight",
    "transformer.word_embeddings.weight",
)
BLOCK = 64 << 20


def is_buffer(name: str) -> bool:
    """Tell whether a tensor is a non-persistent buffer, which other versions save and load anew."""
    return name.endswith(BUFFERS)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the little-endian contiguous bytes of a tensor, without a copy where it is contiguous already."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def digest(weights: Weights, name: str) -> str:
    """Return BLAKE3 of one tensor's bytes in hex, read in blocks of rows."""
    entry = header(weights, name)
    hasher = blake3(max_threads=blake3.AUTO)
    for start, stop in row_blocks(entry.shape, entry.dtype.itemsize, BLOCK):
        hasher.update(raw_bytes(entry.read(start, stop)))
    return hasher.hexdigest()


def line(name: str, dtype: torch.dtype, shape: Iterable[int], hexdigest: str) -> str:
    """Return one tensor's line of the listing that is hashed."""
    return f"{name}\t{DTYPE_NAMES[dtype]}\t{list(shape)}\t{hexdigest}\n"


def combine(lines: Iterable[str]) -> str:
    """Return the fingerprint of listing lines; buffers and a head equal to the embedding are dropped here."""
    rows = {row.split("\t", 1)[0]: row for row in lines}
    rest = {name: row.split("\t", 1)[1] for name, row in rows.items()}
    if HEAD in rest and any(rest.get(name) == rest[HEAD] for name in EMBEDDINGS):
        del rows[HEAD]
    listing = "".join(sorted(row for name, row in rows.items() if not is_buffer(name)))
    return str(blake3(listing.encode()).hexdigest())


@dataclass(frozen=True)
class Listing:
    """The lines that are hashed into a fingerprint: every tensor with its dtype, shape and digest."""

    lines: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint as 64 hex digits."""
        return combine(self.lines)

    @property
    def digests(self) -> dict[str, str]:
        """BLAKE3 of every tensor's bytes in hex, by name: what a receipt keeps, so that a fault can be located."""
        rows = (line.rstrip("\n").split("\t") for line in sorted(self.lines))
        return {row[0]: row[-1] for row in rows}


def fingerprint(weights: Weights, progress: Callable[[int], object] | None = None) -> str:
    """Return the fingerprint of a checkpoint as 64 hex digits; ``progress`` is told the bytes of each tensor."""
    return listing(weights, progress).fingerprint


def listing(weights: Weights, progress: Callable[[int], object] | None = None) -> Listing:
    """Read every tensor and return the lines that its fingerprint is made of."""
    lines = []
    for name in weights:
        entry = header(weights, name)
        lines.append(line(name, entry.dtype, entry.shape, digest(weights, name)))
        if progress is not None:
            progress(entry.nbytes)
    return Listing(tuple(lines))
