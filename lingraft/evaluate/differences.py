"""Is the difference more than noise? A paired bootstrap over documents.

Both models read the same documents, so the documents are drawn anew (with replacement) for both at once, and the
spread of the difference over the draws is its confidence interval. Source: Koehn 2004, "Statistical significance
tests for machine translation evaluation"; here for a ratio of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lingraft.evaluate.bits import BLOCK, Scored

DRAWS = 2000
LEAST = 6  # units: with n of them noise has one sign throughout, and its interval leaves zero out, with chance 2^(1-n)
FEW = 10  # documents: fewer than that are cut into blocks, else the interval would mean nothing
Pairs = list[tuple[float, float]]


def difference(reference: Sequence[Scored], other: Sequence[Scored], seed: int = 42) -> dict[str, Any]:
    """Return how much ``other`` differs from ``reference`` in bits per character, with a 95 % interval.

    ``low`` and ``high`` are None where one unit alone leaves nothing to draw from; ``significant`` says that the
    interval leaves zero out, and rests on enough units to mean it.
    """
    by_block = len(reference) < FEW
    a, b = _units(reference, by_block), _units(other, by_block)
    before, after = _ratio(a.sum(0)), _ratio(b.sum(0))
    low, high = _interval(a, b, seed) if len(a) > 1 else (None, None)
    return {
        "difference": after - before,
        "relative": after / before - 1 if before else None,
        "low": low,
        "high": high,
        "confidence": 0.95,
        "significant": _clear(low, high, len(a)),
        "unit": f"block of {BLOCK} characters" if by_block else "document",
        "units": len(a),
    }


def difference_of_outcomes(reference: Sequence[float], other: Sequence[float], seed: int = 42) -> dict[str, Any]:
    """Return how much the mean outcome of the same questions differs, with a 95 % interval, drawn by question."""
    a, b = (np.array([(value, 1.0) for value in values]) for values in (reference, other))
    before, after = _ratio(a.sum(0)), _ratio(b.sum(0))
    low, high = _interval(a, b, seed) if len(a) > 1 else (None, None)
    return {
        "difference": float(after - before),
        "relative": float(after / before - 1) if before else None,
        "low": low,
        "high": high,
        "confidence": 0.95,
        "significant": _clear(low, high, len(a)),
        "unit": "question",
        "units": len(a),
    }


def _clear(low: float | None, high: float | None, units: int) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0) and units >= LEAST


def _units(scored: Sequence[Scored], by_block: bool) -> Any:
    """Return an array [units, 2] of bits and characters."""
    if not by_block:
        return np.array([(one.bits, one.characters) for one in scored], dtype=float)
    rows: Pairs = []
    for one in scored:
        left = one.characters
        for bits in one.blocks:
            rows.append((bits, min(left, BLOCK)))
            left -= BLOCK
    return np.array(rows, dtype=float)


def _interval(a: Any, b: Any, seed: int) -> tuple[float, float]:
    draws = np.random.default_rng(seed).multinomial(len(a), np.full(len(a), 1 / len(a)), size=DRAWS)
    spread = _ratio((draws @ b).T) - _ratio((draws @ a).T)
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(low), float(high)


def _ratio(sums: Any) -> Any:
    """Return bits / characters; nothing counted is nothing needed."""
    return sums[0] / np.maximum(sums[1], 1)
