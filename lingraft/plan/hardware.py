"""What a training run would run on: this machine, measured in half a second, or a card by its published figures.

Nobody has measured the cards here: their times are computed from the maker's dense half-precision peak and memory
bandwidth, at the shares below. GB are 10⁹ bytes: a "24 GB" card has 24 GiB, and the seven per cent between are left
to the driver's context.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from lingraft.sizes import parse_size

GB = 10**9
PEAK_SHARE = 0.4  # of a card's published products a training step reaches
BANDWIDTH_SHARE = 0.7  # of its published memory bandwidth


@dataclass(frozen=True)
class Hardware:
    """Memory in bytes, matrix products in operations a second, element-wise work in bytes a second.

    ``slack`` and ``base`` are what the allocator takes beyond live tensors: a share (of pieces below 32 MiB on a CPU,
    of all that comes and goes on a card), and bytes.
    """

    name: str
    memory: int
    operations: float
    bandwidth: float
    dtype: torch.dtype
    measured: bool
    slack: float
    base: int

    @property
    def is_cpu(self) -> bool:
        """Tell whether the model trains in the machine's own memory."""
        return self.name == "cpu"

    def as_json(self) -> dict[str, Any]:
        """Return what a plan says of the hardware."""
        return {
            "name": self.name,
            "memory": self.memory,
            "dtype": str(self.dtype).removeprefix("torch."),
            "operations_per_second": self.operations,
            "bytes_per_second": self.bandwidth,
            "speed": "measured" if self.measured else "computed",
        }


# glibc keeps freed pieces of its heap: fitted on three runs of one model (llama-58M in docs/plan.md), no other.
_CPU_SLACK, _CPU_BASE = 0.25, 60_000_000
_CARD_SLACK, _CARD_BASE = 0.05, 0  # torch's caching allocator rounds up; computed, not measured

_HALF, _BRAIN = torch.float16, torch.bfloat16
# name: (GB, dense half-precision Tera-operations a second, GB a second, type), from the makers' data sheets
_CARDS: Mapping[str, tuple[int, float, float, torch.dtype]] = {
    "RTX 3090": (24, 71, 936, _BRAIN),
    "RTX 4080": (16, 97, 717, _BRAIN),
    "RTX 4090": (24, 165, 1008, _BRAIN),
    "RTX 5090": (32, 210, 1792, _BRAIN),
    "RTX A6000": (48, 155, 768, _BRAIN),
    "T4": (16, 65, 320, _HALF),
    "V100": (16, 125, 900, _HALF),
    "V100-32GB": (32, 125, 900, _HALF),
    "L4": (24, 121, 300, _BRAIN),
    "A10": (24, 125, 600, _BRAIN),
    "L40S": (48, 362, 864, _BRAIN),
    "A100-40GB": (40, 312, 1555, _BRAIN),
    "A100-80GB": (80, 312, 2039, _BRAIN),
    "A800": (80, 312, 2039, _BRAIN),
    "H20": (96, 148, 4000, _BRAIN),
    "H100": (80, 989, 3350, _BRAIN),
    "H800": (80, 989, 3350, _BRAIN),
    "H200": (141, 989, 4800, _BRAIN),
    "Ascend 910B": (64, 313, 1600, _BRAIN),
}
_ALIASES = {"a100": "A100-40GB", "v10016gb": "V100", "h10080gb": "H100", "a6000": "RTX A6000", "910b": "Ascend 910B"}


def find(name: str | None, memory: str | None, dtype: torch.dtype | None = None) -> Hardware:
    """Return the hardware of that name, or this machine's; ``memory`` ("24GB") overrides its size.

    Raises ValueError for a name or size that is not known, listing those that are.
    """
    own = name is None and torch.cuda.is_available()
    if own or (name is not None and name.lower() != "cpu"):
        found = _card(torch.cuda.get_device_name() if name is None else name)
        if own:
            found = replace(found, memory=int(torch.cuda.mem_get_info()[0]))
    else:
        found = this_cpu(dtype)
    return found if memory is None else replace(found, memory=parse_size(memory, bare="G"))


def check(name: str | None, memory: str | None) -> None:
    """Raise ValueError for a name or a size that `find` would not take, without measuring anything."""
    if name is not None and name.lower() != "cpu":
        _card(name)
    if memory is not None:
        parse_size(memory, bare="G")


def this_cpu(dtype: torch.dtype | None = None) -> Hardware:
    """Measure this machine in the type that training would use here (or ``dtype``)."""
    from lingraft.models import fastest_dtype

    chosen = dtype or fastest_dtype()
    return cpu(chosen, _operations(chosen), _bandwidth())


def cpu(dtype: torch.dtype, operations: float, bandwidth: float) -> Hardware:
    """Return this machine's CPU with the given speeds."""
    return Hardware("cpu", available(), operations, bandwidth, dtype, True, _CPU_SLACK, _CPU_BASE)


def available() -> int:
    """Return the bytes that this machine, or the container it runs in, can still give."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{n}").read_text(encoding="ascii").strip() for n in ("max", "current"))
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def _card(name: str) -> Hardware:
    wanted = re.sub(r"nvidia|geforce|tesla|huawei|[^a-z0-9]", "", name.lower())
    wanted = re.sub(r"(pcie|sxm\d?)", "", wanted)
    known = {re.sub(r"[^a-z0-9]", "", n.lower()): n for n in _CARDS}
    key = known.get(wanted) or _ALIASES.get(wanted) or known.get(f"rtx{wanted}")
    if key is None:
        raise ValueError(f"{name!r} is not a known card; known are cpu, {', '.join(_CARDS)}; or give --memory 24GB")
    size, tera, speed, dtype = _CARDS[key]
    return Hardware(
        key, size * GB, tera * 1e12 * PEAK_SHARE, speed * 1e9 * BANDWIDTH_SHARE, dtype, False, _CARD_SLACK, _CARD_BASE
    )


def _operations(dtype: torch.dtype, rows: int = 512, width: int = 768, height: int = 2048) -> float:
    """Measure products of the shape that a training step has, forward and backward."""
    x, w = torch.ones(rows, width, dtype=dtype), torch.ones(height, width, dtype=dtype)
    y = torch.ones(rows, height, dtype=dtype)
    return 4 * rows * width * height / _best(lambda: (torch.mm(x, w.T), torch.mm(y, w)))


def _bandwidth() -> float:
    """Measure element-wise work over arrays that no cache holds."""
    a = torch.ones(8_000_000)
    return 3 * a.numel() * a.element_size() / _best(lambda: a + a)


def _best(call: Callable[[], Any], times: int = 5) -> float:
    call()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
