"""What a training stage is told: its block of the recipe, the model below it, and where to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingraft.problems import Findings
from lingraft.recipe import Distributed, Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lingraft.data.pack import Packed
    from lingraft.train.classified import Texts
    from lingraft.train.preferred import Pairs
    from lingraft.train.task import Task


@dataclass(frozen=True)
class Stage:
    """One training stage of a run.

    ``adapters`` are live below the new one, in order; ``out`` is the finished adapter's (or model's) directory and
    ``work`` holds what resuming needs: checkpoints, the log, and the decisions taken at the first start.
    """

    name: str
    block: Training
    base: Path
    adapters: tuple[Path, ...]
    out: Path
    work: Path
    seed: int = 42
    recipe: Mapping[str, Any] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    distributed: Distributed | None = None


@dataclass(frozen=True)
class Examples:
    """What a stage trains on: the data, the tokenizer and template that made it, and the task (None: language)."""

    train: Packed | Texts | Pairs
    validation: Packed | Texts | Pairs | None
    tokenizer: PreTrainedTokenizerBase
    template: str | None = None
    task: Task | None = None
