"""Is this the base that the adapter was trained on? By lineage where there is one, else by the rows it carries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lingraft.merge.adapter import Adapter
from lingraft.merge.names import EMBEDDINGS, HEADS
from lingraft.problems import Findings, Refusal
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.json_file import read_json
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor

SAMPLE = 4096  # rows
UNRELATED = 0.25  # trained rows keep a correlation near 1 with those they started from; other models' have 0
REMEDY = "give the base that the adapter was trained on"


def check_origin(adapter: Adapter, base: Checkpoint, below: Lazy, findings: Findings) -> None:
    """Note `base-mismatch` where lineage or saved rows say that the adapter belongs to other weights.

    A base that is the one before its vocabulary was extended is accepted with a warning when the rows say so.
    """
    seen = dict(_correlations(adapter, below))
    strangers = [key for key, value in seen.items() if value < UNRELATED]
    for key in strangers:
        findings.problem("base-mismatch", f"{adapter.path}: {key} does not correlate with the rows of {base.path} "
                         f"({seen[key]:+.3f}; rows trained from them would be near 1)", REMEDY, adapter.path, key)
    if adapter.lineage is None or strangers:
        return
    found = fingerprint(base.tensors)
    if found in (adapter.lineage.base, _ancestor(Path(adapter.lineage.base_path))):
        return
    told = (f"{adapter.path} was trained on {adapter.lineage.base[:16]}… ({adapter.lineage.base_path}); {base.path} is "
            f"{found[:16]}…")
    if _smaller(adapter, below) and seen:
        findings.warn("base-mismatch", f"{told}: the base before its vocabulary grew, by its rows", REMEDY,
                      adapter.path)
    else:
        findings.problem("base-mismatch", told, REMEDY, adapter.path)


def _ancestor(extended: Path) -> str | None:
    """Return the fingerprint of the base that a vocabulary stage started from, by its receipt."""
    try:
        value = read_json(extended / "manifest.json").get("base")
    except Refusal:
        return None
    return str(value.get("fingerprint")) if isinstance(value, Mapping) else None


def _correlations(adapter: Adapter, below: Lazy) -> list[tuple[str, float]]:
    """Correlate every saved embedding or head with the tensor below it, over the rows that both have."""
    found = []
    for part in adapter.parts:
        if part.role not in ("value", "base", "original", "copy") or part.parameter != "weight":
            continue
        if part.module.rpartition(".")[2] not in EMBEDDINGS | HEADS or part.target not in below.entries:
            continue
        saved, base = adapter.weights.entries[part.key], below.entries[part.target]
        if len(saved.shape) == 2 and saved.shape[1:] == base.shape[1:] and saved.shape[0]:
            found.append((part.key, correlate(saved, base)))
    return found


def correlate(one: Entry, other: Entry) -> float:
    """Return Pearson's correlation of two tensors over an even sample of the rows that both have."""
    rows = min(one.shape[0], other.shape[0])
    step = max(1, rows // SAMPLE)
    a, b = (_sample(entry, rows, step) for entry in (one, other))
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float((a * b).sum()) / scale if scale and torch.isfinite(torch.tensor(scale)) else 1.0


def _sample(entry: Entry, rows: int, step: int) -> Tensor:
    if step == 1:
        return entry.read(0, rows).double()
    return torch.cat([entry.read(row, row + 1) for row in range(0, rows, step)]).double()


def _smaller(adapter: Adapter, below: Lazy) -> bool:
    """Tell whether the adapter brings more rows than the base has."""
    return any(part.target in below.entries and part.role == "value"
               and adapter.weights.entries[part.key].shape[0] > below.entries[part.target].shape[0]
               for part in adapter.parts if part.module.rpartition(".")[2] in EMBEDDINGS)
