"""Write bare weights to one file: .safetensors, or torch's container (.pt, .pth, .bin)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lingraft.problems import refuse
from lingraft.weights import safetensors
from lingraft.weights.fingerprint import raw_bytes
from lingraft.weights.tensors import Weights, header, row_blocks
from lingraft.weights.torch_zip import Planned, TorchZip

BLOCK = 32 << 20


def write(weights: Weights, out: Path, suffix: str, progress: Callable[[int], object] | None = None) -> None:
    """Write every tensor to ``out`` in the container that ``suffix`` names. Error: `unknown-format` for others."""
    if suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        refuse(
            "unknown-format",
            f"{suffix!r} names no container for bare weights",
            "let the output end in .safetensors, .pt, .pth or .bin",
        )
    plan = {name: Planned(header(weights, name).dtype, header(weights, name).shape) for name in weights}
    if suffix == ".safetensors":
        with out.open("wb") as file:
            file.write(safetensors.header_bytes({n: (p.dtype, p.shape) for n, p in plan.items()}, {"format": "pt"}))
            for name in plan:
                _stream(weights, name, file.write, progress)
        return
    with TorchZip(out, plan) as archive:
        for name in plan:
            with archive.member(name) as member:
                _stream(weights, name, member.write, progress)


def _stream(
    weights: Weights, name: str, sink: Callable[[memoryview], object], progress: Callable[[int], object] | None
) -> None:
    entry = header(weights, name)
    for start, stop in row_blocks(entry.shape, entry.dtype.itemsize, BLOCK):
        data = raw_bytes(entry.read(start, stop))
        sink(data)
        if progress is not None:
            progress(len(data))
