"""What one task came to: its metrics, and how every question ended, so that two models can be held apart from noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """A task's metrics; ``outcomes`` holds ``measure`` of every question in order, where it is known."""

    metrics: Mapping[str, float]
    measure: str = ""
    outcomes: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields, as the cache keeps them."""
        return {"metrics": dict(self.metrics), "measure": self.measure, "outcomes": list(self.outcomes)}

    @staticmethod
    def of_json(value: Mapping[str, Any]) -> Result:
        """Return what `as_json` wrote."""
        return Result(dict(value["metrics"]), str(value["measure"]), tuple(value["outcomes"]))


def mean(values: Sequence[float]) -> float:
    """Return the mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
