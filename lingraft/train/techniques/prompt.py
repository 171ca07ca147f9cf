"""Prompt and prefix tuning: trained vectors before each text, the model itself untouched.

Prompt tuning: Lester et al. 2021, arXiv:2104.08691. Prefix tuning: Li and Liang 2021, arXiv:2101.00190. There is
nothing to merge: such an adapter is used live, in peft.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.lora import task_type
from lingraft.train.techniques.targets import wrapped_by_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Prompt(BaseModel):
    """Train ``tokens`` vectors before the text: at the embedding (prompt) or in every layer's keys and values (prefix).

    A prompt may begin as the embedding of ``text``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "live"

    kind: Literal["prompt", "prefix"] = "prompt"
    tokens: int = Field(20, ge=1)
    text: str | None = None

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:
        """Wrap the model with peft."""
        from peft import PrefixTuningConfig, PromptTuningConfig, PromptTuningInit

        causal: Any = model
        config: Any
        if self.kind == "prefix":
            config = PrefixTuningConfig(task_type=task_type(causal), num_virtual_tokens=self.tokens)
        else:
            start = PromptTuningInit.TEXT if self.text else PromptTuningInit.RANDOM
            config = PromptTuningConfig(
                task_type=task_type(causal),
                num_virtual_tokens=self.tokens,
                prompt_tuning_init=start,
                prompt_tuning_init_text=self.text,
                tokenizer_name_or_path=str(setting.base) if self.text else None,
            )
        return wrapped_by_peft(causal, config, self.kind)  # type: ignore[no-any-return]

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for few, fresh parameters."""
        return replace(tuning, arguments={"learning_rate": 1e-2, **tuning.arguments})
