"""Is every tensor of a merged model base + adapters, rounded once?

The expected value is computed in float32 and rounded to the dtype that the model stores. A tensor that the merge
only copies or replaces must equal it bit for bit. A computed one may differ where two correct computations may:
a matrix product sums in another order on another machine, so the float32 value carries a noise of some ulps of the
change, and near a tie it rounds the other way. Hence |stored - exact| ≤ ½ ulp(stored dtype) + noise.

Half precision merged in half precision (peft does so in a model loaded in bf16) is rounded twice or thrice: base,
change and sum. Values that are exactly what that gives are accepted and told, since merging in float32 is nearer.

In float32 itself noise and a flipped lowest bit look alike, value by value; but noise touches many values and a
flipped bit touches one. So where noise would have touched far more values than differ, they are faults; otherwise
rows where a few values differ are computed again in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch

from lingraft.merge.updates import LowRank, Replace, Rows, Update
from lingraft.verify.difference import difference, spacing
from lingraft.weights.tensors import Entry, Lazy, Tensor, row_blocks

BLOCK = 4 << 20  # in float64; it stays in the processor's cache
EPS = torch.finfo(torch.float32).eps
NOISE = 8 * EPS  # of the largest change in a row: √rank roundings of a product, rank up to 64
FEW = 0.01  # of a tensor's values
STEPS = 3  # times the roundings of a sum, for what is computed in more steps (DoRA, IA3)
ROWS = 256  # computed again at a time


@dataclass(frozen=True)
class Fault:
    """A tensor that is not what the merge gives: how far off, where first, and what it looks like instead."""

    name: str
    max_abs: float | None
    rel: float | None
    first_row: int | None
    rows: int
    why: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Truth:
    """What a merged model must be: the base, the exact tensors on top of it, and the updates that lead there."""

    base: Lazy
    exact: Lazy
    updates: Mapping[str, Sequence[Update]]


@dataclass(frozen=True)
class Verdict:
    """One tensor judged: its largest distance from the truth, the fault if any, and whether it was merged in half."""

    largest: float
    fault: Fault | None = None
    in_half: bool = False


def judge(truth: Truth, name: str, stored: Entry) -> Verdict:
    """Hold one stored tensor against the truth."""
    exact = truth.exact.entries[name]
    if exact.shape != stored.shape:
        why = f"its shape is {list(stored.shape)}, not {list(exact.shape)}"
        return Verdict(0.0, Fault(name, None, None, None, 0, why))
    copied = _only_copied(truth.updates.get(name, ()))
    seen = _Seen()
    for start, stop in row_blocks(exact.shape, 8, BLOCK):
        _block(truth, name, exact.read(start, stop), stored.read(start, stop), (start, stop), copied, seen)
    if seen.bad:
        why = f"{seen.bad:,} values are NaN or infinite"
        return Verdict(float("inf"), Fault(name, None, None, min(seen.rows), len(seen.rows), why))
    if seen.tolerated and not (copied or seen.in_half) and seen.tolerated < FEW * seen.values:
        _again(truth, name, stored, seen)
    if not _all_low_rank(truth, name) and seen.in_half + len(seen.doubtful) > FEW * seen.values:
        seen.in_half += len(seen.doubtful)  # products and norms in half precision: rounded at several places
    elif seen.doubtful and len(seen.doubtful) > FEW * seen.in_half:
        seen.rows.update(seen.doubtful)
    if not seen.rows:
        return Verdict(seen.largest, None, seen.in_half > 0)
    first = min(seen.rows)
    why, rel = diagnose(truth, name, stored, first), difference(exact, stored).rel
    return Verdict(seen.largest, Fault(name, seen.largest, rel, first, len(seen.rows), why))


def _only_copied(updates: Sequence[Update]) -> bool:
    """Tell whether nothing is computed after the last whole replacement."""
    kept = list(updates)
    while kept and isinstance(kept[-1], Rows):
        kept.pop()
    return not kept or isinstance(kept[-1], Replace)


@dataclass
class _Seen:
    """What walking through a tensor's blocks has shown so far."""

    largest: float = 0.0
    rows: set[int] = field(default_factory=set)  # with a fault
    bad: int = 0
    values: int = 0
    tolerated: int = 0
    in_half: int = 0  # values that only a merge in half precision gives
    doubtful: list[int] = field(default_factory=list)  # rows of values as near as those, and not equal to them
    near: list[int] = field(default_factory=list)  # rows with tolerated values
    stages: list[Entry] = field(default_factory=list)  # the tensor after each update, where values need a second look

    def fault(self, rows: Tensor, start: int) -> None:
        self.rows.update((start + rows.nonzero().flatten()).tolist())


