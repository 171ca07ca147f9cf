"""How far two tensors lie apart, block by block, so that neither is ever whole in memory.

NaN hides in a maximum (every comparison with it is false), so it is looked for first and counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from lingraft.weights.tensors import Entry, Tensor, row_blocks

BLOCK = 16 << 20


@dataclass(frozen=True)
class Difference:
    """The distance of ``b`` from ``a``; ``max_abs`` and ``rel`` are None where a value is NaN or infinite.

    ``rel`` is the Frobenius norm of b - a over that of a. ``row`` is the first row that differs, ``rows`` how many do.
    ``excess`` is the largest distance in units of the tolerance that was asked for (0 without one).
    """

    equal: bool
    max_abs: float | None
    rel: float | None
    row: int | None = None
    rows: int = 0
    non_finite_a: int = 0
    non_finite_b: int = 0
    excess: float = 0.0

    @property
    def finite(self) -> bool:
        return not (self.non_finite_a or self.non_finite_b)


def difference(a: Entry, b: Entry, steps: float | None = None) -> Difference:
    """Compare two tensors of one shape value by value; dtypes may differ (both are widened to float64 or int64).

    ``steps`` asks for a tolerance of that many rounding steps of ``b``'s dtype at each value of ``a``.
    """
    largest, over, square, base, row, rows = 0.0, 0.0, 0.0, 0.0, None, 0
    bad_a = bad_b = 0
    equal = True
    for start, stop in row_blocks(a.shape, 8, BLOCK):
        one, other = a.read(start, stop), b.read(start, stop)
        bad_a, bad_b = bad_a + _bad(one), bad_b + _bad(other)
        wide, apart = _apart(one, other)
        base += float(wide.square().sum())
        if not bool(apart.any()):
            continue
        equal = False
        largest = max(largest, float(apart.abs().max()))
        square += float(apart.square().sum())
        touched = apart.reshape(apart.shape[0], -1).ne(0).any(1) if apart.ndim else apart.ne(0).reshape(1)
        row = start + int(touched.nonzero()[0]) if row is None else row
        rows += int(touched.sum())
        if steps is not None:
            over = max(over, float((apart.abs() / (steps * spacing(wide, b.dtype))).max()))
    finite = isfinite(square) and isfinite(base) and not (bad_a or bad_b)
    rel = (sqrt(square / base) if base else (0.0 if equal else 1.0)) if finite else None
    return Difference(equal, largest if finite else None, rel, row, rows, bad_a, bad_b, over)


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance between neighbouring numbers of ``dtype`` at each value (one rounding is half of it)."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.double())
    step = torch.ldexp(torch.full_like(values, info.eps, dtype=torch.float64), exponent - 1)
    return step.clamp(min=info.smallest_normal * info.eps)


def _bad(block: Tensor) -> int:
    if not block.is_floating_point():
        return 0
    finite = torch.isfinite(block.float() if block.dtype.itemsize == 1 else block)  # not for float8
    return 0 if bool(finite.all()) else int((~finite).sum())


def _apart(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return a in float64 and b - a; NaN against NaN and infinity against the same infinity are no difference."""
    wide, apart = one.double(), other.double() - one.double()
    if not bool(torch.isfinite(apart).all()):
        same = (one.double() == other.double()) | (one.isnan() & other.isnan()) if one.is_floating_point() else None
        apart = torch.where(same, 0.0, apart) if same is not None else apart
        apart = torch.nan_to_num(apart, nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
        wide = torch.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0)
    return wide, apart
