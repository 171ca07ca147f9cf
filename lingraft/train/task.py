"""What differs between language modelling and classification: loading, the loss, batches and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Task:
    """How a stage's model is loaded, made to return a loss, and fed.

    ``wrap(model, dtype, smoothing)`` returns a module whose forward gives {"loss", …} and which has ``dtype``;
    ``load(config, base)`` returns the bare model in float32; ``defaults`` are Trainer arguments of the task, under
    those of the recipe. ``trainer(model, arguments, examples, dtype, callbacks, rates)`` builds another Trainer.
    """

    load: Callable[[Any, Path], Any]
    wrap: Callable[[Any, torch.dtype, float], nn.Module]
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    metrics: Callable[[Any], dict[str, float]] | None = None
    trainer: Callable[..., Any] | None = None
