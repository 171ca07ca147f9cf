"""Train every parameter; what comes out is a whole model, not an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Full(BaseModel):
    """Train all parameters, with full-precision master weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "model"

    kind: Literal["full"] = "full"

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Thaw every parameter."""
        return model.requires_grad_(True)

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for whole weights."""
        return replace(tuning, arguments={"learning_rate": 5e-5, **tuning.arguments})
