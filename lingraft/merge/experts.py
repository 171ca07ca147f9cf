"""LoRA on fused experts: peft's `target_parameters`, where one pair of matrices holds all experts of a layer.

The live model keeps `experts.gate_up_proj` as one tensor of three dimensions; published files keep it so, too, or one
tensor for each expert and projection. lora_A is (experts * r, in), lora_B is (out, experts * r) with the expert running
fastest. Two fused parameters of one module nest: the outer pair's names lack the `base_layer` that the inner one has;
which is which, their shapes tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lingraft.merge.adapter import Adapter
from lingraft.merge.match import Renaming
from lingraft.merge.names import Part, listed
from lingraft.merge.updates import delta_onto
from lingraft.weights.tensors import Entry, Lazy, Tensor

# What a fused parameter is cut into, where the experts are stored one by one; in the order of its rows.
PIECES = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
TRANSPOSED = frozenset({"gpt_oss", "llama4", "llama4_text"})  # these store an expert as (in, out)


@dataclass(frozen=True)
class ExpertDelta:
    """The low-rank difference of one expert, or of some of its rows: scale * B_e @ A_e."""

    a: Entry
    b: Entry
    scale: float
    experts: int
    expert: int
    first: int = 0  # the row of the fused expert that is this tensor's first

    def rows(self, start: int, stop: int) -> Tensor:
        rank = self.a.shape[0] // self.experts
        a = self.a.read(self.expert * rank, (self.expert + 1) * rank).float()
        b = self.b.read(self.first + start, self.first + stop).float()
        return (b.reshape(stop - start, rank, self.experts)[:, :, self.expert] @ a).mul_(self.scale)

    def onto(self, below: Entry) -> Entry:
        return delta_onto(self, below)


@dataclass(frozen=True)
class FusedDelta:
    """The low-rank difference of a fused tensor (experts, out, in), or (experts, in, out)."""

    a: Entry
    b: Entry
    scale: float
    transposed: bool

    def onto(self, below: Entry) -> Entry:
        count, out = below.shape[0], self.b.shape[0]

        def read(start: int, stop: int | None) -> Tensor:
            deltas = [
                ExpertDelta(self.a, self.b, self.scale, count, e).rows(0, out)
                for e in range(start, count if stop is None else stop)
            ]
            return torch.stack([d.T if self.transposed else d for d in deltas]).add_(below.read(start, stop))

        return Entry(torch.float32, below.shape, read)


def container(part: Part) -> str:
    """Return the module that a part of a nested wrapper is about."""
    module = part.module
    while module.endswith(".base_layer"):
        module = module.removesuffix(".base_layer")
    return module


def fused_leaves(adapter: Adapter, part: Part) -> list[str]:
    """List the parameters of a part's module that the adapter targets as tensors (none: it is an ordinary layer)."""
    if part.role not in ("lora_A", "lora_B"):
        return []
    targets = [str(t).rpartition(".") for t in adapter.config.get("target_parameters") or ()]
    return [
        leaf
        for module, _, leaf in targets
        if leaf not in ("weight", "bias") and (not module or listed(container(part), [module]))
    ]


def stored(module: str, leaf: str, weights: Lazy, rename: Renaming) -> list[list[str]]:
    """Return the names that hold a fused parameter: [[one name]], or for each expert the names of its pieces."""
    whole = rename(f"{module}.{leaf}")
    if whole in weights:
        return [[whole]]
    for pieces in PIECES.get(leaf, ()):
        found: list[list[str]] = []
        while all((name := rename(f"{module}.{len(found)}.{piece}.weight")) in weights for piece in pieces):
            found.append([rename(f"{module}.{len(found)}.{piece}.weight") for piece in pieces])
            assert name
        if found:
            return found
    return []


@dataclass(frozen=True)
class Fused:
    """Where a pair belongs: the parameter, and the updates of the tensors that hold it."""

    leaf: str
    updates: Sequence[tuple[str, ExpertDelta | FusedDelta]]


def place(adapter: Adapter, pair: tuple[Part, Part], weights: Lazy, rename: Renaming, model_type: str) -> Fused | None:
    """Find the fused parameter that fits a pair's shapes, and make its updates; None where none fits."""
    a, b = (adapter.entry(part) for part in pair)
    module = container(pair[0])
    for leaf in fused_leaves(adapter, pair[0]):
        names, scale = stored(module, leaf, weights, rename), adapter.scale(f"{module}.{leaf}")
        if names and (found := _fit(a, b, scale, names, weights, model_type)):
            return Fused(leaf, found)
    return None


def _fit(
    a: Entry, b: Entry, scale: float, names: list[list[str]], weights: Lazy, model_type: str
) -> list[tuple[str, ExpertDelta | FusedDelta]]:
    first = weights.entries[names[0][0]]
    if len(first.shape) == 3:
        swapped = model_type in TRANSPOSED
        wanted = (first.shape[0], a.shape[1], b.shape[0]) if swapped else (first.shape[0], b.shape[0], a.shape[1])
        return [(names[0][0], FusedDelta(a, b, scale, swapped))] if first.shape == wanted else []
    rows = [weights.entries[name].shape[0] for name in names[0]]
    if sum(rows) != b.shape[0] or first.shape[1] != a.shape[1] or a.shape[0] % len(names):
        return []
    return [
        (name, ExpertDelta(a, b, scale, len(names), expert, sum(rows[:i])))
        for expert, pieces in enumerate(names)
        for i, name in enumerate(pieces)
    ]
