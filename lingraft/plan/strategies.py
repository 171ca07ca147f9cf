"""The six ways to train that a plan weighs, each as the techniques a recipe would name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lingraft.plan.skeleton import depth_of
from lingraft.train.techniques.freeze import Freeze
from lingraft.train.techniques.full import Full
from lingraft.train.techniques.lora import Lora, is_tied

if TYPE_CHECKING:
    from torch import nn

    from lingraft.train.techniques import Technique

Name = Literal["full", "freeze", "lora", "qlora", "lora+embed", "qlora+embed"]
_THAWED = 2  # blocks at the end that `freeze` trains


@dataclass(frozen=True)
class Strategy:
    """One way to train: over 4-bit weights or not, low-rank or in full, the embedding and head trained or not."""

    name: Name
    means: str
    low_rank: bool = True
    quantised: bool = False
    ends: bool = False

    def techniques(self, model: nn.Module, config: Any, lora: Lora | None = None) -> tuple[Technique, ...]:
        """Return the recipe techniques that mean this for a model; ``lora`` gives rank, targets and the like."""
        if self.name == "full":
            return (Full(),)
        if self.name == "freeze":
            frozen = max(depth_of(config) - _THAWED, depth_of(config) // 2)
            return (Freeze.model_validate({"first": frozen, "embeddings": True}),)
        low_rank = lora or Lora.model_validate({})
        return (low_rank.model_copy(update={"save": end_modules(model) if self.ends else [], "rows": "none"}),)


def end_modules(model: Any) -> list[str]:
    """Return what `save` names for embedding and head: one name where they are tied."""
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    head = model.get_output_embeddings()
    ends = [model.get_input_embeddings()] if head is None or is_tied(model) else [model.get_input_embeddings(), head]
    return [names[id(module)] for module in ends]


NAMED: Mapping[str, Strategy] = {
    s.name: s
    for s in (
        Strategy("full", "every parameter", low_rank=False),
        Strategy("freeze", f"the last {_THAWED} blocks", low_rank=False),
        Strategy("lora", "low-rank updates of all linear layers"),
        Strategy("qlora", "low-rank updates over 4-bit weights", quantised=True),
        Strategy("lora+embed", "low-rank updates, embedding and head in full", ends=True),
        Strategy("qlora+embed", "the same over 4-bit weights", quantised=True, ends=True),
    )
}
