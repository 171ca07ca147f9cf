"""`lingraft verify ADAPTER --base BASE`: proof that training moved what it should have moved.

Every module of the adapter is held against the model below it (the base, with the adapters that were live below
this one): how far it moved, and for embedding and head how many new and old rows changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from lingraft.merge import ends as model_ends
from lingraft.merge import sound
from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.ends import Ends
from lingraft.merge.initial import take_out
from lingraft.merge.merged import Model, merge_one
from lingraft.merge.plan import Plan, plan
from lingraft.merge.updates import Replace, Rows, apply
from lingraft.merge.vocabulary import only_spare, read_tokens
from lingraft.problems import Findings, Refusal
from lingraft.verify.difference import difference
from lingraft.verify.origin import check_origin
from lingraft.verify.rows import RowChanges, grown, row_changes
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.shards import few
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, header


@dataclass(frozen=True)
class Proof:
    """An adapter between the model below it and the model above it."""

    adapter: Adapter
    base: Checkpoint
    below: Lazy
    above: Lazy
    ends: Ends
    made: Plan


def verify_adapter(adapter: Path, base: Path, findings: Findings) -> dict[str, Any]:
    """Return `modules` and `embeddings` of the contract's `verify`.

    Problems: `module-not-updated`, `untrained-adapter`, `new-tokens-untrained` (an untrained head alone is a warning),
    `base-mismatch`, `non-finite`, `empty-tensor`, and what makes an adapter unreadable.
    """
    read = read_adapter(adapter, findings)
    if any(problem.code == "unsupported-adapter" for problem in findings.problems):
        findings.settle()  # what its tensors mean is not known: nothing more can be said
    checkpoint = open_checkpoint(base)
    sound.look(read, findings)
    below = _below(read, checkpoint, findings)
    proof = _prove(read, checkpoint, below, findings)
    check_origin(read, checkpoint, proof.below, proof.made, findings)
    embeddings = [changes for name in _ends(proof) if (changes := _rows(proof, name)) is not None]
    modules = [_module(proof, name, embeddings) for name in proof.made.updates if name in proof.above]
    _judge_modules(proof, modules, findings)
    _judge_rows(proof, embeddings, findings)
    return {
        "adapter": str(adapter),
        "base": str(base),
        "modules": modules,
        "embeddings": [changes.as_json() for changes in embeddings],
    }


def _below(adapter: Adapter, base: Checkpoint, findings: Findings) -> Model:
    """Return the model that the adapter was trained on: the base, and on it the adapters its lineage names."""
    weights = Lazy({name: header(base.tensors, name) for name in base.tensors})
    start = Model(weights, base.config, model_ends.find(weights, base.config))
    links = adapter.lineage.adapters if adapter.lineage else ()
    try:
        scratch = Findings(findings.allow)
        earlier = [read_adapter(_beside(adapter.path, Path(link.path)), scratch) for link in links]
        return reduce(lambda model, one: merge_one(model, one, scratch, "auto"), earlier, start)
    except Refusal as refusal:
        findings.warn(
            "not-found",
            f"{adapter.path} was trained above {few([link.path for link in links])}, which "
            f"cannot be applied here ({refusal}); it is held against the bare base",
            "keep the earlier adapters beside it",
            adapter.path,
        )
        return start


def _beside(adapter: Path, recorded: Path) -> Path:
    """Return a recorded path; where a whole run folder has moved, the folder of that name beside the adapter."""
    moved = adapter.resolve().parent / recorded.name
    return moved if not recorded.exists() and moved.exists() else recorded


def _prove(adapter: Adapter, base: Checkpoint, below: Model, findings: Findings) -> Proof:
    weights, ends = below.weights, below.ends
    if ends.tied and ends.embedding and ends.head and ends.head not in weights:
        weights = Lazy({**weights.entries, ends.head: weights.entries[ends.embedding]})
    made = plan(adapter, weights, ends, findings, below.config)
    take_out(adapter, weights, made, findings)
    return Proof(adapter, base, weights, apply(weights, made.updates), ends, made)


def _module(proof: Proof, name: str, embeddings: list[RowChanges]) -> dict[str, Any]:
    """Tell how far one tensor moved, over the rows that both sides have; rows that were only added are no move."""
    above, below = proof.above.entries[name], proof.below.entries.get(name)
    module = name.removesuffix(".weight")
    if below is None or below.shape[1:] != above.shape[1:]:
        return {"name": module, "changed": True, "max_abs": None, "rel_norm": None}
    rows = min(above.shape[0], below.shape[0]) if above.shape else None
    apart = difference(in_precision_of(_top(below, rows), _brought(proof.made, name)), _top(above, rows))
    changed = not apart.equal or any(c.name == module and c.new_rows_changed for c in embeddings)
    return {"name": module, "changed": changed, "max_abs": apart.max_abs, "rel_norm": apart.rel}


def _brought(made: Plan, name: str) -> torch.dtype | None:
    """Return the dtype in which a whole tensor was saved; a copy in half precision is a rounded copy, not a change."""
    values = [u.value.dtype for u in made.updates.get(name, ()) if isinstance(u, Replace)]
    return values[-1] if values else None


def in_precision_of(entry: Entry, dtype: torch.dtype | None) -> Entry:
    """Return a tensor rounded to a coarser dtype, where that is coarser."""
    if dtype is None or not dtype.is_floating_point or torch.finfo(dtype).bits >= torch.finfo(entry.dtype).bits:
        return entry
    return Entry(dtype, entry.shape, lambda start, stop: entry.read(start, stop).to(dtype))


def _top(entry: Entry, rows: int | None) -> Entry:
    if rows is None or entry.shape[0] == rows:
        return entry
    return Entry(
        entry.dtype,
        (rows, *entry.shape[1:]),
        lambda start, stop: entry.read(start, rows if stop is None else min(stop, rows)),
    )


def _ends(proof: Proof) -> list[str]:
    """List embedding and head; a tied head only where the adapter brings one."""
    names = [proof.ends.embedding, proof.ends.head]
    return [
        name
        for name in names
        if name is not None
        and name in proof.below.entries
        and (name != proof.ends.head or not proof.ends.tied or name in proof.made.updates)
    ]


def _rows(proof: Proof, name: str) -> RowChanges | None:
    below, above = proof.below.entries[name], proof.above.entries.get(name)
    if above is None or len(below.shape) != 2:
        return None
    start, tokens = grown(proof.adapter.path, proof.base.path, below.shape[0], above.shape[0])
    below = in_precision_of(below, _brought(proof.made, name))
    return row_changes(name.removesuffix(".weight"), below, above, start, tokens)


def _judge_modules(proof: Proof, modules: list[dict[str, Any]], findings: Findings) -> None:
    moved = {module["name"]: module["changed"] for module in modules}
    learned: dict[str, bool] = {}
    for name, updates in proof.made.updates.items():
        module = name.removesuffix(".weight")
        if any(isinstance(update, Replace) for update in updates) and not name.endswith(".bias"):
            if not moved.get(module, True):
                findings.problem(
                    "module-not-updated",
                    f"{module} is in modules_to_save and equals the base: training never changed it",
                    "check that it was trainable (under ZeRO-3 and tied embeddings "
                    "saves are known to lose it) and train again",
                    proof.adapter.path,
                    name,
                )
        elif not any(isinstance(update, Replace | Rows) for update in updates):
            learned[module] = moved.get(module, True)
    _judge_learned(proof, learned, findings)


def _judge_learned(proof: Proof, learned: Mapping[str, bool], findings: Findings) -> None:
    still = [module for module, changed in learned.items() if not changed]
    told = any(problem.code == "untrained-adapter" for problem in (*findings.problems, *findings.allowed))
    if still and len(still) == len(learned) and not told:
        findings.problem(
            "untrained-adapter",
            f"{proof.adapter.path} changes nothing ({few(still)})",
            "train it, or take the adapter from a later checkpoint",
            proof.adapter.path,
            still[0],
        )


def _judge_rows(proof: Proof, embeddings: list[RowChanges], findings: Findings) -> None:
    for changes in embeddings:
        if changes.new_rows and not changes.new_rows_changed:
            head = changes.name + ".weight" == proof.ends.head and not proof.ends.tied
            tokens = read_tokens(proof.adapter.path)
            idle = tokens is not None and only_spare(tokens, changes.old_rows)  # nothing reads the row of padding
            tell = findings.warn if head or idle else findings.problem
            tell(
                "new-tokens-untrained",
                f"the vocabulary grew by {changes.new_rows:,} tokens, and none of their rows "
                f"in {changes.name} was trained: {changes.why}",
                "train embed_tokens and lm_head (modules_to_save), or the new rows (trainable_token_indices)",
                proof.adapter.path,
                changes.name + ".weight",
            )
        elif changes.new_rows and changes.new_rows_changed < changes.new_rows / 2:
            still = changes.new_rows - changes.new_rows_changed
            findings.warn(
                "new-tokens-untrained",
                f"{still:,} of {changes.new_rows:,} new rows of {changes.name} never moved",
                "the training text may lack those tokens",
                proof.adapter.path,
                changes.name + ".weight",
            )
