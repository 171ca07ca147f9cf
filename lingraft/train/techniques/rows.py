"""Only the rows that the vocabulary stage added: a first stage that teaches new words to a model left as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.lora import new_rows

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Rows(BaseModel):
    """Train the added rows of embedding and head and nothing else; on a tied model they are one set of values."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "adapter"

    kind: Literal["rows"] = "rows"

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:
        """Wrap the model with peft. Error: `recipe-invalid` where no vocabulary stage added rows."""
        from peft import TrainableTokensConfig, get_peft_model

        causal: Any = model
        found = new_rows(causal, setting)
        if not found:
            refuse("recipe-invalid", "rows: the vocabulary stage added none", "raise vocab.size", setting.base)
        # peft finds out by itself that a head is tied, and lets it follow.
        config = TrainableTokensConfig(
            token_indices=next(iter(found.values())), target_modules=sorted(found), task_type="CAUSAL_LM"
        )
        wrapped: nn.Module = get_peft_model(causal, config)
        return wrapped

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for single rows."""
        return replace(tuning, arguments={"learning_rate": 1e-3, **tuning.arguments})
