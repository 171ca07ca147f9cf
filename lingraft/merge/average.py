"""`lingraft average A B… [--weights …] [--method linear|ties|dare --base BASE] --out DIR`: a mean of models.

Linear is the weighted mean (model soups: Wortsman et al. 2022). TIES and DARE combine the differences to a common
base and add the result to it. Weights are divided by their sum in every method, so that a mean stays a mean. Blocks
of rows stream through: memory does not grow with the models. Adapters: see `average_adapters`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lingraft.merge import dare, ends, ties
from lingraft.merge.average_adapters import average_adapters
from lingraft.merge.lineage import versions
from lingraft.merge.memory import Peak
from lingraft.merge.names import embeds
from lingraft.merge.run import open_base
from lingraft.output import check_free, output_directory, require_space, write_json
from lingraft.problems import Findings, refuse
from lingraft.progress import track
from lingraft.weights import adapter as adapters
from lingraft.weights import hf
from lingraft.weights.fingerprint import fingerprint, is_buffer
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor, header

Method = Literal["linear", "ties", "dare"]
METHODS = ("linear", "ties", "dare")
DENSITY = {"linear": 1.0, "ties": 0.2, "dare": 0.5}  # TIES' paper keeps the top 20 %


@dataclass(frozen=True)
class Plan:
    """How models are combined: the method, weights that sum to one, and what is random about it."""

    method: str
    weights: tuple[float, ...]
    density: float
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields for the receipt."""
        return {"method": self.method, "weights": list(self.weights), "density": self.density, "seed": self.seed}


def average(
    models: Sequence[Path],
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    method: Method = "linear",
    base: Path | None = None,
    density: float | None = None,
    seed: int = 42,
    overwrite: bool = False,
    findings: Findings,
) -> dict[str, Any]:
    """Write the mean of several models, or of several adapters; return `out`, `method`, `weights`, `fingerprint`, ….

    ``density`` is the share of each difference that TIES (default 0.2) or DARE (0.5) keeps. Errors:
    `recipe-invalid` (weights, method, density), `config-mismatch` and `vocab-mismatch` where tensors do not pair up,
    `base-mismatch`, `unsupported-adapter`, `non-finite`.
    """
    started = time.monotonic()
    plan = _plan(len(models), weights, method, base, density, seed)
    check_free(out, overwrite, models if base is None else (*models, base))
    kinds = [adapters.knows(path) for path in models]
    if any(kinds) and not all(kinds):
        refuse(
            "config-mismatch",
            f"{models[kinds.index(True)]} is an adapter, {models[kinds.index(False)]} a model",
            "average models with models and adapters with adapters",
        )
    if all(kinds):
        return average_adapters(models, out, plan.weights, method, base, overwrite, findings)
    opened = [open_base(path) for path in models]
    below = None if base is None else open_base(base)
    mean = averaged(opened, below, plan, findings)
    findings.settle()
    total = sum(header(mean.tensors, name).nbytes for name in mean.tensors)
    require_space(out, total)
    with output_directory(out, overwrite) as partial, track("average", total) as advance, Peak() as peak:
        written = hf.write(mean, partial, progress=advance)
        answer = {
            "out": str(out),
            **plan.as_json(),
            "fingerprint": written.fingerprint,
            "tensors": len(mean.tensors),
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory": peak.bytes,
        }
        write_json(
            partial / "manifest.json",
            {
                "schema": 1,
                "stage": "average",
                **plan.as_json(),
                "fingerprint": written.fingerprint,
                "tensors": written.digests,
                "versions": versions(),
                "models": [{"path": str(c.path), "fingerprint": fingerprint(c.tensors)} for c in opened],
                "base": None if below is None else {"path": str(base), "fingerprint": fingerprint(below.tensors)},
                "allowed": [p.as_json() for p in findings.allowed],
            },
        )
    return answer


def averaged(models: Sequence[Checkpoint], base: Checkpoint | None, plan: Plan, findings: Findings) -> Checkpoint:
    """Return the mean as a lazy checkpoint, in the dtypes, config and side files of the base, else of the first."""
    lead = base or models[0]
    every = [_entries(checkpoint, models if base is None else [base, *models]) for checkpoint in models]
    below = None if base is None else _entries(base, [base, *models])
    template = below if below is not None else every[0]
    _check([m.path for m in models], every, template, lead, findings)
    _check_tokenizers(models, lead, findings)
    if findings.problems:
        return lead
    entries = {
        name: _mean(name, [one[name] for one in every], None if below is None else below[name], plan, entry)
        for name, entry in template.items()
    }
    config = dict(lead.config)
    if "tie_word_embeddings" in config and ends.HEADS[0] in entries:
        config["tie_word_embeddings"] = False
    return Checkpoint(lead.path, lead.format, Lazy(entries), config, lead.side_files, lead.made)


def _plan(
    count: int, weights: Sequence[float] | None, method: str, base: Path | None, density: float | None, seed: int
) -> Plan:
    given = list(weights) if weights is not None else [1.0] * count
    share = DENSITY.get(method, 1.0) if density is None else density
    for wrong, message in (
        (method not in METHODS, f"method {method!r} is none of {', '.join(METHODS)}"),
        (count < 2, f"{count} model: a mean takes two or more"),
        (len(given) != count, f"{len(given)} weights for {count} models"),
        (sum(given) == 0 or not all(map(_is_number, given)), f"weights {given} have no usable sum"),
        (method in ("ties", "dare") and base is None, f"{method} works on differences and needs their common base"),
        (not 0 < share <= 1, f"density {share} is not between 0 and 1"),
    ):
        if wrong:
            refuse("recipe-invalid", message, "lingraft average A B [--weights 0.7,0.3] [--method ties --base BASE]")
    return Plan(method, tuple(w / sum(given) for w in given), share, seed)


