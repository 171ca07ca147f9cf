"""What the parts of one module do: whole tensors, rows, low-rank pairs, factors, fused experts.

Redundant copies that peft saves (`original_module`, `base_layer`) are accounted for, not applied; that they equal
the base is a free check that it is the right one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lingraft.merge.adapter import Adapter
from lingraft.merge.conv1d import stored_transposed
from lingraft.merge.ends import Ends
from lingraft.merge.equal import copy_of, same
from lingraft.merge.experts import container, fused_leaves, place
from lingraft.merge.lineage import token_indices
from lingraft.merge.match import Renaming
from lingraft.merge.names import Part, listed
from lingraft.merge.updates import Add, Dora, Extend, LowRank, LowRankEmbedding, Replace, Rows, Scale, Update
from lingraft.problems import Code, Findings
from lingraft.weights.tensors import Entry, Lazy


@dataclass
class Plan:
    """What one adapter does: updates by tensor name on disk, and how its tensors were used."""

    rename: Renaming = field(default_factory=Renaming)
    updates: dict[str, list[Update]] = field(default_factory=lambda: defaultdict(list))
    used: set[str] = field(default_factory=set)
    deltas: dict[str, LowRank | LowRankEmbedding] = field(default_factory=dict)  # by name on disk, DoRA's too
    replaced: dict[str, Entry] = field(default_factory=dict)
    originals: dict[str, Entry] = field(default_factory=dict)  # the copy of the base that the adapter carries
    rows: int = 0
    fused: int = 0

    def add(self, name: str, update: Update, *parts: Part) -> None:
        """Use some parts of the adapter for one tensor."""
        self.updates[name].append(update)
        self.used.update(part.key for part in parts)


@dataclass(frozen=True)
class Module:
    """The parts of one module, beside the base's tensors that they are about."""

    adapter: Adapter
    path: str
    parts: Sequence[Part]
    weights: Lazy
    rename: Renaming
    findings: Findings
    model_type: str = ""

    @property
    def transposed(self) -> bool:
        """True where the base stores this module's matrix as (in, out)."""
        return stored_transposed(self.model_type, self.path, bool(self.adapter.config.get("fan_in_fan_out")))

    def get(self, role: str) -> Part | None:
        return next((part for part in self.parts if part.role == role), None)

    def name(self, parameter: str = "weight") -> str:
        return self.rename(f"{self.path}.{parameter}")

    def below(self, parameter: str = "weight") -> Entry | None:
        return self.weights.entries.get(self.name(parameter))

    def problem(self, code: Code, message: str, remedy: str, part: Part) -> None:
        self.findings.problem(code, f"{self.adapter.path}: {message}", remedy, self.adapter.path, part.key)


def plan_module(module: Module, ends: Ends, made: Plan) -> None:
    """Add the updates of an ordinary module: copies first, then whole tensors, rows, low-rank pairs, factors."""
    for role in ("original", "base", "value"):
        for part in (p for p in module.parts if p.role == role):
            _copy(module, part, made) if _is_copy(module, part) else _value(module, part, made)
    _tokens(module, ends, made)
    _low_rank(module, "lora_A", "lora_B", made)
    _low_rank(module, "embedding_A", "embedding_B", made)
    if bias := module.get("lora_bias"):
        _bias(module, bias, made)
    _ia3(module, made)


def _is_copy(module: Module, part: Part) -> bool:
    if part.role == "original":
        return True
    if part.role == "base":
        return part.parameter != "bias" or module.adapter.config.get("bias", "none") == "none"
    # A whole tensor that the config does not list was saved by `save_embedding_layers`: peft loads it all the same,
    # so it is a copy only where it equals the base.
    below = module.below(part.parameter)
    saved = listed_as_saved(module.adapter, part.module) or ".modules_to_save." in part.key
    trained_bias = part.parameter == "bias" and module.adapter.config.get("bias", "none") != "none"
    return not saved and not trained_bias and below is not None and copy_of(below, module.adapter.entry(part))


def _copy(module: Module, part: Part, made: Plan) -> None:
    made.used.add(part.key)
    below, copy, name = module.below(part.parameter), module.adapter.entry(part), module.name(part.parameter)
    if below is None:
        return
    made.originals[name] = copy
    if not copy_of(below, copy):
        module.problem(
            "base-mismatch",
            f"{part.key} is the copy of {name} that the adapter was trained on, and it differs from the base",
            "merge into the base (and after the adapters) that it was trained on",
            part,
        )
    elif part.role != "original" and copy.shape and copy.shape[0] > below.shape[0]:
        made.updates[name].append(Extend(copy))


