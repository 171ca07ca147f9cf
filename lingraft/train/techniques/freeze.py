"""Train a model in full but for the layers that are frozen: the first, the last, or by pattern."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

_NUMBER = re.compile(r"\.(\d+)\.")


class Freeze(BaseModel):
    """Freeze the ``first`` and ``last`` n blocks and every parameter whose name a ``pattern`` finds; train the rest.

    ``embeddings: true`` freezes the embedding and the head too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "model"

    kind: Literal["freeze"] = "freeze"
    first: int = Field(0, ge=0)
    last: int = Field(0, ge=0)
    patterns: list[str] = []
    embeddings: bool = False

    @model_validator(mode="after")
    def _something(self) -> Freeze:
        if not (self.first or self.last or self.patterns or self.embeddings):
            raise ValueError("freeze names nothing to freeze: give first, last, patterns or embeddings")
        return self

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:  # noqa: ARG002
        """Freeze what is named, thaw the rest. Error: `recipe-invalid` for a pattern without a match."""
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.patterns:
            if not any(re.search(pattern, name) for name in names):
                refuse(
                    "recipe-invalid",
                    f"freeze.patterns: {pattern!r} finds no parameter (such as {names[0]})",
                    "check the pattern against the names that `lingraft inspect` lists",
                )
        count = 1 + max((int(m[1]) for name in names if (m := _NUMBER.search(name))), default=-1)
        ends = {id(p) for module in self._ends(model) for p in module.parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (self._frozen(name, count) or id(parameter) in ends))
        if not any(p.requires_grad for p in model.parameters()):
            refuse("recipe-invalid", "freeze leaves nothing to train", "freeze less")
        return model

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for whole weights."""
        return replace(tuning, arguments={"learning_rate": 5e-5, **tuning.arguments})

    def _frozen(self, name: str, count: int) -> bool:
        found = _NUMBER.search(name)
        block = int(found[1]) if found else None
        at_an_end = block is not None and (block < self.first or block >= count - self.last)
        return at_an_end or any(re.search(pattern, name) for pattern in self.patterns)

    def _ends(self, model: nn.Module) -> list[nn.Module]:
        if not self.embeddings:
            return []
        found = [getattr(model, get, lambda: None)() for get in ("get_input_embeddings", "get_output_embeddings")]
        return [module for module in found if module is not None]
