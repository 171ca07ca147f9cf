"""Adapters whose start was cut out of the base: PiSSA and OLoRA.

They begin at a part of W itself, B0 A0, and train on what is left of it, W - scale * B0 A0. What they save is the
whole B A, so a merge into W must take B0 A0 out first. It is computed from W again, by the very steps that peft takes
when it loads such an adapter (Meng et al. 2024, section 3; Büyükakyüz 2024, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from lingraft.merge.adapter import Adapter
from lingraft.merge.evidence import projection
from lingraft.merge.plan import Plan
from lingraft.merge.updates import LowRank
from lingraft.problems import Findings
from lingraft.weights.tensors import Entry, Lazy, Tensor

Start = Literal["pissa", "olora"]
# Starts that nobody can compute again from the base alone: drawn at random, or from data that is not saved.
LOST = ("pissa_niter", "corda", "lora_ga", "loftq")
REMEDY = (
    "save it with `save_pretrained(path_initial_model_for_weight_conversion=…)`, or merge into the residual base "
    "that training saved"
)


@dataclass(frozen=True)
class Residual:
    """What is left of a weight when its leading part, of a given rank, has been taken out."""

    start: Start
    rank: int
    scale: float
    transposed: bool = False

    def onto(self, below: Entry) -> Entry:
        part = _Part(self, below)

        def read(start: int, stop: int | None) -> Tensor:
            a, b = part.factors
            stop = below.shape[0] if stop is None else stop
            taken = (self.scale * b) @ a[:, start:stop] if self.transposed else (self.scale * b[start:stop]) @ a
            return below.read(start, stop).float() - (taken.T if self.transposed else taken)

        return Entry(torch.float32, below.shape, read)


@dataclass(frozen=True)
class _Part:
    residual: Residual
    below: Entry

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The A0 and B0 that training began with."""
        weight, wish = self.below.read(0, None).float(), self.residual
        if wish.start == "olora":
            q, r = torch.linalg.qr(weight)
            return r[: wish.rank].clone(), q[:, : wish.rank].clone()
        u, s, vh = torch.linalg.svd(weight.T if wish.transposed else weight, full_matrices=False)
        root = torch.diag(torch.sqrt(s[: wish.rank] / wish.scale))
        return root @ vh[: wish.rank], u[:, : wish.rank] @ root


def take_out(adapter: Adapter, weights: Lazy, made: Plan, findings: Findings) -> None:
    """Put a `Residual` below every LoRA of an adapter that began inside the base.

    Where the base is that residual already, nothing is taken out. Problem: `unsupported-adapter` where the start
    cannot be computed again; `untrained-adapter` where the adapter still is its start.
    """
    start = str(adapter.config.get("init_lora_weights")).lower()
    if not start.startswith(("pissa", "olora", *LOST)):
        return
    deltas = {name: delta for name, delta in made.deltas.items() if isinstance(delta, LowRank)}
    if not deltas or _is_residual(start, deltas, weights):
        findings.warn(
            "base-mismatch",
            f"{adapter.path} began inside its base ({start}), and this base holds nothing of it: it is taken for the "
            "residual that training saved",
            "merge into that residual base only",
            adapter.path,
        )
        return
    if start not in ("pissa", "olora") or (start == "olora" and any(delta.transposed for delta in deltas.values())):
        findings.problem(
            "unsupported-adapter",
            f"{adapter.path} began at {start}, which cannot be computed again from the base: the model that was "
            "trained is not base + adapter",
            REMEDY,
            adapter.path,
        )
        return
    for name, delta in deltas.items():
        kind: Start = "pissa" if start == "pissa" else "olora"
        made.updates[name].insert(0, Residual(kind, delta.a.shape[0], delta.scale, delta.transposed))
    _moved(adapter, weights, made, next(iter(deltas)), findings)


def _is_residual(start: str, deltas: Mapping[str, LowRank], weights: Lazy) -> bool:
    """Tell whether the base lacks the start already, by its projection on the adapter.

    PiSSA takes out the very part of W that its scaled start is: the projection is 1 on W (less, the further training
    went) and 0 on the residual. OLoRA takes out scale times that part: 1/scale on W, 1/scale - 1 on the residual.
    """
    found, scale = projection(deltas, weights), next(iter(deltas.values())).scale
    expected = 1 / scale - 1 if start == "olora" else 0.0
    return found is not None and found.error < 0.1 and abs(found.value - expected) < 0.1


def _moved(adapter: Adapter, weights: Lazy, made: Plan, name: str, findings: Findings) -> None:
    below, delta = weights.entries[name], made.deltas[name]
    residual = next(u for u in made.updates[name] if isinstance(u, Residual))
    taken = below.read(0, None).float() - residual.onto(below).read(0, None)
    left = float((delta.rows(0, below.shape[0]) - taken).norm()) / max(float(taken.norm()), 1e-30)
    if left < 1e-5:
        findings.problem(
            "untrained-adapter",
            f"{adapter.path} was never trained: {name} still is the {residual.start} start",
            "merge the directory that training wrote, after at least one step",
            adapter.path,
            name,
        )
