"""Bottleneck adapters: a small two-layer network behind a block's sublayers, the model itself untouched.

Houlsby et al. 2019, arXiv:1902.00751: behind attention and feed-forward. Pfeiffer et al. 2021, arXiv:2005.00247:
behind the feed-forward alone. No kept library offers them with transformers 5, so the layers are our own
(`lingraft/train/bottlenecks.py`). There is nothing to merge, for they are not linear: such an adapter is used live.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.lora import task_type
from lingraft.train.techniques.targets import resolve

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Bottleneck(BaseModel):
    """Train networks of ``size`` inner features, placed in the ``style`` of a paper, or behind ``targets``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "live"

    kind: Literal["bottleneck"] = "bottleneck"
    style: Literal["houlsby", "pfeiffer"] = "houlsby"
    size: int = Field(64, ge=1)
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    targets: list[str] | None = None  # None: the layers that end attention and feed-forward, found by name

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Put the networks in. Error: `recipe-invalid` where the layers are not found."""
        from lingraft.train.bottlenecks import insert

        insert(model, self._layers(model), self.size, self.activation)
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for few, fresh parameters."""
        return replace(tuning, arguments={"learning_rate": 1e-3, **tuning.arguments})

    def fits(self, model: nn.Module) -> None:
        """Refuse (`recipe-invalid`) layers that this model has not."""
        self._layers(model)

    def writes(self, model: Any) -> bool:
        """Tell whether a trained model holds such networks."""
        return any(name.endswith(".bottleneck") for name, _ in model.named_modules())

    def write(self, model: Any, base: Path, folder: Path) -> dict[str, tuple[int, ...]]:
        """Write the networks' tensors and their config; return the shapes by tensor."""
        from lingraft.train.bottlenecks import write

        return write(
            model,
            folder,
            {
                "style": self.style,
                "size": self.size,
                "activation": self.activation,
                "task_type": task_type(model),
                "base_model_name_or_path": str(base),
            },
        )

    def _layers(self, model: nn.Module) -> list[str]:
        from lingraft.train.bottlenecks import ends_of_sublayers

        if self.targets is not None:
            resolve(model, self.targets)
            return [
                name
                for name, _ in model.named_modules()
                if any(name == t or name.endswith(f".{t}") for t in self.targets)
            ]
        return ends_of_sublayers(model, attention=self.style == "houlsby")
