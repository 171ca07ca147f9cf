"""Which linear layers a technique means, refused by name when there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lingraft.problems import refuse

if TYPE_CHECKING:
    from torch import nn

ALL = "all-linear"


def linear_layers(model: nn.Module) -> list[str]:
    """List the full names of a model's linear layers but the output head; GPT-2's Conv1D counts."""
    from torch import nn as torch_nn
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch_nn.Linear | Conv1D) and module is not head
    ]


def resolve(model: nn.Module, targets: str | Sequence[str]) -> str | list[str]:
    """Return what peft takes as ``target_modules``: ``all-linear``, a regular expression, or a list of names.

    Error: `recipe-invalid` where a target matches no linear layer, naming those that exist.
    """
    layers = linear_layers(model)
    if targets == ALL:
        return ALL
    if isinstance(targets, str):
        missing = [] if any(re.fullmatch(targets, name) for name in layers) else [targets]
    else:
        missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in layers)]
    if missing:
        exist = sorted({name.rpartition(".")[2] for name in layers})
        refuse(
            "recipe-invalid",
            f"targets: {', '.join(missing)} matches no linear layer; this model has {', '.join(exist)}",
            "name some of these, or all-linear",
        )
    return targets if isinstance(targets, str) else list(targets)


def wrapped_by_peft(model: Any, config: Any, kind: str) -> Any:
    """Return the model inside peft. Error: `recipe-invalid` with peft's own words, for layers that it cannot adapt."""
    from peft import get_peft_model

    try:
        return get_peft_model(model, config)
    except (ValueError, NotImplementedError) as error:
        refuse(
            "recipe-invalid",
            f"techniques: peft cannot put {kind} on this model: {str(error).splitlines()[0]}",
            "name other targets, or choose another technique",
        )
