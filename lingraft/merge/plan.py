"""From an adapter's tensors to updates of the base's tensors: each tensor is used exactly once, or refused.

Redundant copies that peft saves (`original_module`, `base_layer`) are accounted for, not applied; that they equal
the base is a free check that it is the right one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lingraft.merge.adapter import Adapter
from lingraft.merge.ends import Ends, same
from lingraft.merge.lineage import token_indices
from lingraft.merge.match import Rename, match, unmatched
from lingraft.merge.names import Part
from lingraft.merge.updates import Add, Dora, Extend, LowRank, LowRankEmbedding, Replace, Rows, Scale, Update
from lingraft.problems import Findings
from lingraft.weights.tensors import Entry, Lazy

NEW_HEADS = frozenset({"classifier", "score", "qa_outputs", "classification_head", "summary", "v_head"})
BRINGS = ("value", "tokens", "lora_A", "embedding_A", "ia3", "lora_bias")


@dataclass
class Plan:
    """What one adapter does: updates by tensor name on disk, and the count of tensors by how they are used."""

    updates: dict[str, list[Update]] = field(default_factory=lambda: defaultdict(list))
    used: set[str] = field(default_factory=set)
    low_rank: int = 0
    replaced: int = 0
    rows: int = 0
    copies: int = 0
    same_everywhere: bool = False

    def add(self, name: str, update: Update, *parts: Part) -> None:
        """Use some parts of the adapter for one tensor."""
        self.updates[name].append(update)
        self.used.update(part.key for part in parts)


def plan(adapter: Adapter, weights: Lazy, ends: Ends, findings: Findings) -> Plan:
    """Turn every tensor of an adapter into an update of ``weights`` (a tied head included under its own name).

    Errors: `unused-adapter-tensors`, `missing-adapter-tensors`, `base-mismatch`, `config-mismatch`.
    """
    made = Plan()
    parts = [part for part in adapter.parts if not _empty(adapter, part, findings)]
    rename = match(parts, weights, lambda part: _is_new(adapter, part))
    if rename is None:
        _refuse_names(adapter, parts, weights, findings)
        return made
    modules: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        modules[part.module].append(part)
    for module, some in modules.items():
        _plan_module(_Module(adapter, module, some, weights, rename), ends, made, findings)
    _refuse_unused(adapter, made, findings)
    return made


@dataclass(frozen=True)
class _Module:
    adapter: Adapter
    module: str
    parts: Sequence[Part]
    weights: Lazy
    rename: Rename

    def get(self, role: str) -> Part | None:
        return next((part for part in self.parts if part.role == role), None)

    def entry(self, part: Part) -> Entry:
        return self.adapter.weights.entries[part.key]

    def name(self, parameter: str = "weight") -> str:
        return self.rename(f"{self.module}.{parameter}")


def _plan_module(module: _Module, ends: Ends, made: Plan, findings: Findings) -> None:
    for role in ("base", "original", "value"):
        for part in (p for p in module.parts if p.role == role):
            _whole(module, part, made, findings)
    _tokens(module, ends, made, findings)
    _low_rank(module, made, findings)
    if ia3 := module.get("ia3"):
        by_row = _ia3_by_row(module, module.entry(ia3))
        made.add(module.name(), Scale(module.entry(ia3), by_row), ia3)
        if not _feedforward(module) and module.name("bias") in module.weights:
            made.add(module.name("bias"), Scale(module.entry(ia3), True))


def _whole(module: _Module, part: Part, made: Plan, findings: Findings) -> None:
    name, value = module.rename(part.target), module.entry(part)
    below = module.weights.entries.get(name)
    trained_bias = part.role == "base" and part.parameter == "bias" and module.adapter.config.get("bias", "none") != "none"
    if part.role == "value" or trained_bias:
        replaced = [u for u in made.updates.get(name, ()) if isinstance(u, Replace)]
        if replaced and not same(replaced[0].value, value):
            findings.problem("unused-adapter-tensors", f"{part.key} and another copy of {name} differ",
                             "save the adapter again", module.adapter.path, part.key)
        if replaced:
            made.used.add(part.key)
            made.copies += 1
            return
        made.add(name, Replace(value), part)
        made.replaced += 1
        return
    made.used.add(part.key)
    made.copies += 1
    if below is None:
        return
    shared = min(below.shape[0], value.shape[0]) if value.shape else None
    if not same(below, value, shared):
        findings.problem("base-mismatch", f"{part.key}: the copy of {name} that the adapter carries differs from the base",
                         "merge into the base that the adapter was trained on", module.adapter.path, part.key)
    if part.role == "base" and value.shape and value.shape[0] > below.shape[0]:
        made.updates[name].append(Extend(value))


def _tokens(module: _Module, ends: Ends, made: Plan, findings: Findings) -> None:
    part = module.get("tokens")
    if original := module.get("tokens_original"):
        made.used.add(original.key)
        made.copies += 1
    if part is None:
        return
    named = token_indices(module.adapter.config)
    indices = next((ids for layer, ids in named.items() if layer and module.module.endswith(layer)), named.get(""))
    value = module.entry(part)
    if indices is None or len(indices) != value.shape[0]:
        findings.problem("config-mismatch", f"{part.key} has {value.shape[0]} rows; adapter_config.json names "
                         f"{0 if indices is None else len(indices)} token indices for {module.module}",
                         "save the adapter again", module.adapter.path, part.key)
        return
    made.add(module.name(), Rows(tuple(indices), value), part)
    made.rows += len(indices)


def _low_rank(module: _Module, made: Plan, findings: Findings) -> None:
    for first, second in (("lora_A", "lora_B"), ("embedding_A", "embedding_B")):
        a, b = module.get(first), module.get(second)
        if a is None and b is None:
            continue
        if a is None or b is None:
            there = a or b
            findings.problem("missing-adapter-tensors", f"{there.key if there else ''} has no {second if a else first} beside it",
                             "save the adapter again", module.adapter.path, there.key if there else None)
            made.used.add(there.key if there else "")
            continue
        scale = module.adapter.scale(module.module)
        delta: LowRank | LowRankEmbedding
        if first == "lora_A":
            delta = LowRank(module.entry(a), module.entry(b), scale, bool(module.adapter.config.get("fan_in_fan_out")))
        else:
            delta = LowRankEmbedding(module.entry(a), module.entry(b), scale)
        magnitude = module.get("magnitude")
        if magnitude is None:
            made.add(module.name(), delta, a, b)
        else:
            by_row = isinstance(delta, LowRank) and not delta.transposed
            made.add(module.name(), Dora(delta, module.entry(magnitude), by_row), a, b, magnitude)
        made.low_rank += 1
    if bias := module.get("lora_bias"):
        made.add(module.name("bias"), Add(module.entry(bias), module.adapter.scale(module.module)), bias)


def _feedforward(module: _Module) -> bool:
    import re

    named = module.adapter.config.get("feedforward_modules") or []
    if isinstance(named, str):
        return re.fullmatch(named, module.module) is not None
    return any(module.module == n or module.module.endswith(f".{n}") for n in named)


def _ia3_by_row(module: _Module, factors: Entry) -> bool:
    # ia3_l is (out, 1) on an ordinary layer and (1, in) on a feed-forward one; fan_in_fan_out stores the transpose.
    by_row = factors.shape[-1] == 1
    return by_row != bool(module.adapter.config.get("fan_in_fan_out"))


def _empty(adapter: Adapter, part: Part, findings: Findings) -> bool:
    if 0 not in adapter.weights.entries[part.key].shape:
        return False
    findings.problem("empty-tensor", f"{part.key} was saved with shape {list(adapter.weights.entries[part.key].shape)}",
                     "gather the parameters before saving (ZeRO-3: stage3_gather_16bit_weights_on_model_save)",
                     adapter.path, part.key)
    return True


def _is_new(adapter: Adapter, part: Part) -> bool:
    saved = set(adapter.config.get("modules_to_save") or ())
    steps = part.module.split(".")
    return part.role in ("value", "original") and any(s in NEW_HEADS or (s in saved and i == 0) for i, s in enumerate(steps))


def _refuse_names(adapter: Adapter, parts: Sequence[Part], weights: Lazy, findings: Findings) -> None:
    strange = unmatched(parts, weights, lambda part: _is_new(adapter, part), lambda name: name)
    listed = ", ".join(part.key for part in strange[:20]) + (f" and {len(strange) - 20} more" if len(strange) > 20 else "")
    findings.problem("unused-adapter-tensors", f"{adapter.path}: {len(strange)} of {len(parts)} tensors fit no tensor "
                     f"of the base: {listed}", "merge into the model that the adapter was trained on",
                     adapter.path, strange[0].key if strange else None)


def _refuse_unused(adapter: Adapter, made: Plan, findings: Findings) -> None:
    left = [p.key for p in adapter.parts if p.key not in made.used and 0 not in adapter.weights.entries[p.key].shape]
    if left:
        findings.problem("unused-adapter-tensors", f"{adapter.path}: nothing would use {', '.join(left[:20])}",
                         "check how the adapter was saved", adapter.path, left[0])
