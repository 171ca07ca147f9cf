"""Count what a computation holds, multiplies and moves, without computing it.

Under this mode every operation on meta tensors tells its result's size; a storage counts as live from its birth to
its death, just as an allocator would see it. Nothing is estimated: autograd itself decides what it keeps.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
BACKWARD = ("start", "middle", "end")  # the phases of a backward pass
_PRODUCTS = {
    _aten.mm.default: 0,
    _aten.bmm.default: 0,
    _aten.addmm.default: 1,
    _aten.baddbmm.default: 1,
    _aten.addmm_.default: 1,
    _aten.baddbmm_.default: 1,
}


LARGE = 32 * 2**20  # bytes from which glibc maps memory for a piece alone, and gives it back at once (mallopt(3))


@dataclass(frozen=True)
class Peak:
    """The most bytes live at once: in all, in small pieces, and in large ones, each at its own moment."""

    live: int = 0
    small: int = 0
    large: int = 0

    def with_(self, small: int, large: int) -> Peak:
        """Return the peak after a moment with so many bytes live."""
        return Peak(max(self.live, small + large), max(self.small, small), max(self.large, large))


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes live now and at most in each ``phase``; operations of matrix products; bytes moved by everything else."""

    def __init__(self, standing: Iterable[Tensor] = ()) -> None:
        """Leave out what stands already: ``standing`` tensors (weights, buffers) are counted elsewhere."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.small = self.large = 0
        self.peaks: dict[str, Peak] = {}
        self.operations = 0
        self.moved = 0
        self.phase = "start"
        self._known: weakref.WeakSet[Any] = weakref.WeakSet(t.untyped_storage() for t in standing)

    @property
    def live(self) -> int:
        """Bytes live now."""
        return self.small + self.large

    def enter(self, phase: str, after: str | None = None) -> None:
        """Begin a phase, whose peak starts from what is live now; with ``after``, only out of that phase."""
        if after in (None, self.phase):
            self.phase = phase
            self._mark()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Autograd adds up gradients in place, but beside a mode like this one: such a sum replaces what it adds to.
        replaces = func is _aten.add.Tensor and self.phase in BACKWARD
        born = [t for t in tree_leaves(result) if isinstance(t, Tensor) and self._is_new(t)]
        if born and not replaces:
            self._mark()
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
        self._change(nbytes, 1)
        return True

    def _died(self, nbytes: int) -> None:
        self._change(nbytes, -1)

    def _change(self, nbytes: int, sign: int) -> None:
        if nbytes >= LARGE:
            self.large += sign * nbytes
        else:
            self.small += sign * nbytes

    def _mark(self) -> None:
        self.peaks[self.phase] = self.peaks.get(self.phase, Peak()).with_(self.small, self.large)


def at_gradients(parameters: Iterable[Tensor], call: Callable[[], None]) -> None:
    """Call whenever one of these parameters has been given its gradient."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _: call())  # type: ignore[no-untyped-call]
