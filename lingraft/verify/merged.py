"""`lingraft verify MODEL --base BASE --adapter A…`: is this model base + adapters?

Three judges: the arithmetic of every tensor, the config and tokenizer that go with it, and the logits on a probe,
layer by layer from disk, so that it also works where the model does not fit into memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch

from lingraft.merge import ends as model_ends
from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.ends import Tied
from lingraft.merge.equal import same
from lingraft.merge.merged import Onto, decide
from lingraft.merge.updates import Update
from lingraft.problems import Findings, Refusal
from lingraft.verify.arithmetic import Fault, Truth, judge
from lingraft.verify.probe import answers_apart, probe_ids
from lingraft.verify.receipt import chosen_base
from lingraft.verify.streamed import Outcome, Unrunnable, run
from lingraft.verify.surroundings import check_config, check_generation, check_tokenizer
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.hf import dtype_of
from lingraft.weights.shards import few
from lingraft.weights.tensors import Checkpoint, Lazy, header

TOLD = 12  # faults told one by one; `different` has them all
LAYER = re.compile(r"(.*?\.\d+)\.")
REMEDY = "merge again with `lingraft merge BASE ADAPTER… --out DIR`"


@dataclass(frozen=True)
class Expected:
    """What the model must be: its exact tensors, and the checkpoint with config and side files around them."""

    truth: Truth
    checkpoint: Checkpoint
    head: str | None
    embedding: str | None


def verify_merged(model: Path, base: Path, adapters: Sequence[Path], findings: Findings) -> dict[str, Any]:
    """Return the contract's `verify` for a merged model: `max_abs_error`, `logits`, and what differs where.

    ``max_abs_error`` is the largest distance from the unrounded float32 truth, None where a tensor is missing, of
    another shape or not finite. Problems: `merged-differs` (names tensor and layer), `non-finite`, `config-mismatch`,
    `tokenizer-mismatch`, and whatever refuses the merge itself.
    """
    stored, below, onto = open_checkpoint(model), open_checkpoint(base), chosen_base(model)
    expected = _expected(stored, below, adapters, onto, findings)
    if expected is None:
        return {"max_abs_error": None, "logits": None, "modules": [], "embeddings": []}
    faults, largest, in_half = _tensors(stored, expected)
    if in_half:
        findings.warn(
            "merged-differs",
            f"{model}: {len(in_half)} tensors were merged in half precision and so rounded twice: {few(in_half)}",
            "merge again to be as near as the dtype allows",
            model,
            in_half[0],
        )
    same_ends = _same_ends(_lazy(stored), expected)
    fields = check_config(stored, expected.checkpoint, same_ends, findings)
    check_tokenizer(stored, expected.checkpoint, findings)
    check_generation(stored, expected.checkpoint, findings)
    logits, layer, hidden = _logits(stored, expected)
    _tell(stored, faults, layer, bool(fields), hidden, findings)
    return {
        "model": str(model),
        "base": str(base),
        "adapters": [str(path) for path in adapters],
        "onto": onto,
        "max_abs_error": largest,
        "tensors": len(expected.truth.exact),
        "different": [fault.as_json() for fault in faults],
        "first_layer": _first(faults, layer),
        "logits": logits,
        "hidden": hidden,
        "modules": [],
        "embeddings": [],
    }


def _expected(
    stored: Checkpoint, base: Checkpoint, adapters: Sequence[Path], onto: Onto, findings: Findings
) -> Expected | None:
    """Merge lazily; where the merge asks whether to tie or untie, the model at hand has answered."""
    try:
        read = [read_adapter(path, findings) for path in adapters]
        try:
            return _chain(base, read, "auto", onto, Findings(findings.allow))
        except Refusal as refusal:
            if any(problem.code != "tied-head-conflict" for problem in refusal.problems):
                raise
            weights = _lazy(stored)
            untied = not model_ends.find(weights, stored.config).tied
            return _chain(base, read, "untie" if untied else "tie", onto, Findings(findings.allow))
    except Refusal as refusal:
        findings.absorb(refusal)
        return None


def _chain(base: Checkpoint, adapters: Sequence[Adapter], tied: Tied, onto: Onto, findings: Findings) -> Expected:
    made = decide(base, adapters, findings, tied, onto)
    updates: dict[str, list[Update]] = defaultdict(list)
    for one in made.model.plans:
        for name, some in one.updates.items():
            updates[name] += some
    weights = _lazy(base)
    start = model_ends.with_alias(weights, model_ends.find(weights, base.config))
    return Expected(
        Truth(start, made.model.weights, updates), made.checkpoint, made.model.ends.head, made.model.ends.embedding
    )


def _lazy(checkpoint: Checkpoint) -> Lazy:
    return Lazy({name: header(checkpoint.tensors, name) for name in checkpoint.tensors})


def _same_ends(weights: Lazy, expected: Expected) -> bool:
    """Tell whether a model that stores a head stores the embedding twice."""
    head, embedding = expected.head or "lm_head.weight", expected.embedding
    return (
        embedding is not None
        and head in weights
        and embedding in weights
        and same(weights.entries[head], weights.entries[embedding])
    )


def _tensors(stored: Checkpoint, expected: Expected) -> tuple[list[Fault], float | None, list[str]]:
    """Judge every tensor in the model's own order; names on one side alone are faults, a redundant head is not."""
    weights, exact = _lazy(stored), expected.truth.exact
    faults: list[Fault] = []
    in_half: list[str] = []
    largest: float | None = 0.0
    for name in sorted(exact, key=_order):
        if name in weights:
            verdict = judge(expected.truth, name, weights.entries[name])
            fault = verdict.fault
            largest = None if largest is None or (fault and fault.max_abs is None) else max(largest, verdict.largest)
            in_half += [name] if verdict.in_half else []
        elif name == expected.head and same(exact.entries[name], exact.entries[str(expected.embedding)]):
            continue
        else:
            why = "it is missing: the head that was trained is lost" if name == expected.head else "it is missing"
            fault, largest = Fault(name, None, None, None, 0, why), None
        faults += [fault] if fault else []
    for name in sorted(set(weights) - set(exact), key=_order):
        redundant = name == (expected.head or "lm_head.weight") and _same_ends(weights, expected)
        if not redundant:
            faults.append(Fault(name, None, None, None, 0, "base + adapters have no such tensor"))
    return faults, largest, in_half


