"""Whether an adapter's numbers can be used: looked at once, before anything is written.

One pass reads every tensor in blocks, hashes it, looks for NaN and Inf first (trap: NaN hides in max()) and for
tensors that training never moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from blake3 import blake3

from lingraft.merge.adapter import Adapter, some
from lingraft.merge.names import Part
from lingraft.problems import Findings
from lingraft.weights.fingerprint import combine, line, raw_bytes
from lingraft.weights.tensors import Entry, Tensor, row_blocks

BLOCK = 4 << 20


@dataclass(frozen=True)
class Fact:
    """What one pass over a tensor told."""

    digest: str
    finite: bool
    constant: float | None  # the one value that every element has, if so


def look(adapter: Adapter, findings: Findings) -> str:
    """Check every number of an adapter and return its fingerprint.

    Problems: `non-finite`, `untrained-adapter`. Warning: `module-not-updated` for single modules at their first value.
    """
    names = list(adapter.weights)
    with ThreadPoolExecutor(2) as pool:
        facts = dict(zip(names, pool.map(lambda n: _fact(adapter.weights.entries[n]), names), strict=True))
    broken = [name for name in names if not facts[name].finite]
    for name in broken[:20]:
        findings.problem(
            "non-finite",
            f"{adapter.path}: {name} holds NaN or Inf",
            "take an earlier checkpoint; the loss had diverged",
            adapter.path,
            name,
        )
    if not broken:
        _untrained(adapter, facts, findings)
    return combine(
        line(n, adapter.weights.entries[n].dtype, adapter.weights.entries[n].shape, facts[n].digest) for n in names
    )


def _fact(entry: Entry) -> Fact:
    hasher, finite, constant, first = blake3(), True, True, None
    for start, stop in row_blocks(entry.shape, entry.dtype.itemsize, BLOCK):
        block = entry.read(start, stop)
        hasher.update(raw_bytes(block))
        finite = finite and all_finite(block)
        if constant and block.numel():
            first = block.reshape(-1)[0] if first is None else first
            constant = bool((block.reshape(-1)[-1] == first) and (block == first).all())
    known = constant and first is not None and finite
    return Fact(hasher.hexdigest(), finite, float(first) if known and first is not None else None)


def all_finite(block: Tensor) -> bool:
    """Tell whether a block holds neither NaN nor Inf; a sum passes both on, and costs one pass."""
    if not block.is_floating_point():
        return True
    if block.dtype.itemsize == 1:
        block = block.float()
    total = block.sum(dtype=torch.float32 if block.dtype.itemsize < 8 else None)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(block).all())


def _untrained(adapter: Adapter, facts: dict[str, Fact], findings: Findings) -> None:
    first_values = {"lora_B": 0.0, "embedding_A": 0.0, "ia3": 1.0}
    parts: Iterable[Part] = (part for part in adapter.parts if part.role in first_values)
    learned = list(parts)
    if str(adapter.config.get("init_lora_weights")).lower() == "mica":
        learned = [part for part in adapter.parts if part.role == "lora_A"]
        first_values = {"lora_A": 0.0}
    still = [p.key for p in learned if p.key in facts and facts[p.key].constant == first_values[p.role]]
    if still and len(still) == len(learned):
        findings.problem(
            "untrained-adapter",
            f"{adapter.path} was never trained: all {len(still)} of its tensors that begin at "
            f"{first_values[learned[0].role]:g} are still there ({some(still, 3)})",
            "merge the directory that training wrote, after at least one step",
            adapter.path,
            still[0],
        )
    elif still:
        findings.warn(
            "module-not-updated",
            f"{adapter.path}: {len(still)} of {len(learned)} modules never moved: {some(still, 10)}",
            "check which layers were trained",
            adapter.path,
            still[0],
        )
