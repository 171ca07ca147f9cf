"""LoRA+: the up-projections B learn faster than the down-projections A (Hayou et al. 2024, arXiv:2402.12354)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class LoraPlus(BaseModel):
    """Stand beside a LoRA technique and multiply the learning rate of every B by ``ratio``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "nothing"

    kind: Literal["lora_plus"] = "lora_plus"
    ratio: float = Field(16.0, ge=1)

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Leave the model as it is. Error: `recipe-invalid` where no LoRA stands before this."""
        if not any("lora_B" in name for name, _ in model.named_parameters()):
            refuse(
                "recipe-invalid",
                "lora_plus: there is no LoRA for it to speed up",
                "put {kind: lora} before it in techniques",
            )
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set the rate of B, and a lower one for all, as the paper pairs them."""
        arguments = {**tuning.arguments, "learning_rate": tuning.arguments.get("learning_rate", 1e-3) / 4}
        return replace(tuning, arguments=arguments, rates=((r"lora_B", self.ratio), *tuning.rates))
