"""What one way of training a model holds at its peak, part by part, and how long 1,000 tokens take.

Weights and trained parameters are counted, activations are traced (`step.trace`): nothing is fitted to a model. A
deep model of equal blocks is traced at two small depths and continued in a straight line, phase by phase, which is
exact for each phase; the peak is the highest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from lingraft.plan import skeleton
from lingraft.plan.hardware import Hardware
from lingraft.plan.ledger import Peak
from lingraft.plan.step import Step, Work, trace

if TYPE_CHECKING:
    from lingraft.train.techniques import Technique

Techniques = Callable[[Any, Any], Sequence["Technique"]]  # of a model and its config
_STATE = 8  # bytes of Adam's two moments, in float32 (Kingma & Ba 2015)
_UPDATE = 28  # bytes an update of one parameter reads and writes: value, gradient, moments


@dataclass(frozen=True)
class Model:
    """A model to plan for: its config, grown where a vocabulary stage adds rows, and its exact parameter count."""

    config: Any
    kind: skeleton.Kind
    parameters: int
    depths: tuple[int, ...]
    rows: range | None = None


@dataclass(frozen=True)
class Cost:
    """What one way of training costs: bytes at the peak, by part, and seconds."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loading: int
    logits: int
    trained: int
    trained_embedding: int
    trained_head: int
    seconds_per_1k_tokens: float

    @property
    def total(self) -> int:
        """Bytes at the peak of training, or of loading where that holds more."""
        return max(self.weights + self.gradients + self.optimizer + self.activations, self.loading)

    @property
    def ends(self) -> int:
        """Bytes that the trained embedding and head take: values, gradients and moments."""
        return (self.trained_embedding + self.trained_head) * (4 + 4 + _STATE)

    def as_json(self) -> dict[str, Any]:
        """Return the contract's `memory`, and the parts that stand apart."""
        memory = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "total")}
        each = 4 + 4 + _STATE
        parts = {
            "logits": self.logits,
            "loading": self.loading,
            "trained_embedding": self.trained_embedding * each,
            "trained_head": self.trained_head * each,
        }
        return {
            "memory": memory,
            "parts": parts,
            "trainable_parameters": self.trained,
            "seconds_per_1k_tokens": self.seconds_per_1k_tokens,
        }


def look(config: Any, rows: int = 0) -> Model:
    """Count a model's parameters on the meta device, with ``rows`` more in its vocabulary."""
    kind = skeleton.kind_of(config)
    old = int(config.get_text_config().vocab_size)
    if rows:
        config = skeleton.with_rows(config, old + rows)
    built = skeleton.build(config, kind)
    count = sum(p.numel() for p in built.parameters())
    return Model(config, kind, count, skeleton.depths_to_trace(built, config), range(old, old + rows) if rows else None)


def weigh(
    model: Model, techniques: Techniques, work: Work, hardware: Hardware, quantised: bool = False, whole: bool = False
) -> Cost:
    """Trace one way of training; ``whole`` where techniques name blocks, so that fewer would be another thing."""
    target = skeleton.depth_of(model.config)
    depths = (target,) if whole else model.depths
    steps = [_at(model, depth, techniques, work, quantised) for depth in depths]
    step = steps[0] if len(steps) == 1 else _continued(steps, depths, target)
    return _cost(step, model, work, hardware)


def _at(model: Model, depth: int, techniques: Techniques, work: Work, quantised: bool) -> Step:
    config = skeleton.with_depth(model.config, depth)
    chosen = techniques(skeleton.build(config, model.kind), config)
    return trace(config, model.kind, chosen, work, model.rows, quantised)


def _continued(steps: Sequence[Step], depths: Sequence[int], target: int) -> Step:
    """Continue two depths in a straight line to ``target``."""
    small, big = steps
    reach = (target - depths[1]) / (depths[1] - depths[0])

    def line(a: int, b: int) -> int:
        return round(b + (b - a) * reach)

    numbers = {f.name: line(getattr(small, f.name), getattr(big, f.name)) for f in fields(Step) if f.name != "peaks"}
    pairs = {phase: (small.peaks.get(phase, peak), peak) for phase, peak in big.peaks.items()}
    peaks = {
        phase: Peak(line(a.live, b.live), line(a.small, b.small), line(a.large, b.large))
        for phase, (a, b) in pairs.items()
    }
    return Step(peaks=peaks, **numbers)


def _cost(step: Step, model: Model, work: Work, hardware: Hardware) -> Cost:
    gradients, optimizer = 4 * step.trained, _STATE * step.trained
    passing = _held(list(step.peaks.values()), hardware)
    products = hardware.operations * _type_share(work.dtype, hardware)
    seconds = step.operations / products + step.moved / hardware.bandwidth
    update = _UPDATE * step.trained / hardware.bandwidth / work.micro_steps
    return Cost(
        weights=step.weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=max(0, passing - gradients),
        # Weights are read in float32 and then cast: on a card, in the host's memory.
        loading=4 * model.parameters if hardware.is_cpu and work.dtype != torch.float32 else 0,
        logits=step.logits,
        trained=step.trained,
        trained_embedding=step.trained_embedding,
        trained_head=step.trained_head,
        seconds_per_1k_tokens=(seconds + update) * 1000 / work.tokens,
    )


def _held(peaks: Sequence[Peak], hardware: Hardware) -> int:
    """Return what the allocator holds for these peaks: a CPU's heap of small pieces keeps its height and its gaps."""
    if not hardware.is_cpu:
        return round(max(p.live for p in peaks) * (1 + hardware.slack)) + hardware.base
    heap = max(p.small for p in peaks) * (1 + hardware.slack)
    return round(heap) + max(p.large for p in peaks) + hardware.base


def _type_share(dtype: torch.dtype, hardware: Hardware) -> float:
    """Return how fast another type than the hardware's own multiplies; float32 on a card is about an eighth."""
    return 0.125 if dtype == torch.float32 and not hardware.is_cpu else 1.0