def _value(module: Module, part: Part, made: Plan) -> None:
    name, value = module.name(part.parameter), module.adapter.entry(part)
    made.used.add(part.key)
    if name in made.replaced:
        if not same(made.replaced[name], value):
            module.problem(
                "unused-adapter-tensors",
                f"{part.key} and another tensor for {name} differ: only one can be applied",
                "save the adapter again",
                part,
            )
        return
    below = module.below(part.parameter)
    if below is not None and below.shape[1:] != value.shape[1:]:
        module.problem(
            "base-mismatch",
            f"{part.key} has shape {list(value.shape)}, {name} of the base {list(below.shape)}",
            "merge into the base that the adapter was trained on",
            part,
        )
        return
    made.replaced[name] = value
    made.add(name, Replace(value), part)


def _tokens(module: Module, ends: Ends, made: Plan) -> None:
    if original := module.get("tokens_original"):
        made.used.add(original.key)
    part, below = module.get("tokens"), module.below()
    if part is None or below is None:
        return
    made.used.add(part.key)
    indices, value = _indices(module, ends), module.adapter.entry(part)
    if len(indices) != value.shape[0] or value.shape[1:] != below.shape[1:]:
        module.problem(
            "config-mismatch",
            f"{part.key} has shape {list(value.shape)}; adapter_config.json names "
            f"{len(indices)} tokens for it, and the base's rows have {below.shape[-1]} columns",
            "restore the adapter_config.json that was saved with these weights",
            part,
        )
        return
    rows = max([below.shape[0], *_grown(made, module.name())])
    gap = sorted(set(range(rows, max(indices, default=-1) + 1)) - set(indices))
    if gap:
        module.problem(
            "vocab-mismatch",
            f"{part.key} brings row {max(indices)}; the base has {rows} rows, and nothing brings row {gap[0]}",
            "merge into the base whose vocabulary was extended",
            part,
        )
        return
    made.add(module.name(), Rows(tuple(indices), value), part)
    made.rows += len(indices)


def _indices(module: Module, ends: Ends) -> list[int]:
    """Return the token ids of a module's rows; a tied head that is not named uses the embedding's."""
    named = token_indices(module.adapter.config)
    found = [ids for layer, ids in named.items() if layer and listed(module.path, [layer])]
    if not found and ends.tied and module.name() == ends.head and ends.embedding:
        live = module.rename.live(ends.embedding).removesuffix(".weight")
        found = [ids for layer, ids in named.items() if layer and listed(live, [layer])]
    return found[0] if found else named.get("", [])


def _low_rank(module: Module, first: str, second: str, made: Plan) -> None:
    a, b = module.get(first), module.get(second)
    if a is None and b is None:
        return
    made.used.update(part.key for part in (a, b) if part)
    if a is None or b is None:
        _half(module, a or b, second if a else first)
        return
    scale, entries = module.adapter.scale(module.path), (module.adapter.entry(a), module.adapter.entry(b))
    delta = LowRank(*entries, scale, module.transposed) if first == "lora_A" else LowRankEmbedding(*entries, scale)
    magnitude, name = module.get("magnitude"), module.name()
    if not _fits(module, a, b, delta, made):
        made.used.update(part.key for part in (magnitude,) if part)
        return
    made.deltas[name] = delta
    if magnitude is None:
        made.add(name, delta, a, b)
    else:
        by_row = isinstance(delta, LowRank) and not delta.transposed
        made.add(name, Dora(delta, module.adapter.entry(magnitude), by_row), a, b, magnitude)


def _bias(module: Module, part: Part, made: Plan) -> None:
    made.used.add(part.key)
    if module.below("bias") is None:
        module.problem(
            "unsupported-adapter",
            f"{part.key} is added to a bias that {module.name()} does not have",
            "train without lora_bias, or serve the adapter beside its base",
            part,
        )
        return
    made.add(module.name("bias"), Add(module.adapter.entry(part), module.adapter.scale(module.path)), part)


def _grown(made: Plan, name: str) -> list[int]:
    """Return the rows of the grown copies that already lie on a tensor."""
    return [u.copy.shape[0] for u in made.updates.get(name, ()) if isinstance(u, Extend)]


