"""AdaLoRA: low-rank updates whose ranks are dealt out during training to the layers that use them.

Zhang et al. 2023, arXiv:2303.10512. peft keeps each update as three factors (B, E, A) and masks the singular values E
of least importance; the schedule is set here from the run's real number of steps, and the allocation is called after
each update. What is saved is a plain LoRA with one rank a layer: every loader and every merge knows that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.lora import task_type
from lingraft.train.techniques.targets import ALL, resolve, wrapped_by_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class AdaLora(BaseModel):
    """Begin with rank ``start`` everywhere and end with ``r`` on average, dealt out by importance.

    The first ``warm`` and the last ``settle`` share of the steps leave the ranks alone; in between they are dealt out
    anew every ``every`` steps. ``orthogonality`` weighs the penalty that keeps the factors near singular vectors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "adapter"

    kind: Literal["adalora"] = "adalora"
    r: int = Field(8, ge=1)
    start: int | None = Field(None, ge=2)  # None: half as much again as r
    alpha: float | None = Field(None, gt=0)  # None: twice the rank at the start
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = ALL
    warm: float = Field(0.1, ge=0, lt=1)
    settle: float = Field(0.3, ge=0, lt=1)
    every: int = Field(10, ge=1)
    orthogonality: float = Field(0.5, ge=0)

    @model_validator(mode="after")
    def _something_to_deal_out(self) -> AdaLora:
        if self.first_rank <= self.r:
            raise ValueError(f"start ({self.first_rank}) must be above r ({self.r}): ranks are taken away in training")
        if self.warm + self.settle >= 1:
            raise ValueError("warm and settle leave no steps in which ranks are dealt out; together below 1")
        return self

    @property
    def first_rank(self) -> int:
        """Return the rank that every layer begins with."""
        return self.start or max(self.r + 1, round(self.r * 1.5))

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Wrap the model with peft. Error: `recipe-invalid` for targets that do not exist."""
        from peft import AdaLoraConfig

        causal: Any = model
        config = AdaLoraConfig(
            init_r=self.first_rank,
            target_r=self.r,
            lora_alpha=self.alpha or 2 * self.first_rank,
            lora_dropout=self.dropout,
            target_modules=resolve(model, self.targets),
            task_type=task_type(causal),
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1 << 30,  # not known yet: set when training begins
        )
        return wrapped_by_peft(causal, config, self.kind)  # type: ignore[no-any-return]

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate, the callback that deals out ranks, and the penalty."""
        from lingraft.train.ranks import Ranks, skewness

        ranks = Ranks(self.warm, self.settle)
        return replace(
            tuning,
            arguments={"learning_rate": 2e-3, **tuning.arguments},
            callbacks=(*tuning.callbacks, ranks),
            keeps={**tuning.keeps, "ranks": ranks},
            penalties=(*tuning.penalties, lambda model: self.orthogonality * skewness(model)),
        )

    def fits(self, model: nn.Module) -> None:
        """Refuse (`recipe-invalid`) targets that this model has not."""
        resolve(model, self.targets)

    def writes(self, model: Any) -> bool:
        """Tell whether a trained model holds factors of three, which this technique saves as a LoRA."""
        config = getattr(model, "peft_config", {}).get("default")
        return str(getattr(getattr(config, "peft_type", None), "value", "")) == "ADALORA"

    def write(self, model: Any, base: Path, folder: Path) -> dict[str, tuple[int, ...]]:
        """Write the update of every layer as LoRA factors of its own rank; return the shapes by tensor."""
        from lingraft.train.ranks import as_lora

        return as_lora(model, base, folder)
