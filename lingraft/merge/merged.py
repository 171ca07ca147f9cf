"""The merged model as a lazy checkpoint: `reduce(merge, adapters, base)`, computed when it is read.

Nothing is written, so the result can be fingerprinted, verified or exported as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch

from lingraft.merge import ends as model_ends
from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.ends import Ends
from lingraft.merge.plan import Plan, plan
from lingraft.merge.updates import apply, rounded
from lingraft.problems import Findings
from lingraft.weights.hf import dtype_of, side_files
from lingraft.weights.tensors import Checkpoint, Lazy

Tied = Literal["auto", "tie", "untie"]


@dataclass(frozen=True)
class Model:
    """A model in the middle of a merge: weights not yet rounded, config, its ends, and what was applied so far."""

    weights: Lazy
    config: Mapping[str, Any]
    ends: Ends
    applied: tuple[dict[str, Any], ...] = ()


def merged(base: Checkpoint, adapters: Sequence[Path], findings: Findings, tied: Tied = "auto") -> Checkpoint:
    """Return base + adapters as a lazy checkpoint in the base's dtypes. Errors: everything that refuses a merge."""
    read = [read_adapter(path, findings) for path in adapters]
    findings.settle()
    return finish(base, chain(base, read, findings, tied), read)


def chain(base: Checkpoint, adapters: Sequence[Adapter], findings: Findings, tied: Tied = "auto") -> Model:
    """Apply the adapters in order; problems are collected and settled at the end."""
    weights = base.tensors if isinstance(base.tensors, Lazy) else _lazy(base.tensors)
    start = Model(weights, base.config, model_ends.find(weights, base.config))
    model = reduce(lambda below, adapter: merge_one(below, adapter, findings, tied), adapters, start)
    findings.settle()
    return model


def merge_one(model: Model, adapter: Adapter, findings: Findings, tied: Tied) -> Model:
    """Put one adapter on top of a model."""
    weights = model.weights
    ends = model.ends
    if ends.tied and ends.embedding and ends.head:
        weights = Lazy({**weights.entries, ends.head: weights.entries[ends.embedding]})
    made = plan(adapter, weights, ends, findings)
    findings.settle()
    on_top, ends, config = _settle_ends(apply(weights, made.updates), ends, made, model.config, findings, tied, adapter)
    counts = {"adapter": str(adapter.path), "tensors": len(adapter.weights), "low_rank": made.low_rank,
              "replaced": made.replaced, "rows": made.rows}  # fmt: skip
    return Model(on_top, _grown(config, on_top, ends), ends, (*model.applied, counts))


def _settle_ends(weights: Lazy, ends: Ends, made: Plan, config: Mapping[str, Any], findings: Findings, tied: Tied,
                 adapter: Adapter) -> tuple[Lazy, Ends, Mapping[str, Any]]:  # fmt: skip
    if not (ends.tied and ends.embedding and ends.head):
        return weights, ends, config
    entries = dict(weights.entries)
    touched = {name for name in (ends.embedding, ends.head) if made.updates.get(name)}
    rows_only = touched == {ends.embedding} and made.rows > 0
    if not touched or rows_only or (len(touched) == 2 and model_ends.same(entries[ends.embedding], entries[ends.head])):
        del entries[ends.head]
        return Lazy(entries), ends, config
    if len(touched) == 1 and tied == "auto":
        findings.problem("tied-head-conflict", f"{adapter.path} changes {min(touched)} alone, and the base ties "
                         "embedding and head", "--untie keeps the model as it ran; --tie uses the change for both",
                         adapter.path, min(touched))
    if tied == "tie" and len(touched) == 1:
        entries[ends.embedding] = entries[min(touched)]
        del entries[ends.head]
        return Lazy(entries), ends, config
    return Lazy(entries), replace(ends, tied=False), {**config, "tie_word_embeddings": False}


def _grown(config: Mapping[str, Any], weights: Lazy, ends: Ends) -> Mapping[str, Any]:
    if ends.embedding is None or "vocab_size" not in config:
        return config
    return {**config, "vocab_size": weights.entries[ends.embedding].shape[0]}


def finish(base: Checkpoint, model: Model, adapters: Sequence[Adapter]) -> Checkpoint:
    """Round every tensor to the base's dtype and choose the files that go with the weights."""
    lone = dtype_of(base.tensors)
    kept: dict[str, torch.dtype] = {n: base_entry.dtype for n, base_entry in _lazy(base.tensors).entries.items()}
    entries = {name: rounded(entry, kept.get(name, lone)) for name, entry in model.weights.entries.items()}
    homes = [a.path for a in adapters if any(f.name.startswith(("tokenizer", "vocab")) for f in side_files(a.path))]
    files = side_files(homes[-1]) if homes else base.side_files
    names = {f.name for f in files}
    files += tuple(f for f in base.side_files if f.name == "generation_config.json" and f.name not in names)
    return Checkpoint(base.path, base.format, Lazy(entries), model.config, files)


def _lazy(weights: Mapping[str, torch.Tensor]) -> Lazy:
    from lingraft.weights.tensors import header

    return weights if isinstance(weights, Lazy) else Lazy({name: header(weights, name) for name in weights})
