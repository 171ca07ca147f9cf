"""How many steps fit in the minutes a recipe allows, by measuring this machine on the first real batch.

The decision, and the type that is multiplied in, are taken once and written down: a resumed run follows them, so
that it ends with the very weights of one that was never interrupted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lingraft import accelerator
from lingraft.output import write_json

_RESERVE = 4.0  # seconds kept for the last checkpoint and for writing and reopening the result
_LEAST = 10  # steps: with fewer a warm-up is all there is, and nothing would be learnt
_MARGIN = 1.05  # steps of an update and the log cost a little beyond forward and backward


@dataclass(frozen=True)
class Decision:
    """What a stage decided at its first start: the compute type and, where minutes bound it, the steps."""

    dtype: str
    max_steps: int | None = None
    seconds_per_step: float | None = None


def recall(work: Path) -> Decision | None:
    """Return the decision of an earlier start, if there was one."""
    path = work / "decision.json"
    try:
        return Decision(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember(work: Path, decision: Decision) -> None:
    """Write the decision down."""
    write_json(work / "decision.json", asdict(decision))


def steps_that_fit(minutes: float, spent: float, seconds_per_step: float) -> int:
    """Return how many steps fit into ``minutes`` of which ``spent`` seconds are gone; at least `_LEAST`."""
    left = minutes * 60 - spent - _RESERVE
    return max(_LEAST, int(left / (seconds_per_step * _MARGIN)))


def seconds_of(step: Callable[[], Any]) -> float:
    """Measure ``step`` (no update in it), leaving the random state as it was; the median after a warm-up."""
    state = torch.get_rng_state()
    try:
        step()
        return median(_timed(step) for _ in range(3))
    finally:
        torch.set_rng_state(state)


def _timed(step: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    accelerator.synchronize(accelerator.kind())
    return time.perf_counter() - started


def forward_and_backward(model: torch.nn.Module, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Run real batches through the model and drop the gradients."""
    model.train()
    for batch in batches:
        model(**batch)["loss"].backward()
    model.zero_grad(set_to_none=True)
