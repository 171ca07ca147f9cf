"""Mix sources by weight: which segments of each are drawn, how often, and what share of the tokens they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lingraft.data.store import Ints, Longs


@dataclass(frozen=True)
class Part:
    """One source of a mixture: its weight, and the numbers of its segments, [first, stop)."""

    name: str
    weight: float
    segments: Longs


@dataclass(frozen=True)
class Drawn:
    """What came of a source: ``epochs`` is how often its tokens are seen, ``share`` their part of the mixture."""

    source: str
    weight: float
    tokens: int
    drawn: int
    epochs: float
    share: float


def draw(parts: Sequence[Part], lengths: Ints, seed: int) -> tuple[Longs, list[dict[str, Any]]]:
    """Choose segments so that the sources' tokens stand in proportion to their weights.

    The source of the greatest weight is used once and whole; the others are drawn at random, repeated or
    left out in part, to fit it.
    """
    anchor = max(parts, key=lambda part: part.weight)
    per_weight = int(lengths[anchor.segments].sum(dtype=np.int64)) / anchor.weight
    chosen = [
        part.segments if part is anchor else _fill(part.segments, lengths, part.weight * per_weight, (seed, number))
        for number, part in enumerate(parts)
    ]
    there = [int(lengths[part.segments].sum(dtype=np.int64)) for part in parts]
    drawn = [int(lengths[numbers].sum(dtype=np.int64)) for numbers in chosen]
    told = [
        asdict(
            Drawn(
                part.name, part.weight, have, take, round(take / max(have, 1), 3), round(take / max(sum(drawn), 1), 4)
            )
        )
        for part, have, take in zip(parts, there, drawn, strict=True)
    ]
    return np.concatenate(chosen), told


def _fill(segments: Longs, lengths: Ints, tokens: float, seed: tuple[int, int]) -> Longs:
    """Draw segments, each once before any comes again, until ``tokens`` are reached."""
    rng = np.random.default_rng(seed)
    sizes = lengths[segments].astype(np.int64)
    if not sizes.sum():
        return segments
    rounds = []
    while tokens > 0:
        order = rng.permutation(len(segments))
        sums = np.cumsum(sizes[order])
        rounds.append(segments[order[: int(np.searchsorted(sums, tokens)) + 1]])
        tokens -= float(sums[-1])
    return np.concatenate(rounds)