def _half(module: Module, there: Part | None, lacking: str) -> None:
    assert there is not None
    module.problem(
        "missing-adapter-tensors",
        f"{there.key} has no {lacking} beside it",
        "save the adapter again, or take it from another checkpoint",
        there,
    )


def _fits(module: Module, a: Part, b: Part, delta: LowRank | LowRankEmbedding, made: Plan) -> bool:
    """Hold rank and shape of a pair against config and base."""
    rank, below = module.adapter.rank(module.path), module.below()
    assert below is not None
    ranks = (delta.a.shape[0], delta.b.shape[-1])
    if len(delta.a.shape) != 2 or len(delta.b.shape) != 2 or len(below.shape) != 2:
        module.problem(
            "unsupported-adapter",
            f"{a.key} is a LoRA on a tensor of shape {list(below.shape)}; only matrices are merged",
            "merge it with peft",
            a,
        )
        return False
    if ranks != (rank, rank):
        module.problem(
            "config-mismatch",
            f"{a.key} and {b.key} have rank {ranks[0]} and {ranks[1]}; adapter_config.json says {rank}",
            "restore the adapter_config.json that was saved with these weights",
            a,
        )
        return False
    rows = max([below.shape[0], *_grown(made, module.name())])
    if delta.shape == (rows, below.shape[1]):
        return True
    grown = delta.shape[1] == below.shape[1] and delta.shape[0] > rows
    remedy = (
        "merge into the base whose vocabulary was extended"
        if grown
        else "merge into the base that the adapter was trained on"
    )
    module.problem(
        "vocab-mismatch" if grown else "base-mismatch",
        f"{a.key} and {b.key} make {list(delta.shape)}; {module.name()} of the base is {[rows, below.shape[1]]}",
        remedy,
        a,
    )
    return False


def plan_experts(module: Module, made: Plan) -> None:
    """Add the updates of one low-rank pair that holds all experts of a layer."""
    a, b = module.get("lora_A"), module.get("lora_B")
    made.used.update(part.key for part in (a, b) if part)
    if a is None or b is None:
        _half(module, a or b, "lora_B" if a else "lora_A")
        return
    fused = place(module.adapter, (a, b), module.weights, module.rename, module.model_type)
    rank = module.adapter.rank(f"{container(a)}.{fused.leaf}") if fused else 0
    if fused is None:
        module.problem(
            "unsupported-adapter",
            f"{a.key} and {b.key} fit none of the fused parameters "
            f"{', '.join(fused_leaves(module.adapter, a))} as the base stores them",
            "merge it with peft",
            a,
        )
        return
    if module.adapter.entry(a).shape[0] % rank:
        module.problem(
            "config-mismatch",
            f"{a.key} has {module.adapter.entry(a).shape[0]} rows, no multiple of the rank {rank}",
            "restore the adapter_config.json that was saved with these weights",
            a,
        )
        return
    for name, update in fused.updates:
        made.add(name, update)
    made.fused += 1


def _ia3(module: Module, made: Plan) -> None:
    part, below = module.get("ia3"), module.below()
    if part is None or below is None:
        return
    made.used.add(part.key)
    factors = module.adapter.entry(part)
    # ia3_l is (out, 1) on an ordinary layer and (1, in) on a feed-forward one; a Conv1D stores W transposed.
    feedforward = listed(module.path, module.adapter.config.get("feedforward_modules"))
    by_row = feedforward == module.transposed
    if len(factors.shape) != 2 or max(factors.shape) != below.shape[0 if by_row else 1]:
        module.problem(
            "base-mismatch",
            f"{part.key} has shape {list(factors.shape)}, {module.name()} {list(below.shape)}",
            "merge into the base that the adapter was trained on",
            part,
        )
        return
    made.add(module.name(), Scale(factors, by_row), part)
    if not feedforward and module.below("bias") is not None:
        made.add(module.name("bias"), Scale(factors, True), part)


def listed_as_saved(adapter: Adapter, module: str) -> bool:
    """Tell whether a module, or one around it, is in modules_to_save."""
    saved = adapter.config.get("modules_to_save") or ()
    steps = module.split(".")
    return any(listed(".".join(steps[: i + 1]), list(saved)) for i in range(len(steps)))
