"""Whether techniques fit a model's layers, asked of its config alone: no weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def check_techniques(base: Path, techniques: Sequence[Any], stage: str) -> None:
    """Let every technique that names layers look for them in the base.

    Error: `recipe-invalid` naming the layers that exist, with the stage's path in the recipe.
    """
    from lingraft.problems import Problem, Refusal

    asking = [(number, t) for number, t in enumerate(techniques) if hasattr(t, "fits")]
    if not asking:
        return
    model = skeleton(base, stage)
    for number, technique in asking:
        try:
            technique.fits(model)
        except Refusal as refusal:
            raise Refusal(
                *(
                    Problem(p.code, f"{stage}.techniques.{number}.{p.message}", p.remedy, p.path, p.tensor)
                    for p in refusal.problems
                )
            ) from None


def skeleton(base: Path, stage: str = "pretrain") -> Any:
    """Build a model without memory for its weights, for what the stage trains."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if stage == "classify" else AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(AutoConfig.from_pretrained(base))
