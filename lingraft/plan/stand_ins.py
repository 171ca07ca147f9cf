"""What runs differently on the meta device: attention kernels, autocast, quantised products, rows by token.

Each stand-in keeps and allocates what the real one does, and says how many operations it costs. Everything else in a
traced step is the training loop's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest.mock import patch

import torch
from peft.tuners.lora import layer as layer_types
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from lingraft.plan.ledger import Ledger
from lingraft.train import attention as texts

_NAME = "lingraft_plan"


def set_attention(model: Any, length: int, fused: bool, ledger: Ledger) -> None:
    """Let a model attend within texts of ``length`` tokens, ``fused`` as on a GPU or as the loop does on a CPU."""
    from transformers import AttentionInterface

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _mask: Tensor | None,
        dropout: float = 0.0,
        **more: Any,
    ) -> tuple[Tensor, None]:
        if more.get("softcap") is not None or dropout or query.shape[0] != 1 or not _causal(module):
            return _plain(query, key, value, more.get("softcap"), dropout), None
        query, key = query.to(value.dtype), key.to(value.dtype)  # as the loop's own attention does
        ends = range(0, query.shape[2], length)
        strips = not fused and length <= texts.KEEP and more.get("sliding_window") is None
        parts = [
            _one(query[0, :, a : a + length], key[0, :, a : a + length], value[0, :, a : a + length], strips, ledger)
            for a in ends
        ]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return whole.transpose(0, 1).unsqueeze(0), None

    AttentionInterface.register(_NAME, attend)
    model.set_attn_implementation(_NAME)


def _causal(module: nn.Module) -> bool:
    return bool(getattr(module, "is_causal", True))


def _one(query: Tensor, key: Tensor, value: Tensor, strips: bool, ledger: Ledger) -> Tensor:
    if strips:
        kept: Tensor = texts.Strips.apply(query, key, value, 1.0)  # type: ignore[no-untyped-call]
        return kept
    groups = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    out: Tensor = _Fused.apply(query, key, value, ledger)  # type: ignore[no-untyped-call]
    return out


def _plain(query: Tensor, key: Tensor, value: Tensor, softcap: float | None, dropout: float) -> Tensor:
    """Attend with every score kept, as transformers' eager attention does: [b, heads, n, w] → [b, n, heads, w]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.matmul(query, key.transpose(2, 3)) * 1.0
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + torch.empty_like(scores[:, :1])
    shares = functional.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(functional.dropout(shares, dropout), value).transpose(1, 2).contiguous()


class _Fused(torch.autograd.Function):
    """FlashAttention's bookkeeping: inputs, output and one float32 a row are kept; no score is (Dao 2023)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ledger: Ledger) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, rows)
        ctx.ledger = ledger
        ledger.operations += 2 * query.numel() * key.shape[1]  # two products, half of each under the diagonal
        return out

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_kept = ctx.saved_tensors
        ctx.ledger.operations += 5 * query.numel() * key.shape[1]  # five products
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


class Autocast(TorchFunctionMode):
    """torch.autocast for tensors on the meta device, which torch's own does not serve: products in ``dtype``."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _GROUPED:
            return _Grouped.apply(args[0], args[1])  # type: ignore[no-untyped-call]
        if func in _LOWERED:
            args = tuple(self._lower(a) if isinstance(a, Tensor) else a for a in args)
        return func(*args, **(kwargs or {}))

    def forget(self) -> None:
        """Drop the weights cast for the forward pass, as leaving autocast does."""
        self._cast.clear()

    def _lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32 or self.dtype == torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.dtype)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(self.dtype)
        return self._cast[id(tensor)]


_LOWERED: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.linear,
        torch.matmul,
        Tensor.matmul,
        Tensor.__matmul__,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        Tensor.baddbmm,
    }
)
_GROUPED = frozenset(f for f in (getattr(functional, "grouped_mm", None), getattr(torch, "_grouped_mm", None)) if f)


class _Grouped(torch.autograd.Function):
    """Every row times the matrix of its expert: rows [n, a], experts [e, a, b] → [n, b]. Which expert costs nothing."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, experts: Tensor) -> Tensor:
        ctx.save_for_backward(rows, experts)
        return torch.mm(rows, experts[0])

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, experts = ctx.saved_tensors
        d_rows = torch.mm(given, experts[0].T) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_rows, None
        torch.mm(rows.T, given)  # for its operations: the products of all experts come to as many
        return d_rows, torch.empty_like(experts)


@contextmanager
def expert_updates() -> Iterator[None]:
    """Let peft add low-rank updates to fused experts without asking torch.autocast, which knows no meta device."""
    proxy = getattr(layer_types, "_LoraFactorsProxy", None)
    if proxy is None:
        yield
        return
    with patch.object(proxy, "forward", lambda self, weight: torch.baddbmm(weight, self.lhs, self.rhs)):
        yield


def short_rows(model: nn.Module) -> None:
    """Let embeddings with added rows take every token for an added one: which they are is not known here."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and type(module.get_base_layer()) is nn.Embedding:
            module.forward = MethodType(_rows, module)


def _rows(layer: Any, ids: Tensor, *_: Any, **__: Any) -> Tensor:
    (name,) = layer.active_adapters
    found = functional.embedding(ids, layer.get_base_layer().weight)
    mine = functional.embedding(torch.zeros_like(ids), layer.trainable_tokens_delta[name])
    return torch.where(torch.empty_like(ids[..., None], dtype=torch.bool), mine.to(found.dtype), found)


def quantise(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Let linear ``layers`` of a model, adapted or not, compute as over 4-bit weights made whole for each product."""
    from peft.tuners.lora import Linear

    below = {id(layer) for layer in layers}
    for module in model.modules():
        if isinstance(module, Linear) and id(module.get_base_layer()) in below:
            module.forward = MethodType(_over_nf4, module)
        elif id(module) in below:
            module.forward = MethodType(_product, module)


def _over_nf4(layer: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """peft's LoRA over a bitsandbytes layer: the product, a copy of it, and the low-rank branch in its own type."""
    (name,) = layer.active_adapters
    result = _product(layer.get_base_layer(), x)
    low = layer.lora_A[name](layer.lora_dropout[name](x))
    summed: Tensor = result.clone() + layer.lora_B[name](low) * layer.scaling[name]
    return summed


def _product(layer: Any, x: Tensor) -> Tensor:
    """Multiply by a linear layer's weights, or a Conv1D's, which lie the other way round."""
    turned = isinstance(layer, Conv1D)
    result: Tensor = _Dequantised.apply(x, layer.weight, turned)  # type: ignore[no-untyped-call]
    return result


class _Dequantised(torch.autograd.Function):
    """y = x Wᵀ with W made from NF4 for the product and dropped after it, in the backward pass again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, turned: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.turned = turned
        whole = torch.empty_like(weight).copy_(weight)
        return torch.matmul(x.to(weight.dtype), whole if turned else whole.T)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        whole = torch.empty_like(weight).copy_(weight)
        return torch.matmul(given, whole.T if ctx.turned else whole), None, None
