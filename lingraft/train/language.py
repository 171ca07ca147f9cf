"""Language modelling as a task: packed rows without padding, the loss over supervised tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lingraft.models import require_causal
from lingraft.problems import refuse
from lingraft.train.supervised import Supervised
from lingraft.train.task import Task


def collate(items: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Lay blocks back to back in one row: [1, tokens] each, nothing padded; positions keep the texts apart."""
    return {key: torch.tensor([[x for item in items for x in item[key]]]) for key in items[0]}


def load_causal(config: Any, base: Path) -> Any:
    """Load a causal language model in float32. Error: `config-mismatch`."""
    from transformers import AutoModelForCausalLM

    require_causal(base)
    try:
        return AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float32)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        why = str(error).splitlines()[0]
        refuse(
            "config-mismatch",
            f"{base} cannot be loaded as a causal language model: {why}",
            "run `lingraft inspect` on it",
            base,
        )


LANGUAGE = Task(load_causal, Supervised, collate)
