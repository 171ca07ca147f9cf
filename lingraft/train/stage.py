"""What a training stage is told: its block of the recipe, the model below it, and where to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingraft.problems import Findings
from lingraft.recipe import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lingraft.data.pack import Packed


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


@dataclass(frozen=True)
class Examples:
    """What a stage trains on: blocks of tokens, the tokenizer that made them, and the template that rendered them."""

    train: Packed
    validation: Packed | None
    tokenizer: PreTrainedTokenizerBase
    template: str | None = None
