"""The running mean of trained weights over the last points of a run, kept in its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

_COUNT = "count"


class Mean(TrainerCallback):  # type: ignore[misc]
    """Take the trained weights at ``last`` points, ``every`` steps apart; put their mean into the model at the end."""

    def __init__(self, last: int, every: int | None) -> None:
        self.last = last
        self.every = every
        self.count = 0
        self.means: dict[str, Tensor] = {}

    def on_step_end(self, _args: Any, state: Any, _control: Any, **more: Any) -> None:
        """Add this step's weights where it is one of the points."""
        every = self.every or max(1, round(0.02 * state.max_steps))
        left = state.max_steps - state.global_step
        if left % every or left // every >= self.last:
            return
        self.count += 1
        for name, parameter in _trained(more["model"]):
            value = parameter.detach().float()
            had = self.means.get(name)
            self.means[name] = value.clone() if had is None else had + (value - had) / self.count

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **more: Any) -> None:
        """Put the mean into the model."""
        if self.count:
            with torch.no_grad():
                for name, parameter in _trained(more["model"]):
                    parameter.copy_(self.means[name])

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {**self.means, _COUNT: torch.tensor(self.count)} if self.count else {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what a checkpoint held."""
        self.count = int(tensors.get(_COUNT, torch.tensor(0)))
        self.means = {name: value for name, value in tensors.items() if name != _COUNT}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    inner: nn.Module = getattr(model, "module", model)  # inside what wraps it for several processes
    return [(name, p) for name, p in inner.named_parameters() if p.requires_grad]
