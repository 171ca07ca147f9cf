"""The loss from hidden states, chunk by chunk: logits of supervised positions only, and never all of them at once.

A vocabulary of 50,000 makes logits the largest tensor of a small model's training. Each chunk's loss gradient is
taken right when its logits exist, so that the backward pass needs no logits again. Rows that a vocabulary stage
added are trained beside a frozen head without a gradient for the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CHUNK = 256  # positions whose logits exist at once


@dataclass(frozen=True)
class Head:
    """An output head as plain tensors: ``weight`` [vocabulary, width], and trained ``rows`` that stand in at ``where``.

    ``bias`` [vocabulary] or None; rows [n, width] and where [n] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    rows: Tensor | None = None
    where: Tensor | None = None


def read_head(module: nn.Module) -> Head | None:
    """Return a head as tensors, through peft's wrappers; None for one that must be called as a module."""
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    if isinstance(module, ModulesToSaveWrapper):
        (name,) = module.active_adapters
        return read_head(module.modules_to_save[name])
    if isinstance(module, TrainableTokensWrapper):
        adapter: Any = module.token_adapter
        (name,) = adapter.active_adapters
        base = adapter.get_base_layer()
        where = torch.as_tensor(adapter.token_indices[name], device=base.weight.device)
        return Head(base.weight, base.bias, adapter.trainable_tokens_delta[name], where)
    if type(module) is nn.Linear:
        return Head(module.weight, module.bias)
    return None


def loss_sum(hidden: Tensor, labels: Tensor, head: Head, smoothing: float = 0.0) -> Tensor:
    """Return the summed cross-entropy in nats: hidden [n, width], labels [n] without ignored ones → scalar float32."""
    result: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden, labels, head.weight, head.bias, head.rows, head.where, smoothing
    )
    return result


class _ChunkedLoss(torch.autograd.Function):
    """Forward computes the loss and, where anything is to be trained, all gradients; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        labels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        where: Tensor | None,
        smoothing: float,
    ) -> Tensor:
        wanted = [t is not None and t.requires_grad for t in (hidden, weight, bias, rows)]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight, d_bias, d_rows = (
            torch.zeros_like(t, dtype=torch.float32) if t is not None and w else None
            for t, w in zip((weight, bias, rows), wanted[1:], strict=True)
        )
        plain = weight.to(hidden.dtype)
        small = None if rows is None else rows.to(hidden.dtype)
        for at in range(0, hidden.shape[0], _CHUNK):
            part, target = hidden[at : at + _CHUNK], labels[at : at + _CHUNK]
            logits = functional.linear(part, plain, None if bias is None else bias.to(hidden.dtype))
            if small is not None and where is not None:
                logits[:, where] = functional.linear(part, small)
            log_p = torch.log_softmax(logits, -1, dtype=torch.float32)
            total += _cross_entropy(log_p, target, smoothing)
            if not any(wanted):
                continue
            slope = _slope(log_p, target, smoothing).to(hidden.dtype)
            if d_bias is not None:
                d_bias += slope.sum(0, dtype=torch.float32)
            if small is not None and where is not None:
                own = slope[:, where]
                slope[:, where] = 0
                if d_rows is not None:
                    d_rows += torch.matmul(own.T, part)
                if d_hidden is not None:
                    d_hidden[at : at + _CHUNK] = torch.matmul(own, small)
            if d_weight is not None:
                d_weight += torch.matmul(slope.T, part)
            if d_hidden is not None:
                through = torch.matmul(slope, plain)
                here = d_hidden[at : at + _CHUNK]
                here.copy_(through if small is None else here + through)
        ctx.gradients = (d_hidden, d_weight, d_bias, d_rows)
        ctx.dtypes = tuple(None if t is None else t.dtype for t in (hidden, weight, bias, rows))
        return total

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias, d_rows = (
            None if g is None else (g * given).to(dtype) for g, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        )
        return d_hidden, None, d_weight, d_bias, d_rows, None, None


def _cross_entropy(log_p: Tensor, target: Tensor, smoothing: float) -> Tensor:
    nats = -log_p.gather(1, target[:, None]).sum()
    return nats if not smoothing else (1 - smoothing) * nats - smoothing * log_p.mean(-1).sum()


def _slope(log_p: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Return d loss / d logits, in the place of ``log_p``."""
    slope = log_p.exp_()
    if smoothing:
        slope -= smoothing / log_p.shape[1]
    slope.scatter_add_(1, target[:, None], torch.full_like(target[:, None], smoothing - 1, dtype=slope.dtype))
    return slope
