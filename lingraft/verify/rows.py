"""New and old rows of an embedding or head: how many there are, and how many training changed.

A new row that has no counterpart below is untrained when it is still where such rows start: zero, the mean of the
old rows (transformers' resize adds noise of 3·10⁻⁵ of their spread), or all new rows alike. One step of Adam moves a
row by about 1 % of the spread, so there is a wide gap between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lingraft.problems import Findings, Refusal
from lingraft.weights.json_file import read_json
from lingraft.weights.tensors import Entry, Tensor, row_blocks
from lingraft.weights.tokenizer_size import tokenizer_of

BLOCK = 16 << 20
NEAR = 5e-4  # of the old rows' spread


@dataclass(frozen=True)
class RowChanges:
    """The contract's row of `embeddings`; ``why`` says what untrained new rows look like."""

    name: str
    new_rows: int
    new_rows_changed: int
    old_rows: int
    old_rows_changed: int
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "new_rows": self.new_rows,
            "new_rows_changed": self.new_rows_changed,
            "old_rows": self.old_rows,
            "old_rows_changed": self.old_rows_changed,
        }


def grown(adapter: Path, base: Path, below_rows: int, above_rows: int) -> tuple[int, int]:
    """Return where new rows begin and how many tokens there are.

    The tokenizer beside the adapter decides where it is larger than the base's rows or tokenizer; a base that was
    itself extended says so in the receipt of its vocabulary stage.
    """
    mine, theirs = _tokens(adapter), _tokens(base)
    tokens = max(mine or 0, above_rows if above_rows > below_rows else 0)
    old = extended_from(base)
    if old is not None and old < below_rows:
        return old, max(tokens, theirs or 0)
    if theirs is not None and tokens > theirs:
        return min(theirs, below_rows), tokens
    return below_rows, tokens


def extended_from(base: Path) -> int | None:
    """Return the vocabulary that a base had before its vocabulary stage, by the receipt beside it."""
    for name in ("manifest.json", "vocab.json.report", "vocab_report.json"):
        if not (base / name).is_file():
            continue
        try:
            value = read_json(base / name)
        except Refusal:
            continue
        for part in (value, value.get("result"), value.get("vocab")):
            if isinstance(part, Mapping) and isinstance(part.get("old_size"), int):
                return int(part["old_size"])
    return None


def _tokens(folder: Path) -> int | None:
    found = tokenizer_of(folder, Findings()) if folder.is_dir() else None
    return found.size if found else None


def row_changes(name: str, below: Entry, above: Entry, start: int, tokens: int) -> RowChanges:
    """Count changed rows; new ones begin at ``start``, and there are ``tokens`` tokens in all."""
    shared = min(below.shape[0], above.shape[0])
    differs = _differs(below, above, shared)
    old_changed = int(differs[:start].sum())
    new = max(max(tokens, above.shape[0] if above.shape[0] > below.shape[0] else 0) - start, 0)
    held = max(min(start + new, above.shape[0]) - start, 0)
    if not new:
        return RowChanges(name, 0, 0, min(start, shared), old_changed)
    trained = int(differs[start : start + new].sum())
    why = "they equal the base's"
    if start + held > shared:
        beyond, why = _beyond(below, above, max(start, shared), start + held, min(start, below.shape[0]))
        trained += beyond
    if held == 0:
        why = "there are none"
    return RowChanges(name, new, trained, min(start, shared), old_changed, why)


def _differs(below: Entry, above: Entry, rows: int) -> Tensor:
    found = [torch.zeros(0, dtype=torch.bool)]
    for start, stop in row_blocks((rows, *below.shape[1:]), 4, BLOCK):
        end = rows if stop is None else stop
        found.append((below.read(start, end).float() != above.read(start, end).float()).any(1))
    return torch.cat(found)


def _beyond(below: Entry, above: Entry, start: int, stop: int, old: int) -> tuple[int, str]:
    """Count rows past the end of ``below`` that are no longer where new rows start, and say where the others are."""
    mean, spread = _moments(below, old)
    rows = above.read(start, stop).float()
    still_mean = (rows - mean).norm(dim=1) < NEAR * spread
    zero = ~rows.any(1)
    alike = (rows == rows[0]).all(1) if bool((rows == rows[0]).all()) and len(rows) > 1 else torch.zeros_like(zero)
    why = (
        "they are zero"
        if bool(zero.any())
        else "they stand at the mean of the old rows"
        if bool(still_mean.any())
        else "they are all alike"
    )
    return int((~(still_mean | zero | alike)).sum()), why


def _moments(below: Entry, rows: int) -> tuple[Tensor, float]:
    """Return the mean of the old rows and the usual distance of a row from it."""
    total, square = torch.zeros(below.shape[1], dtype=torch.float64), 0.0
    for start, stop in row_blocks((rows, *below.shape[1:]), 8, BLOCK):
        block = below.read(start, rows if stop is None else stop).double()
        total += block.sum(0)
        square += float(block.square().sum())
    mean = total / max(rows, 1)
    spread = max(square / max(rows, 1) - float(mean.square().sum()), 0.0) ** 0.5
    return mean.float(), spread