def _is_number(value: float) -> bool:
    return value == value and abs(value) < float("inf")


def _entries(checkpoint: Checkpoint, together: Sequence[Checkpoint]) -> dict[str, Entry]:
    """Return a model's tensors; a tied head stands for itself where another of the models has one of its own."""
    found = {name: header(checkpoint.tensors, name) for name in checkpoint.tensors if not is_buffer(name)}
    both = ends.find(Lazy(found), checkpoint.config)
    if both.tied and both.head and both.embedding:
        found.pop(both.head, None)
        if any(_has_own_head(other, both.head) for other in together):
            found[both.head] = found[both.embedding]
    return found


def _has_own_head(checkpoint: Checkpoint, head: str) -> bool:
    entries = {name: header(checkpoint.tensors, name) for name in checkpoint.tensors}
    return head in entries and not ends.find(Lazy(entries), checkpoint.config).tied


def _check(
    paths: Sequence[Path],
    every: Sequence[dict[str, Entry]],
    template: dict[str, Entry],
    lead: Checkpoint,
    findings: Findings,
) -> None:
    remedy = "average models of one architecture and vocabulary"
    for path, one in zip(paths, every, strict=True):
        for names, who, other in (
            (template.keys() - one.keys(), path, lead.path),
            (one.keys() - template.keys(), lead.path, path),
        ):
            if names:
                findings.problem(
                    "config-mismatch",
                    f"{who} lacks {len(names)} tensors that {other} has: {', '.join(sorted(names)[:4])}",
                    remedy,
                    who,
                    min(names),
                )
        for name in template.keys() & one.keys():
            mine, wanted = one[name], template[name]
            if mine.shape != wanted.shape:
                rows = mine.shape[1:] == wanted.shape[1:] and (
                    embeds(name.removesuffix(".weight")) or name in ends.HEADS
                )
                findings.problem(
                    "vocab-mismatch" if rows else "config-mismatch",
                    f"{path}: {name} is {list(mine.shape)}; {lead.path} has {list(wanted.shape)}",
                    remedy,
                    path,
                    name,
                )
            elif not mine.dtype.is_floating_point:
                findings.problem(
                    "unknown-format",
                    f"{path}: {name} holds integers ({mine.dtype})",
                    "average unquantised models",
                    path,
                    name,
                )


def _check_tokenizers(models: Sequence[Checkpoint], lead: Checkpoint, findings: Findings) -> None:
    def content(checkpoint: Checkpoint) -> dict[str, bytes]:
        return {
            file.name: file.read_bytes()
            for file in checkpoint.side_files
            if file.name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        }

    wanted = content(lead)
    for model in models:
        differ = [name for name, raw in content(model).items() if wanted.get(name, raw) != raw]
        if differ:
            findings.warn(
                "tokenizer-mismatch",
                f"{model.path}: {differ[0]} differs from {lead.path}'s, which is kept",
                "check that the same ids mean the same tokens",
                model.path,
            )


def _mean(name: str, some: Sequence[Entry], base: Entry | None, plan: Plan, like: Entry) -> Entry:
    deltas = [] if base is None else [_delta(entry, base) for entry in some]
    limits = ties.Thresholds(deltas, plan.density)

    def read(start: int, stop: int | None) -> Tensor:
        if base is None or plan.method == "linear":
            mean = some[0].read(start, stop).float() * plan.weights[0]
            for entry, weight in zip(some[1:], plan.weights[1:], strict=True):
                mean.add_(entry.read(start, stop).float(), alpha=weight)
        else:
            blocks = [delta.read(start, stop) for delta in deltas]
            if plan.method == "ties":
                mean = ties.combine(blocks, plan.weights, limits.get())
            else:
                mean = _thinned(name, blocks, plan, like.shape, start)
            mean.add_(base.read(start, stop).float())
        rounded = mean.to(like.dtype)
        if not bool(torch.isfinite(rounded).all()):
            refuse("non-finite", f"{name} holds NaN or Inf after averaging", "take other models", tensor=name)
        return rounded

    return Entry(like.dtype, like.shape, read)


def _thinned(name: str, deltas: Sequence[Tensor], plan: Plan, shape: tuple[int, ...], start: int) -> Tensor:
    """Return DARE's merged difference of one block of rows."""
    total = torch.zeros_like(deltas[0])
    for i, (delta, weight) in enumerate(zip(deltas, plan.weights, strict=True)):
        flat = delta if delta.ndim else delta.reshape(1)
        mask = dare.kept(name, i, plan.seed, shape or (1,), start, start + flat.shape[0], plan.density)
        total.add_(dare.thinned(flat, mask, plan.density).reshape(delta.shape), alpha=weight)
    return total


def _delta(entry: Entry, base: Entry) -> Entry:
    return Entry(torch.float32, entry.shape, lambda a, b: (entry.read(a, b).float() - base.read(a, b)).float())
