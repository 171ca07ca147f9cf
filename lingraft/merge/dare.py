"""DARE: drop differences at random and rescale the rest (Yu et al. 2023, equation 1).

Each value of a model's difference to the base is kept with probability ``density`` and divided by it. The draw
depends on the seed, the tensor's name, the model's place and the row alone: not on the blocks that a tensor is read
in, so the same seed gives the same model on every machine.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from blake3 import blake3

from lingraft.weights.tensors import Tensor

ROWS = 64  # rows that share one draw


def kept(name: str, model: int, seed: int, shape: tuple[int, ...], start: int, stop: int, density: float) -> Tensor:
    """Return the mask of rows ``start:stop`` of a tensor of this shape: True where the value is kept."""
    columns = prod(shape[1:])
    key = int.from_bytes(blake3(f"{seed}\t{model}\t{name}".encode()).digest(8), "little")
    first, last = start // ROWS, -(-stop // ROWS)
    drawn = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, group])).random(
            (ROWS, columns), dtype=np.float32
        )
        for group in range(first, last)
    ]
    rows = np.concatenate(drawn)[start - first * ROWS : stop - first * ROWS]
    return torch.from_numpy(rows < density).reshape(stop - start, *shape[1:])


def thinned(delta: Tensor, mask: Tensor, density: float) -> Tensor:
    """Return the kept values, rescaled so that the expectation stays the same."""
    return torch.where(mask, delta, 0) / density
