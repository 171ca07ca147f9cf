"""IA3: learned scales on keys, values and feed-forward activations (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.lora import task_type
from lingraft.train.techniques.targets import resolve

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Ia3(BaseModel):
    """Train one scale per feature; ``targets`` and ``feedforward`` are peft's choice for the model, or named here."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "adapter"

    kind: Literal["ia3"] = "ia3"
    targets: list[str] | None = None
    feedforward: list[str] | None = None

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Wrap the model with peft. Error: `recipe-invalid` for layers that do not exist or are not known."""
        from peft import IA3Config, get_peft_model

        self.fits(model)
        causal: Any = model
        config = IA3Config(
            task_type=task_type(causal), target_modules=self.targets, feedforward_modules=self.feedforward
        )
        try:
            wrapped: nn.Module = get_peft_model(causal, config)
        except ValueError as error:
            refuse("recipe-invalid", f"ia3: {error}", "name targets and feedforward layers")
        return wrapped

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for scales."""
        return replace(tuning, arguments={"learning_rate": 3e-3, **tuning.arguments})

    def fits(self, model: nn.Module) -> None:
        """Refuse (`recipe-invalid`) layers that this model has not."""
        if self.targets is not None:
            resolve(model, [*self.targets, *(self.feedforward or [])])
