"""Plain LoRA layers and added rows, computed with fewer and cheaper operations than peft's general modules.

peft's modules serve every variant: they change types back and forth, scale and add in separate passes over the
output, and copy the whole embedding to lay a few rows over it. For the plain case (one active adapter, no dropout,
a frozen ``nn.Linear`` or ``nn.Embedding`` below) the same arithmetic is done here; every other module stays peft's.
Only ``forward`` is replaced, so saving, merging and loading are untouched.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def speed_up(model: nn.Module) -> int:
    """Give every plain LoRA layer and added-rows embedding of a peft model the short way; return how many."""
    from peft.tuners.lora import Linear
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    count = 0
    for module in model.modules():
        if type(module) is Linear and _plain(module):
            module.forward = MethodType(_lora_forward, module)
            count += 1
        elif isinstance(module, TrainableTokensLayer) and _plain_rows(module):
            module.forward = MethodType(_rows_forward, module)
            count += 1
    return count


def _plain(layer: Any) -> bool:
    if len(layer.active_adapters) != 1 or layer.merged or layer.disable_adapters:
        return False
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and name in layer.lora_A
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.lora_variant.get(name)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.fan_in_fan_out
    )


def _plain_rows(layer: Any) -> bool:
    base = layer.get_base_layer()
    return (
        type(base) is nn.Embedding
        and len(layer.active_adapters) == 1
        and not layer.merged
        and base.max_norm is None
        and layer._get_embed_scale() is None
    )


def _lora_forward(layer: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    result: Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    )
    return result


def _rows_forward(layer: Any, ids: Tensor, *_: Any, **__: Any) -> Tensor:
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    rows: Tensor = layer.trainable_tokens_delta[name]
    place = _places(layer, name, base.weight)[ids]
    found = functional.embedding(ids, base.weight, base.padding_idx)
    new = place >= 0
    return found.masked_scatter(new[..., None], functional.embedding(place[new], rows).to(found.dtype))


def _places(layer: Any, name: str, weight: Tensor) -> Tensor:
    """Return, for each token id, its number among the trained rows, or -1."""
    known: Tensor | None = layer.__dict__.get("_lingraft_places")
    if known is None or known.device != weight.device:
        known = torch.full((weight.shape[0],), -1, device=weight.device)
        indices = torch.as_tensor(layer.token_indices[name], device=weight.device)
        known[indices] = torch.arange(len(indices), device=weight.device)
        layer.__dict__["_lingraft_places"] = known
    return known


class _LowRank(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ in x's type; W and b are frozen, A and B keep their own type for the optimizer.

    The thin products are taken with the rank in front, [r, tokens]: a CPU's library takes up to fifteen times as long
    for the same product with the rank behind.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        # Under autocast x may arrive in the adapter's type; the frozen weight's type is the one to compute in.
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        a_here, b_here = a.to(weight.dtype), (b * scale).to(weight.dtype)
        low = torch.mm(a_here, flat.T)
        out = torch.mm(flat, weight.T) if bias is None else torch.addmm(bias, flat, weight.T)
        out.addmm_(low.T, b_here.T)
        ctx.save_for_backward(flat, weight, a_here, b_here, low)
        ctx.scale, ctx.shape, ctx.types = scale, x.shape, (x.dtype, a.dtype, b.dtype)
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, low = ctx.saved_tensors
        given = given.reshape(-1, given.shape[-1])
        low_given = torch.mm(b.T, given.T)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.mm(given, weight).addmm_(low_given.T, a).view(ctx.shape).to(ctx.types[0])
        d_a = torch.mm(low_given, flat).to(ctx.types[1])
        d_b = torch.mm(low, given).T.to(ctx.types[2]).mul_(ctx.scale)
        return d_x, None, None, d_a, d_b, None
