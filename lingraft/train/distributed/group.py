"""What the processes of one run tell one another; in a run of one process every question has its own answer.

Everything here but `rank`, `size` and `leads` must be called by every process, in the same order.
"""

from __future__ import annotations

import os
from typing import TypeVar

Value = TypeVar("Value")


def launched() -> bool:
    """Tell whether a launcher (torchrun, accelerate, mpirun with its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return this process's number, 0 for the one that leads."""
    return int(os.environ["RANK"]) if launched() else 0


def size() -> int:
    """Return the number of processes."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def leads() -> bool:
    """Tell whether this process writes, prints and answers."""
    return rank() == 0


def tell(value: Value) -> Value:
    """Return rank 0's value everywhere."""
    if size() == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def everybodys(value: Value) -> list[Value]:
    """Return the value of every process, by rank."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    held: list[Value] = [value] * size()
    dist.all_gather_object(held, value)
    return held


def anywhere(flag: bool) -> bool:
    """Tell whether the flag is set in any process."""
    if size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    held = torch.tensor([int(flag)])
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return bool(held.item())


def wait() -> None:
    """Wait until every process is here."""
    if size() > 1:
        anywhere(False)
