"""Checkpoint averaging: the result is the mean of the weights at the last few points of the run.

Izmailov et al. 2018, arXiv:1803.05407 (of weights along a trajectory). The factors of a LoRA are averaged one by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Average(BaseModel):
    """Average the trained weights of ``last`` points, ``every`` steps apart (None: 2 % of the run), up to the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "nothing"

    kind: Literal["average"] = "average"
    last: int = Field(5, ge=2)
    every: int | None = Field(None, ge=1)

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Leave the model as it is."""
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Add the callback that keeps the mean. Error: `recipe-invalid` beside a best checkpoint."""
        from lingraft.train.mean import Mean

        mean: Any = Mean(self.last, self.every)
        return replace(tuning, callbacks=(*tuning.callbacks, mean), keeps={**tuning.keeps, "mean": mean})
