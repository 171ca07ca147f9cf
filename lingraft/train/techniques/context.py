"""A longer context: rotary positions stretched in the config, and the model trained to live with it.

Linear interpolation: Chen et al. 2023, arXiv:2306.15595. NTK-aware: the rotary base grows so that the slowest waves
stretch and the fastest stay (bloc97 2023); ``dynamic`` does so only as far as a text reaches. YaRN: Peng et al. 2023,
arXiv:2309.00071. The change is recorded in `lingraft.json`, and the merged model's config.json carries it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Context(BaseModel):
    """Stretch the rotary positions so that the model reaches ``length`` tokens, by ``method``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "nothing"

    kind: Literal["context"] = "context"
    length: int = Field(ge=16)
    method: Literal["linear", "ntk", "dynamic", "yarn"] = "yarn"

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Write the stretched positions. Error: `recipe-invalid` for a model without them, or no longer than before."""
        changed: PretrainedConfig = type(config).from_dict({**config.to_dict(), **self.changes(config)})
        changed._attn_implementation = getattr(config, "_attn_implementation", None)
        return changed

    def changes(self, config: Any) -> dict[str, Any]:
        """Return the config's fields that become others, in the spellings of transformers 4 and 5."""
        rope = getattr(config, "rope_parameters", None) or {}
        if "rope_theta" not in rope:
            refuse(
                "recipe-invalid",
                f"context: {config.model_type} has no rotary positions of one kind to stretch",
                "leave the technique out",
            )
        before = int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
        if self.length <= before:
            refuse(
                "recipe-invalid",
                f"context.length: the model reaches {before} tokens already",
                "raise length, or leave the technique out",
            )
        factor, theta = self.length / before, float(rope["rope_theta"])
        wanted: dict[str, Any] = {"rope_type": self.method, "rope_theta": theta, "factor": factor}
        if self.method == "ntk":
            wanted = {"rope_type": "default", "rope_theta": theta * factor ** _power(config)}
        elif self.method == "yarn":
            wanted["original_max_position_embeddings"] = before
        if "partial_rotary_factor" in rope:
            wanted["partial_rotary_factor"] = rope["partial_rotary_factor"]
        scaling = None if self.method == "ntk" else wanted
        return {
            "max_position_embeddings": before if self.method == "dynamic" else self.length,
            "rope_parameters": wanted,
            "rope_scaling": scaling,
            "rope_theta": wanted["rope_theta"],
        }

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Leave the model as it is."""
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Leave the Trainer as it is."""
        return tuning


def _power(config: Any) -> float:
    """Return d / (d − 2) for rotary width d: the slowest wave then stretches by exactly the factor."""
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    width = int(width * float(getattr(config, "partial_rotary_factor", None) or 1.0))
    return width / (width - 2)
