"""The table of training techniques: a recipe's ``kind:`` chooses one, a new one is one file and one line here.

A technique is a frozen pydantic value with three hooks. Nothing of it is torch until a hook runs, so that a recipe
is checked without loading anything heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TABLE: dict[str, str] = {
    "lora": "lingraft.train.techniques.lora:Lora",
    "rslora": "lingraft.train.techniques.lora:Lora",
    "dora": "lingraft.train.techniques.lora:Lora",
    "pissa": "lingraft.train.techniques.lora:Lora",
    "lora_plus": "lingraft.train.techniques.lora_plus:LoraPlus",
    "qlora": "lingraft.train.techniques.qlora:Qlora",
    "ia3": "lingraft.train.techniques.ia3:Ia3",
    "prompt": "lingraft.train.techniques.prompt:Prompt",
    "prefix": "lingraft.train.techniques.prompt:Prompt",
    "full": "lingraft.train.techniques.full:Full",
    "freeze": "lingraft.train.techniques.freeze:Freeze",
    "early_stopping": "lingraft.train.techniques.early_stopping:EarlyStopping",
}


@dataclass(frozen=True)
class Setting:
    """What surrounds the model when a technique changes it.

    ``new_rows`` are those the vocabulary stage added; ``work`` is the stage's scratch folder.
    """

    base: Path
    tokenizer: PreTrainedTokenizerBase
    work: Path
    new_rows: range | None = None


@dataclass(frozen=True)
class Tuning:
    """What goes to the Trainer: arguments under transformers' names, callbacks, and learning rates by pattern.

    ``rates`` are (regular expression on a parameter's name, multiple of ``learning_rate``); the first match counts.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[Any, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()


class Technique(Protocol):
    """A training trick, chosen in a recipe by ``kind:``."""

    needs_validation: ClassVar[bool]

    @property
    def kind(self) -> str: ...

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Change the model's config before its weights load."""
        ...

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:
        """Change the loaded model: wrap it, freeze or thaw parameters."""
        ...

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Change what the Trainer is given; the recipe's own ``trainer:`` settings come last and win."""
        ...
