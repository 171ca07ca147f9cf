"""Count what a computation holds, multiplies and moves, without computing it.

Under this mode every operation on meta tensors tells its result's size; a storage counts as live from its birth to
its death, just as an allocator would see it. Nothing is estimated: autograd itself decides what it keeps.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default: 0, _aten.bmm.default: 0, _aten.addmm.default: 1, _aten.baddbmm.default: 1,
             _aten.addmm_.default: 1, _aten.baddbmm_.default: 1}  # fmt: skip


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes live now and at most in each ``phase``; operations of matrix products; bytes moved by everything else."""

    def __init__(self, standing: Iterable[Tensor] = ()) -> None:
        """Leave out what stands already: ``standing`` tensors (weights, buffers) are counted elsewhere."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peaks: dict[str, int] = {}
        self.operations = 0
        self.moved = 0
        self.phase = "start"
        self._known: weakref.WeakSet[Any] = weakref.WeakSet(t.untyped_storage() for t in standing)

    def enter(self, phase: str, after: str | None = None) -> None:
        """Begin a phase, whose peak starts from what is live now; with ``after``, only out of that phase."""
        if after in (None, self.phase):
            self.phase = phase
            self._mark()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        born = [t for t in tree_leaves(result) if isinstance(t, Tensor) and self._is_new(t)]
        if func in _PRODUCTS:
            a, b = args[_PRODUCTS[func]], args[_PRODUCTS[func] + 1]
            self.operations += 2 * math.prod(a.shape) * b.shape[-1]
        elif born or func._schema.is_mutable:
            given = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
            self.moved += sum(t.numel() * t.element_size() for t in (*given, *born))
        return result

    def _is_new(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return False
        self._known.add(storage)
        nbytes = storage.nbytes()
        weakref.finalize(storage, self._died, nbytes).atexit = False
        self.live += nbytes
        self._mark()
        return True

    def _died(self, nbytes: int) -> None:
        self.live -= nbytes

    def _mark(self) -> None:
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.live)


def at_gradients(parameters: Iterable[Tensor], call: Callable[[], None]) -> None:
    """Call whenever one of these parameters has been given its gradient."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _: call())  # type: ignore[no-untyped-call]