def _block(
    truth: Truth, name: str, exact: Tensor, stored: Tensor, span: tuple[int, int | None], copied: bool, seen: _Seen
) -> None:
    start = span[0]
    seen.values += stored.numel()
    want = exact.to(stored.dtype)
    differs = want != stored  # NaN differs from itself
    same = not bool(differs.any())
    if not stored.is_floating_point():
        if not same:
            seen.fault(_by_row(differs), start)
        return
    apart = _apart(stored, exact)
    largest = float(apart.max()) if apart.numel() else 0.0
    if not isfinite(largest) and not bool((finite := torch.isfinite(stored)).all()):
        seen.bad += int((~finite).sum())
        seen.fault(_by_row(~finite), start)
        return
    seen.largest = max(seen.largest, largest)
    if same:
        return
    if copied:
        seen.fault(_by_row(differs), start)
        return
    old = _below(truth, name, exact, span)
    near = differs & (apart <= _tolerance(exact, old, stored.dtype))
    beyond = differs & ~near
    if bool(beyond.any()) and stored.dtype.itemsize == 2:
        steps = 1 if _all_low_rank(truth, name) else STEPS
        within = beyond & (apart <= steps * _loose(truth, name, old, span, stored.dtype, seen))
        beyond = _half(exact, old, stored, within, beyond, start, seen)
    if bool(beyond.any()):
        seen.fault(_by_row(beyond), start)
    if stored.dtype == torch.float32 and _too_few(near, exact, old):
        seen.fault(_by_row(near), start)
        return
    seen.tolerated += int(near.sum())
    if bool(near.any()):
        seen.near += (start + _by_row(near).nonzero().flatten()).tolist()


def _apart(stored: Tensor, exact: Tensor) -> Tensor:
    """Return the distance of each value: in float32 it is exact for neighbours, and half the bytes of float64."""
    if torch.float64 in (stored.dtype, exact.dtype):
        return stored.double().sub_(exact).abs_()
    exact = exact.float() if exact.dtype.itemsize == 1 else exact  # torch subtracts no float8
    return (stored - exact if stored.dtype == torch.float32 else stored.float().sub_(exact)).abs_()


def _by_row(mask: Tensor) -> Tensor:
    return mask.reshape(mask.shape[0], -1).any(1) if mask.ndim else mask.reshape(1)


def _below(truth: Truth, name: str, exact: Tensor, span: tuple[int, int | None]) -> Tensor:
    """Return the base's values where it has a tensor of this shape, else zeros."""
    below = truth.base.entries.get(name)
    if below is None or below.shape != truth.exact.entries[name].shape:
        return torch.zeros_like(exact, dtype=torch.float32)
    return below.read(*span).float()


