"""What the old model makes of a text in its old tokens: the target that new rows are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lingraft.vocab.windows import Window

Tensor = torch.Tensor


@dataclass(frozen=True)
class Lesson:
    """One pass of the old model over windows in old tokens.

    ``inner[w]`` [new tokens, width] is the residual stream after the shallow layers, at each new token's last old
    one. ``features`` [n, width] enter the head where the next new token begins, ``mass`` [n] is the log of the sum
    of exponentials of all old logits there, ``target`` [n] the next new token (old ids as they are).
    """

    inner: tuple[Tensor, ...]
    features: Tensor
    mass: Tensor
    target: Tensor


class _Deep(Exception):
    """Raised by the hook behind the last layer that is wanted."""


def layers_of(model: Any) -> Any:
    """Return the decoder's list of layers: the longest list of modules there is."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len)


def shallow(model: Any, embedded: Tensor, depth: int) -> Tensor:
    """Return the residual stream after ``depth`` layers; the deeper ones do not run. [batch, tokens, width]"""
    caught: list[Tensor] = []

    def catch(_module: Any, _args: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)
        raise _Deep

    handle = layers_of(model)[depth - 1].register_forward_hook(catch)
    try:
        model(inputs_embeds=embedded, use_cache=False)
    except _Deep:
        pass
    finally:
        handle.remove()
    return caught[0]


@torch.no_grad()
def teach(model: Any, windows: Sequence[Window], depth: int) -> Lesson:
    """Run the old model once over every window."""
    inner: list[Tensor] = []
    features: list[Tensor] = []
    mass: list[Tensor] = []
    target: list[int] = []
    caught: dict[str, Tensor] = {}
    head = model.get_output_embeddings()
    handles = [
        layers_of(model)[depth - 1].register_forward_hook(
            lambda _m, _a, output: caught.update(inner=output[0] if isinstance(output, tuple) else output)
        ),
        head.register_forward_pre_hook(lambda _m, args: caught.update(last=args[0])),
    ]
    try:
        for window in windows:
            logits = model(input_ids=torch.tensor([window.old], device=model.device), use_cache=False).logits[0]
            places = torch.tensor(window.last, device=model.device)
            inner.append(caught["inner"][0, places].float().cpu())
            features.append(caught["last"][0, places[:-1]].float().cpu())
            mass.append(logits[places[:-1]].float().logsumexp(-1).cpu())
            target += window.new[1:]
    finally:
        for handle in handles:
            handle.remove()
    return Lesson(tuple(inner), torch.cat(features), torch.cat(mass), torch.tensor(target))
