"""Stop when validation no longer improves, and keep the best checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class EarlyStopping(BaseModel):
    """Stop after ``patience`` evaluations without an improvement of more than ``threshold`` in the validation loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = True
    leaves: ClassVar[Leaves] = "nothing"

    kind: Literal["early_stopping"] = "early_stopping"
    patience: int = Field(3, ge=1)
    threshold: float = Field(0.0, ge=0)

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Leave the model as it is."""
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Evaluate and save together, watch the validation loss, and load the best checkpoint at the end."""
        from transformers import EarlyStoppingCallback

        watch = EarlyStoppingCallback(self.patience, self.threshold)
        arguments = {"eval_strategy": "steps", "eval_steps": 0.1, "load_best_model_at_end": True, **tuning.arguments}
        return replace(tuning, arguments=arguments, callbacks=(*tuning.callbacks, watch))
