"""The table of training techniques: a recipe's ``kind:`` chooses one, a new one is one file and one line here.

A technique is a frozen pydantic value with three hooks. Nothing of it is torch until a hook runs, so that a recipe
is checked without loading anything heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Leaves = Literal["nothing", "adapter", "live", "model"]

TABLE: dict[str, str] = {
    "lora": "lingraft.train.techniques.lora:Lora",
    "rslora": "lingraft.train.techniques.lora:Lora",
    "dora": "lingraft.train.techniques.lora:Lora",
    "pissa": "lingraft.train.techniques.lora:Lora",
    "adalora": "lingraft.train.techniques.adalora:AdaLora",
    "lora_plus": "lingraft.train.techniques.lora_plus:LoraPlus",
    "qlora": "lingraft.train.techniques.qlora:Qlora",
    "ia3": "lingraft.train.techniques.ia3:Ia3",
    "prompt": "lingraft.train.techniques.prompt:Prompt",
    "prefix": "lingraft.train.techniques.prompt:Prompt",
    "bottleneck": "lingraft.train.techniques.bottleneck:Bottleneck",
    "rows": "lingraft.train.techniques.rows:Rows",
    "full": "lingraft.train.techniques.full:Full",
    "freeze": "lingraft.train.techniques.freeze:Freeze",
    "context": "lingraft.train.techniques.context:Context",
    "attention": "lingraft.train.techniques.attention:Attention",
    "average": "lingraft.train.techniques.average:Average",
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


class Keeps(Protocol):
    """State of a technique that a resumed run needs."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors; empty where there is none yet."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over the state that a checkpoint held."""
        ...


@dataclass(frozen=True)
class Tuning:
    """What goes to the Trainer: arguments under transformers' names, callbacks, and learning rates by pattern.

    ``rates`` are (regular expression on a parameter's name, multiple of ``learning_rate``); the first match counts.
    ``penalties`` are added to every step's loss; ``keeps`` is what checkpoints must hold beside the parameters.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[Any, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    penalties: tuple[Callable[[nn.Module], Tensor], ...] = ()
    keeps: Mapping[str, Keeps] = field(default_factory=dict)


class Technique(Protocol):
    """A training trick, chosen in a recipe by ``kind:``.

    ``leaves`` says what a stage leaves because of it: an ``adapter`` that can be merged, an adapter that only works
    ``live`` beside its base, a whole ``model``, or ``nothing`` of its own. One technique a stage may leave something.
    """

    needs_validation: ClassVar[bool]
    leaves: ClassVar[Leaves]

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
