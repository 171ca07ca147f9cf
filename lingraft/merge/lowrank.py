"""The best low-rank approximation of a matrix, by a randomised range finder.

Halko, Martinsson and Tropp 2011 (SIAM Review 53:2), algorithms 4.4 (subspace iteration with a QR step each time) and
5.1 (SVD of the projected matrix). Everything in float32; the sketch is seeded, so the same matrix gives the same
factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lingraft.weights.tensors import Tensor

OVERSAMPLING = 10
ITERATIONS = 4
SMALL = 256  # up to this size the exact SVD is as fast


@dataclass(frozen=True)
class Factors:
    """``b @ a`` approximates the matrix: b is (rows, r), a is (r, columns); ``energy`` is the share kept of ‖·‖²."""

    a: Tensor
    b: Tensor
    energy: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


def factorise(matrix: Tensor, rank: int | None = None, energy: float | None = None, seed: int = 0) -> Factors:
    """Return factors of rank ``rank``, or of the smallest rank that keeps the share ``energy`` of the squared norm.

    Each factor takes the square root of the singular values, so that neither is much larger than the other.
    """
    total = float(matrix.double().square().sum())
    limit = min(matrix.shape)
    size = limit if energy is not None and energy >= 1 else min(rank or 16, limit)
    while True:
        u, s, v = _svd(matrix, size, seed)
        wanted = size if energy is None else _needed(s, energy * total)
        if wanted is not None or size == limit:
            break
        size = min(2 * size, limit)
    kept = min(wanted or size, max(int((s > s[0] * 1e-7).sum()), 1))
    root = s[:kept].sqrt()
    share = float(s[:kept].double().square().sum()) / total if total else 1.0
    return Factors((root[:, None] * v[:kept]).contiguous(), (u[:, :kept] * root).contiguous(), min(share, 1.0))


def _needed(values: Tensor, wanted: float) -> int | None:
    """Return how many singular values reach the wanted energy, or None where all of these do not."""
    reached = torch.cumsum(values.double().square(), 0) >= wanted
    return int(torch.argmax(reached.int())) + 1 if bool(reached.any()) else None


def _svd(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = matrix.shape
    size = min(rank + OVERSAMPLING, rows, columns)
    if min(rows, columns) <= SMALL or 2 * size >= min(rows, columns):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    sketch = torch.randn(columns, size, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]