def _order(name: str) -> tuple[int, int, str]:
    """Sort names as a forward pass meets them: embedding, layers by number, then norm and head."""
    if found := re.search(r"\.(\d+)\.", name):
        return 1, int(found[1]), name
    return (0 if "embed" in name or "wte" in name or "wpe" in name else 2), 0, name


def _logits(stored: Checkpoint, expected: Expected) -> tuple[dict[str, Any], str | None, list[dict[str, Any]]]:
    """Ask both models the same probe; return the distance of logits, the first layer that differs, and each layer's."""
    config = expected.checkpoint.config
    exact, name = expected.truth.exact, str(expected.embedding)
    if name not in exact or name not in stored.tensors:
        return _no_logits("it has no embedding of tokens"), None, []
    ids = probe_ids(stored.path, min(exact.entries[name].shape[0], header(stored.tensors, name).shape[0]))
    try:
        reference = run(config, expected.truth.exact, ids)
        found = run(stored.config or config, _lazy(stored), ids)
    except Unrunnable as why:
        return _no_logits(str(why)), None, []
    if not bool(torch.isfinite(reference.logits).all()):
        return _no_logits("base + adapters themselves give NaN or infinite logits"), None, []
    hidden = _hidden(reference, found)
    limit = max(8 * torch.finfo(dtype_of(stored.tensors)).eps, 1e-4)
    first = next((row["name"] for row in hidden if row["rel"] is None or row["rel"] > limit), None)
    return dict(answers_apart(reference.logits, found.logits)), first, hidden


def _no_logits(why: str) -> dict[str, Any]:
    return {"max_abs": None, "kl": None, "argmax_agreement": None, "why": why}


def _hidden(reference: Outcome, found: Outcome) -> list[dict[str, Any]]:
    rows = []
    for name, want in reference.hidden.items():
        has = found.hidden.get(name)
        apart = inf if has is None or has.shape != want.shape else float((has - want).norm())
        far = apart / max(float(want.norm()), 1e-30)
        rows.append({"name": name, "rel": far if isfinite(far) else None})
    return rows


def _first(faults: list[Fault], layer: str | None) -> str | None:
    """Name the first layer that differs, by arithmetic before hidden states."""
    if faults:
        found = LAYER.match(faults[0].name)
        return found[1] if found else faults[0].name.rpartition(".")[0]
    return layer


def _tell(
    stored: Checkpoint,
    faults: list[Fault],
    layer: str | None,
    explained: bool,
    hidden: list[dict[str, Any]],
    findings: Findings,
) -> None:
    for fault in faults[:TOLD]:
        found = LAYER.match(fault.name)
        where = f" (in {found[1]})" if found else ""
        far = (
            ""
            if fault.max_abs is None
            else f", off by up to {fault.max_abs:.3g} in {fault.rows:,} rows from row {fault.first_row}"
        )
        findings.problem(
            "merged-differs", f"{stored.path}: {fault.name}{where}: {fault.why}{far}", REMEDY, stored.path, fault.name
        )
        if "NaN" in fault.why:
            findings.problem("non-finite", f"{stored.path}: {fault.name}: {fault.why}", REMEDY, stored.path, fault.name)
    if len(faults) > TOLD:
        findings.problem(
            "merged-differs",
            f"{stored.path}: {len(faults) - TOLD} more tensors differ (--json lists them)",
            REMEDY,
            stored.path,
        )
    if layer and not faults:
        far = next(row["rel"] for row in hidden if row["name"] == layer)
        why = "; its config differs" if explained else ""
        findings.problem(
            "merged-differs",
            f"{stored.path}: every tensor is right, yet the hidden states of {layer} "
            f"differ by {far if far is None else format(far, '.3g')} of their size{why}",
            REMEDY,
            stored.path,
            layer,
        )
