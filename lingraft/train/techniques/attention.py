"""Which attention kernel computes: transformers' SDPA or eager, or FlashAttention where it is installed.

Without this technique the loop attends with its own kernel on a CPU and torch's fused one elsewhere, text by text.
FlashAttention needs a GPU and was not run here; that a missing package is told was tested.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

_NEEDS = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


class Attention(BaseModel):
    """Compute attention with the kernel named by ``use``, under transformers' names."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "nothing"

    kind: Literal["attention"] = "attention"
    use: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Ask for the kernel when the weights load. Error: `recipe-invalid` without its package or a GPU."""
        import torch

        needed = _NEEDS.get(self.use)
        if needed is not None and find_spec(needed) is None:
            refuse(
                "recipe-invalid",
                f"attention.use: {self.use} needs the package {needed}, which is not installed",
                "pip install flash-attn on a machine with an NVIDIA GPU, or use: sdpa",
            )
        if needed is not None and not torch.cuda.is_available():
            refuse("recipe-invalid", f"attention.use: {self.use} needs a GPU, and there is none", "use: sdpa")
        config._attn_implementation = self.use
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Mark the model, so that the loop keeps this kernel instead of its own."""
        outer: Any = model
        causal = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
        causal.lingraft_keeps_attention = True
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Leave the Trainer as it is."""
        return tuning
