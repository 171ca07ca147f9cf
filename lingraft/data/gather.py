"""Preferences and labelled texts, which fit into memory: read, cleaned, held out, leaks kept out.

The same steps in the same order as `make` takes them for data of any size, so that the reports say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from lingraft.data import text
from lingraft.data.clean import Item, Readable, Step, Told, clean, steps_of
from lingraft.data.leakage import guard, without
from lingraft.data.text import require_some
from lingraft.problems import Findings, refuse
from lingraft.recipe import Data, resolve

Mask = npt.NDArray[np.bool_]
Read = Callable[[Sequence[Path | str], Findings], list[Item]]


@dataclass(frozen=True)
class Gathered(Generic[Item]):
    """What to train on and what to validate with; ``told`` is what the report says of the way there."""

    train: list[Item]
    held: list[Item]
    told: dict[str, Any]


def gather(read: Read[Item], block: Data, seed: int, protected: Sequence[str], findings: Findings) -> Gathered[Item]:
    """Read and clean a block's rows and hold some out; ``protected`` files are what `leakage` keeps out besides.

    Errors: those of ``read``, `recipe-invalid` for a step that is not known, `data-invalid` where nothing is left.
    """
    steps = steps_of(block.clean)
    given = [block.data] if isinstance(block.data, str) else list(block.data or [])
    items = read([resolve(path) for path in given], findings)
    rows, told = len(items), [Told(step.name) for step in steps]
    items = list(clean(items, steps, told))
    require_some(bool(items), given, "cleaning left nothing of it")
    held: list[Item] = []
    if isinstance(block.validation, str):
        held = read([resolve(block.validation)], findings)
    elif block.validation is not None:
        chosen = hold_out(len(items), block.validation, seed, given[0])
        held = [item for item, out in zip(items, chosen, strict=True) if out]
        items = [item for item, out in zip(items, chosen, strict=True) if not out]
        rows -= len(held)
    items = _unleaked(items, held, steps, told, protected, findings)
    require_some(bool(items), given, "cleaning left nothing of it")
    found = {"rows_in": rows, "held_out": len(held), "clean": [asdict(one) for one in told]}
    return Gathered(items, held, found)


def hold_out(rows: int, share: float, seed: int, name: str) -> Mask:
    """Choose a random ``share`` of the rows, at least one: bool [rows]. Error: `data-invalid`."""
    count = max(1, round(rows * share))
    if not 0 < share < 1 or count >= rows:
        refuse(
            "data-invalid",
            f"{name}: a validation share of {share:g} of {rows} rows leaves nothing to "
            f"{'train on' if share > 0 else 'validate with'}",
            "give more data, a smaller share, or a path",
            name,
        )
    held = np.zeros(rows, dtype=bool)
    held[np.random.default_rng(seed).permutation(rows)[:count]] = True
    return held


def _unleaked(
    items: list[Item],
    held: Sequence[Item],
    steps: Sequence[Step],
    told: Sequence[Told],
    protected: Sequence[str],
    findings: Findings,
) -> list[Item]:
    """Drop what stands in held-out rows or protected files, where the step `leakage` is chosen."""
    for step, one in zip(steps, told, strict=True):
        if step.late is not None:
            files = [resolve(name) for name in (*protected, *step.late["against"])]
            away: list[Readable] = [*held, *(text.documents(files, findings) if files else [])]
            items = list(without(items, guard(step.late, away), one))
    return items