def _tolerance(exact: Tensor, old: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a rounding step of the stored dtype, and the noise of a float32 computation of the change."""
    change = (exact.float() - old).abs()
    largest = change.reshape(change.shape[0], -1).amax(1) if change.ndim else change.reshape(1)
    noise = NOISE * largest.reshape(-1, *[1] * (change.ndim - 1)) if change.ndim else NOISE * largest[0]
    half = 0.5 * spacing(exact.float(), dtype)
    own = spacing(exact.float(), torch.float32)  # float32's own last rounding
    return half + own + noise.double()


def _loose(
    truth: Truth, name: str, old: Tensor, span: tuple[int, int | None], dtype: torch.dtype, seen: _Seen
) -> Tensor:
    """Return how far a merge may be off that rounds to ``dtype`` at every step: each value and each change of it."""
    if not seen.stages:
        below = truth.base.entries.get(name, truth.exact.entries[name])
        for update in truth.updates.get(name, ()):
            below = update.onto(below)
            seen.stages.append(below)
    loose, earlier = 0.5 * spacing(old, dtype), old
    for stage in seen.stages:
        if stage.shape == truth.exact.entries[name].shape:
            later = stage.read(*span).float()
            loose = loose + 0.5 * spacing(later, dtype) + 0.5 * spacing(later - earlier, dtype)
            earlier = later
    return loose


def _half(
    exact: Tensor, old: Tensor, stored: Tensor, within: Tensor, beyond: Tensor, start: int, seen: _Seen
) -> Tensor:
    """Take out the values that a merge in the stored dtype gives; return what is still beyond."""
    dtype = stored.dtype
    change = exact.float() - old
    rounded = old.to(dtype)
    equal = beyond & ((stored == rounded + change.to(dtype)) | (stored == (rounded.float() + change).to(dtype)))
    doubtful = within & ~equal
    seen.in_half += int(equal.sum())
    if bool(doubtful.any()):
        seen.doubtful += (start + doubtful.nonzero()[:, 0]).tolist() if doubtful.ndim else [0]
    return beyond & ~equal & ~doubtful


def _too_few(near: Tensor, exact: Tensor, old: Tensor) -> bool:
    """Tell whether noise would have touched ten times as many values as differ: then something else did."""
    touched = (EPS * (exact - old).abs() / spacing(exact, torch.float32)).clamp(max=1.0)
    likely = 0.25 * float(touched.sum())
    return likely > 10 and 0 < int(near.sum()) < likely / 10


def _all_low_rank(truth: Truth, name: str) -> bool:
    return all(isinstance(update, LowRank) for update in truth.updates.get(name, ()))


def _again(truth: Truth, name: str, stored: Entry, seen: _Seen) -> None:
    """Compute rows with a few deviating values in float64, where the updates are plain low-rank products."""
    updates = truth.updates.get(name, ())
    below = truth.base.entries.get(name)
    if below is None or not updates or not _all_low_rank(truth, name) or below.shape != stored.shape:
        return
    rows = torch.tensor(sorted(seen.near))
    for some in torch.split(rows, ROWS):
        exact = _gather(below, some).double()
        change = torch.zeros_like(exact)
        for update in updates:
            assert isinstance(update, LowRank)
            change += _rows64(update, some)
        found = _gather(stored, some)
        half = 0.5 * spacing((exact + change).float(), stored.dtype)
        beyond = _by_row((found.double() - exact - change).abs() > half + 4 * EPS * change.abs())
        if bool(beyond.any()):
            seen.rows.update(some[beyond].tolist())


def _gather(entry: Entry, rows: Tensor) -> Tensor:
    return torch.cat([entry.read(int(row), int(row) + 1) for row in rows])


def _rows64(update: LowRank, rows: Tensor) -> Tensor:
    a, b = update.a.read(0, None).double(), update.b.read(0, None).double()
    product = (b @ a[:, rows]).T if update.transposed else b[rows] @ a
    return product * update.scale


def diagnose(truth: Truth, name: str, stored: Entry, row: int) -> str:
    """Say what a wrong tensor looks like: the base's own, the change applied k times, transposed, rows moved."""
    exact, below = truth.exact.entries[name], truth.base.entries.get(name)
    start = max(0, row - 32)
    stop = min(exact.shape[0], row + 33) if exact.shape else None
    want, found = exact.read(start, stop).double(), stored.read(start, stop).double()
    if not bool(torch.isfinite(found).all()):
        return "NaN or infinite values"
    wrong = _by_row(want != found) if want.ndim else torch.ones(1, dtype=torch.bool)
    if want.ndim == 2 and want.shape[1] == exact.shape[0]:
        turned = stored.read(0, None)[:, start:stop].T.double()
        if float((turned - want).norm()) < 0.01 * float((found - want).norm()):
            return "it is transposed"
    if below is not None and below.shape == exact.shape:
        old = below.read(start, stop).double()
        if told := _times(want[wrong] - old[wrong], found[wrong] - old[wrong]):
            return told
    if not bool(found[wrong].any()):
        return "its rows are zero"
    if want.ndim and _same_values(want, found):
        return "the right rows in the wrong places"
    return "other values"


def _times(change: Tensor, has: Tensor) -> str | None:
    """Tell how many times the adapters' change is in a tensor, where it is a multiple of it."""
    square = float(change.square().sum())
    if not square:
        return None
    factor = float((change * has).sum()) / square
    rest = float((has - factor * change).norm()) / square**0.5
    if rest > 0.2:
        return None
    if abs(factor) < 0.05:
        return "it is the base's own: the change was not applied"
    return f"the adapters' change is in it {factor:.3g} times" if abs(factor - 1) > 0.01 else None


def _same_values(want: Tensor, found: Tensor) -> bool:
    one, other = (t.reshape(t.shape[0], -1).sum(1) for t in (want, found))
    return not torch.allclose(one, other, rtol=1e-3, atol=1e-4) and bool(
        torch.allclose(one.sort().values, other.sort().values, rtol=1e-3, atol=1e-4)
    )
