"""Geometry of the report's pictures: numbers in, SVG paths and ticks out. No picture is a bitmap, no text is a path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lingraft.evaluate.figures import is_number

MOST = 400  # points drawn of a curve; a longer log is averaged into that many
SMOOTH = 12  # points from which on a smoothed line is drawn over the raw one
WIDTH, HEIGHT = 1000.0, 300.0
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: what it says, and where in per cent from the left or the top."""

    label: str
    place: float


@dataclass(frozen=True)
class Curve:
    """A loss curve in a box of 1000 × 300, stretched to the page by the browser."""

    raw: str
    smooth: str
    marks: tuple[Point, ...]  # validation losses, in per cent
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    last: float
    points: int


def curve(log: Sequence[Mapping[str, Any]]) -> Curve | None:
    """Return the curve of a training log, or None where it has fewer than two finite losses."""
    points = _points(log, "loss")
    if len(points) < 2:
        return None
    checks = _points(log, "eval_loss")
    drawn = _thinned(points)
    smooth = _smoothed(drawn) if len(drawn) >= SMOOTH else drawn
    low_x, high_x = points[0][0], max(points[-1][0], points[0][0] + 1)
    ticks = nice([y for _, y in (*drawn, *checks)])
    low_y, high_y = ticks[0], ticks[-1]

    def place(point: Point) -> Point:
        return (point[0] - low_x) / (high_x - low_x), (high_y - point[1]) / (high_y - low_y)

    def path(line: Sequence[Point]) -> str:
        return " ".join(
            f"{'L' if i else 'M'}{x * WIDTH:.1f} {y * HEIGHT:.1f}" for i, (x, y) in enumerate(map(place, line))
        )

    steps = [t for t in nice([low_x, high_x]) if low_x <= t <= high_x and t == int(t)]
    return Curve(
        raw=path(drawn),
        smooth=path(smooth),
        marks=tuple((100 * x, 100 * y) for x, y in map(place, checks)),
        x_ticks=tuple(Tick(f"{t:,.0f}", 100 * (t - low_x) / (high_x - low_x)) for t in steps),
        y_ticks=tuple(Tick(f"{t:g}", 100 * (high_y - t) / (high_y - low_y)) for t in ticks),
        first=smooth[0][1],
        last=smooth[-1][1],
        points=len(points),
    )


def nice(values: Sequence[float], about: int = 4) -> list[float]:
    """Return about four round numbers that span the values (Heckbert 1990, "Nice numbers for graph labels")."""
    low, high = min(values), max(values)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, last + 1)]


def shares(values: Sequence[Any]) -> list[float]:
    """Return every value in per cent of the largest; what is no number is 0."""
    known = [float(v) if is_number(v) else 0.0 for v in values]
    most = max(known, default=0.0)
    return [100 * v / most if most > 0 else 0.0 for v in known]


def _points(log: Sequence[Mapping[str, Any]], field: str) -> list[Point]:
    return [
        (float(row["step"]), float(row[field]))
        for row in log
        if is_number(row.get("step")) and is_number(row.get(field))
    ]


def _thinned(points: list[Point]) -> list[Point]:
    if len(points) <= MOST:
        return points
    edges = [len(points) * i // MOST for i in range(MOST + 1)]
    return [_mean(points[a:b]) for a, b in pairwise(edges) if b > a]


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _smoothed(points: list[Point]) -> list[Point]:
    """Average over a centred span of a tenth of the curve, so that neither end is dragged."""
    half = max(len(points) // 20, 1)
    return [(x, _mean(points[max(i - half, 0) : i + half + 1])[1]) for i, (x, _) in enumerate(points)]
