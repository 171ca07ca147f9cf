"""Parameters in one piece, whoever holds the parts: out of them to save, into them to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lingraft.train.distributed import group


def is_sharded(model: nn.Module) -> bool:
    """Tell whether any process holds only a part of some parameter."""
    return any(_is_dtensor(p) or _is_zero(p) for p in model.parameters())


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return every trained parameter whole, on rank 0's CPU where they are sharded (the others get nothing then)."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not (_is_dtensor(parameter) or _is_zero(parameter)):
            found[name] = parameter.detach().contiguous()
            continue
        with _gathered(parameter) as value:
            if group.leads():
                found[name] = value.detach().to("cpu", copy=True).contiguous()
    return found


def unsharded(model: Any, again: Callable[[], Any]) -> Any:
    """Return the model, or one in one piece with its trained values, built by ``again`` on rank 0 (else None)."""
    if not is_sharded(model):
        return model
    values = trained(model)
    if not group.leads():
        return None
    fresh = again()
    put(fresh, values)
    return fresh


def put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy whole values, which every process has, into the parameters of these names."""
    wanted = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            _put(wanted[name], value)


def shape(parameter: Any) -> torch.Size:
    """Return a parameter's shape in one piece."""
    found: torch.Size = parameter.ds_shape if _is_zero(parameter) else parameter.shape
    return found


def _put(parameter: Any, value: Tensor) -> None:
    if _is_dtensor(parameter):
        from torch.distributed.tensor import distribute_tensor

        at = value.to(parameter.device, parameter.dtype)
        parameter.copy_(distribute_tensor(at, parameter.device_mesh, parameter.placements))
    elif _is_zero(parameter):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)


@contextmanager
def _gathered(parameter: Any) -> Iterator[Tensor]:
    if _is_dtensor(parameter):
        yield parameter.full_tensor()
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter


def _is_dtensor(parameter: Any) -> bool:
    return hasattr(parameter, "full_tensor")


def _is_zero(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id")
