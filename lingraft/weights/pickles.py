"""Tensors out of torch pickles (.bin, .pt, .pth), through a restricted unpickler: nothing in a file ever runs."""

from __future__ import annotations

from pathlib import Path

import torch

from lingraft.problems import refuse
from lingraft.weights.tensors import Entry, Lazy, Tensor


def read_file(path: Path) -> Lazy:
    """Map the state dict in a torch pickle. Errors: `unsafe-pickle`, `corrupt-file`, `truncated-file`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        refuse("unsafe-pickle", f"{path}: {error}", "convert it where it came from", path)
    return Lazy({name: Entry(t.dtype, tuple(t.shape), _reader(t)) for name, t in state.items()})


def _reader(tensor: Tensor):  # type: ignore[no-untyped-def]
    return lambda start, stop: tensor if tensor.ndim == 0 else tensor[start:stop]
