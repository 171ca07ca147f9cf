"""From an adapter's tensors to updates of the base's tensors: each tensor is used exactly once, or refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lingraft.merge.adapter import Adapter, some
from lingraft.merge.ends import Ends
from lingraft.merge.experts import container, fused_leaves, stored
from lingraft.merge.heads import TASKS
from lingraft.merge.match import Renaming, match
from lingraft.merge.modules import Module, Plan, listed_as_saved, plan_experts, plan_module
from lingraft.merge.names import NEW_HEADS, Part
from lingraft.merge.updates import Extend
from lingraft.problems import Findings
from lingraft.weights.tensors import Lazy

__all__ = ["Plan", "plan"]


def plan(
    adapter: Adapter, weights: Lazy, ends: Ends, findings: Findings, config: Mapping[str, Any] = MappingProxyType({})
) -> Plan:
    """Turn every tensor of an adapter into an update of ``weights`` (a tied head included under its own name).

    Problems: `unused-adapter-tensors`, `missing-adapter-tensors`, `base-mismatch`, `config-mismatch`, `vocab-mismatch`.
    """
    parts = [part for part in adapter.parts if 0 not in adapter.entry(part).shape]
    rename = match(
        parts,
        weights,
        config,
        lambda part, way: _has_place(adapter, part, weights, way),
        lambda part: _is_new(adapter, part),
    )
    if rename is None:
        _refuse_names(adapter, parts, weights, findings)
        return Plan()
    made = Plan(rename)
    modules: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        modules[part.module].append(part)
    for path, some_parts in modules.items():
        module = Module(adapter, path, some_parts, weights, rename, findings, str(config.get("model_type")))
        if module.below() is None and fused_leaves(adapter, some_parts[0]):
            plan_experts(module, made)
        else:
            plan_module(module, ends, made)
    _mirror(ends, made)
    left = [part.key for part in parts if part.key not in made.used]
    if left:
        findings.problem(
            "unused-adapter-tensors",
            f"{adapter.path}: nothing would use {some(left)}",
            "check how the adapter was saved",
            adapter.path,
            left[0],
        )
    return made


def _mirror(ends: Ends, made: Plan) -> None:
    """A tied base that grew in training grew at both ends, also where peft saved one copy."""
    if not ends.tied or ends.embedding is None or ends.head is None:
        return
    for one, other in ((ends.embedding, ends.head), (ends.head, ends.embedding)):
        grown = [u for u in made.updates.get(one, ()) if isinstance(u, Extend)]
        if grown and not any(isinstance(u, Extend) for u in made.updates.get(other, ())):
            made.updates[other].insert(0, grown[0])


def _is_new(adapter: Adapter, part: Part) -> bool:
    if part.role not in ("value", "original"):
        return False
    steps = part.module.split(".")
    if any(step in NEW_HEADS for step in steps):
        return True
    # A class for a task may want more than its head (BERT's pooler): `apply_head` holds it against the class.
    return listed_as_saved(adapter, part.module) and (len(steps) < 3 or adapter.config.get("task_type") in TASKS)


def _has_place(adapter: Adapter, part: Part, weights: Lazy, rename: Renaming) -> bool:
    if rename(part.target) in weights:
        return True
    return any(stored(container(part), leaf, weights, rename) for leaf in fused_leaves(adapter, part))


def _refuse_names(adapter: Adapter, parts: Sequence[Part], weights: Lazy, findings: Findings) -> None:
    strange = [
        part for part in parts if not _has_place(adapter, part, weights, Renaming()) and not _is_new(adapter, part)
    ]
    if strange and all(fused_leaves(adapter, part) for part in strange):
        findings.problem(
            "unsupported-adapter",
            f"{adapter.path} trains fused parameters that the base stores otherwise: "
            f"{some([part.key for part in strange])}",
            "merge it with peft",
            adapter.path,
            strange[0].key,
        )
        return
    findings.problem(
        "unused-adapter-tensors",
        f"{adapter.path}: {len(strange)} of {len(parts)} tensors fit no tensor of the base: "
        f"{some([part.key for part in strange])}",
        "merge into the model that the adapter was trained on; check the names' prefix",
        adapter.path,
        strange[0].key if strange else None,
    )
