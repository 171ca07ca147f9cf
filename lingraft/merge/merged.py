"""The merged model as a lazy checkpoint: `reduce(merge, adapters, base)`, computed when it is read.

Nothing is written, so the result can be fingerprinted, verified or exported as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import torch

from lingraft.merge import defects, evidence, order, promises, quantised, sound, vocabulary
from lingraft.merge import ends as model_ends
from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.ends import Ends, Tied
from lingraft.merge.heads import apply_head, class_of
from lingraft.merge.initial import take_out
from lingraft.merge.plan import Plan, plan
from lingraft.merge.updates import apply, rounded
from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights.hf import dtype_of
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor, Weights, header

Onto = Literal["original", "dequantised", "nf4", "nf4-double", "fp4", "fp4-double", "int8"]
Seen = tuple[Adapter, Mapping[str, Any]]  # an adapter, and how the model below it was quantised in training


@dataclass(frozen=True)
class Model:
    """A model in the middle of a merge: weights not yet rounded, config, its ends, and what was applied so far."""

    weights: Lazy
    config: Mapping[str, Any]
    ends: Ends
    applied: tuple[dict[str, Any], ...] = ()
    plans: tuple[Plan, ...] = ()
    left_out: tuple[str, ...] = ()
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)


@dataclass(frozen=True)
class Merged:
    """A merge that was decided and not yet written: the result, and what its receipt says."""

    checkpoint: Checkpoint
    model: Model
    fingerprints: tuple[str, ...]
    inside: order.Inside
    untied: bool
    quantisation: Callable[[Weights], dict[str, Any]] | None = None  # of the weights as they are stored

    def cast(self, dtype: torch.dtype | None) -> Lazy:
        """Return the tensors in the dtype to store (None: the base's), every block checked for NaN and overflow."""
        entries = {}
        for name, entry in self.model.weights.entries.items():
            kept = header(self.checkpoint.tensors, name).dtype
            stored = dtype if dtype is not None and kept.is_floating_point else kept
            entries[name] = _checked(name, rounded(entry, stored))
        return Lazy(entries)


def merged(base: Checkpoint, adapters: Sequence[Path], findings: Findings, tied: Tied = "auto") -> Checkpoint:
    """Return base + adapters as a lazy checkpoint in the base's dtypes. Errors: everything that refuses a merge."""
    return decide(base, [read_adapter(path, findings) for path in adapters], findings, tied).checkpoint


def decide(
    base: Checkpoint, adapters: Sequence[Adapter], findings: Findings, tied: Tied = "auto", onto: Onto = "original"
) -> Merged:
    """Check everything that can be known before the base is read in full, and set up the result.

    Every problem is collected; one Refusal tells them all. Where a few adapters fit only in another order, it says so.
    """
    try:
        return _decide(base, adapters, findings, tied, onto)
    except Refusal as refusal:
        if order.may_be_order(refusal, len(adapters)):
            order.check_others(adapters, lambda other: _decide(base, other, Findings(findings.allow), tied, onto))
        raise


def _decide(base: Checkpoint, adapters: Sequence[Adapter], findings: Findings, tied: Tied, onto: Onto) -> Merged:
    findings.settle()
    fingerprints = [sound.look(adapter, findings) for adapter in adapters]
    known = order.inside(base.path)
    given = [order.Given(a.path, f, a.lineage) for a, f in zip(adapters, fingerprints, strict=True)]
    order.check(base.path, known, given, findings)
    vocabulary.check_chain(base.path, [a.path for a in adapters], findings)
    vocabulary.check_rows_grow([a.path for a in adapters], findings)
    findings.settle()
    weights = Lazy({name: header(base.tensors, name) for name in base.tensors})
    dtypes = {name: entry.dtype for name, entry in weights.entries.items()}
    start = Model(weights, base.config, model_ends.find(weights, base.config), dtypes=dtypes)
    vocabulary.check_base(base.path, base.config, weights, start.ends, findings)
    last = _last_quantised(adapters, onto, dtype_of(base.tensors), findings)

    def step(below: Model, adapter: Adapter) -> Model:
        if onto != "original" and last is not None and adapter is last[0]:
            below = replace(below, weights=quantised.dequantised(below.weights, quantised.parse(last[1])))
        return merge_one(below, adapter, findings, tied, base.path)

    model = reduce(step, adapters, start)
    if len(adapters) > 1 and not any(a.lineage for a in adapters):
        evidence.check_steps(adapters, model.plans, weights, findings)
    findings.settle()
    told = None if last is None else partial(_quantisation, last, adapters, start, model, onto)
    untied = start.ends.tied and not model.ends.tied
    return Merged(_finish(base, model, adapters), model, tuple(fingerprints), known, untied, told)


def _last_quantised(adapters: Sequence[Adapter], onto: Onto, dtype: torch.dtype, findings: Findings) -> Seen | None:
    """Return the last adapter that was trained on a quantised model: what lay below it is what was quantised."""
    seen = [(a, a.lineage.quantisation) for a in adapters if a.lineage and a.lineage.quantisation]
    if onto in quantised.SAID and seen:
        findings.problem(
            "config-mismatch",
            f"--onto {onto}: {seen[-1][0].path} says itself what it saw: {dict(seen[-1][1])}",
            "write --onto dequantised",
            seen[-1][0].path,
        )
    elif onto in quantised.SAID:
        return adapters[-1], quantised.said(onto, dtype)
    elif onto == "dequantised" and not seen:
        findings.problem(
            "config-mismatch",
            "--onto dequantised: no adapter says that it was trained on a quantised base",
            f"say how the base was loaded: --onto {', '.join(quantised.SAID)}; or leave --onto out",
            adapters[-1].path,
        )
    return seen[-1] if seen else None


def _quantisation(
    last: Seen,
    adapters: Sequence[Adapter],
    start: Model,
    model: Model,
    onto: Onto,
    stored: Weights,
) -> dict[str, Any]:
    """Tell the receipt which base the adapter saw, which one it was merged onto, and the error of either choice."""
    position = next(i for i, adapter in enumerate(adapters) if adapter is last[0])

    def put(plans: Sequence[Plan], weights: Lazy) -> Lazy:
        for made in plans:
            weights = apply(weights, {n: u for n, u in made.updates.items() if n in weights})
        return weights

    below = put(model.plans[:position], start.weights)
    above = partial(put, model.plans[position:])
    found = quantised.errors(below, quantised.parse(last[1]), above, lambda name: header(stored, name).dtype)
    return {
        "seen": dict(last[1]),
        "by": str(last[0].path),
        "onto": onto,
        "errors": found.as_json(),
    }


def merge_one(model: Model, adapter: Adapter, findings: Findings, tied: Tied, base: Path | None = None) -> Model:
    """Put one adapter on top of a model."""
    weights, ends = model.weights, model.ends
    if class_of(adapter, model.config) is not None:
        ends = replace(ends, head=None, tied=False)  # the model that was trained has a head of its own instead
    weights = model_ends.with_alias(weights, ends)
    made = plan(adapter, weights, ends, findings, model.config)
    findings.settle()
    promises.check(adapter, weights, made.rename, findings)
    defects.warn(adapter, findings)
    take_out(adapter, weights, made, findings)
    if adapter.lineage is None:
        evidence.check_rows(adapter, weights, made, findings)
        evidence.check_magnitudes(adapter, weights, made, findings)
        evidence.check_inside(adapter, weights, made, findings)
        evidence.check_named_base(adapter, weights, made, not model.applied, findings)
    _moved(adapter, weights, made, findings)
    settled = model_ends.settle(
        apply(weights, made.updates), ends, model.config, made.updates, tied, str(adapter.path), findings
    )
    above, ends = settled.weights, settled.ends
    if base is not None:
        earlier = [base, *(Path(one["adapter"]) for one in model.applied)]
        vocabulary.check_rows(adapter, earlier, weights, above, ends, made, findings)
    vocabulary.check_ends(above, ends, findings, str(adapter.path))
    new = [name for name in made.updates if name not in weights.entries]
    headed = apply_head(adapter, new, above, _grown(settled.config, weights, above, ends), made.rename, findings)
    dtypes = dict(model.dtypes)
    if ends.head is not None and ends.embedding is not None:
        dtypes.setdefault(ends.head, dtypes.get(ends.embedding, torch.float32))
    dtypes |= {made.rename.live(name): dtype for name, dtype in dtypes.items()}  # a new head may have renamed them
    changed = adapter.lineage.config if adapter.lineage else {}
    return Model(
        headed.weights,
        {**headed.config, **changed},
        ends,
        (*model.applied, _counts(adapter, made)),
        (*model.plans, made),
        (*model.left_out, *headed.left_out),
        dtypes,
    )


def _counts(adapter: Adapter, made: Plan) -> dict[str, Any]:
    return {
        "adapter": str(adapter.path),
        "tensors": len(adapter.weights),
        "low_rank": len(made.deltas) + made.fused,
        "replaced": len(made.replaced),
        "rows": made.rows,
    }


def _moved(adapter: Adapter, weights: Lazy, made: Plan, findings: Findings) -> None:
    """A module that was saved and equals the base was never updated: a matrix is a problem, a vector a warning.

    (In bf16 a norm's weight near 1 does not move at ordinary learning rates.)
    """
    from lingraft.merge.equal import copy_of

    for name, value in made.replaced.items():
        below = weights.entries.get(name)
        if below is None or below.shape != value.shape or not copy_of(below, value):
            continue
        tell = findings.problem if len(below.shape) > 1 else findings.warn
        tell(
            "module-not-updated",
            f"{adapter.path}: {name} was saved as trained, and equals the base bit for bit",
            "check that it was trained (ZeRO-3 and tied embeddings are known to lose it)",
            adapter.path,
            name,
        )


def _grown(config: Mapping[str, Any], below: Lazy, above: Lazy, ends: Ends) -> Mapping[str, Any]:
    """Return the config with the embedding's number of rows, where that changed."""
    name = ends.embedding
    if name is None or above.entries[name].shape[0] == below.entries[name].shape[0]:
        return config
    rows, text = above.entries[name].shape[0], config.get("text_config")
    if isinstance(text, Mapping) and "vocab_size" in text:
        config = {**config, "text_config": {**text, "vocab_size": rows}}
    return {**config, "vocab_size": rows} if "vocab_size" in config or not isinstance(text, Mapping) else config


def _finish(base: Checkpoint, model: Model, adapters: Sequence[Adapter]) -> Checkpoint:
    """Round every tensor to the base's dtype (new ones to its usual one) and choose the files beside the weights."""
    usual = dtype_of(base.tensors)
    entries = {name: rounded(entry, model.dtypes.get(name, usual)) for name, entry in model.weights.entries.items()}
    files = vocabulary.files_for(base.side_files, [a.path for a in adapters])
    made = base.made if files == base.side_files else dict
    return replace(base, tensors=Lazy(entries), config=model.config, side_files=files, made=made)


def _checked(name: str, entry: Entry) -> Entry:
    """Return a tensor that refuses (`non-finite`) to hand out NaN or Inf."""

    def read(start: int, stop: int | None) -> Tensor:
        block = entry.read(start, stop)
        if not sound.all_finite(block):
            refuse(
                "non-finite",
                f"{name} would hold NaN or Inf in rows {start} to {stop} as {entry.dtype}",
                "the base may hold it already (lingraft inspect); float16 ends at 65,504: choose bfloat16",
                None,
                name,
            )
        return block

    return Entry(entry.dtype, entry.shape, read)
