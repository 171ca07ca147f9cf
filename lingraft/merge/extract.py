"""`lingraft extract TUNED BASE (--rank R | --energy E) --out DIR`: a LoRA out of a full fine-tune.

The difference of two models, tensor by tensor from disk, as a peft adapter: low rank where it is a linear layer
(`lowrank`), whole or by rows where it is not (`difference`). Merging it back gives the tuned model within the error
that is stated for every tensor, measured on the very product that a merge computes.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from lingraft.merge.difference import NEW_HEADS, Difference, difference
from lingraft.merge.lineage import Lineage, tokenizer_digest, write_lineage
from lingraft.merge.lowrank import factorise
from lingraft.merge.match import by_transformers
from lingraft.merge.run import open_base
from lingraft.merge.updates import LowRank
from lingraft.output import check_free, output_directory, write_json
from lingraft.problems import Findings, refuse
from lingraft.progress import track
from lingraft.weights import hf
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.tensors import Checkpoint, Entry, Tensor, header, row_blocks

PREFIX = "base_model.model."
BLOCK = 32 << 20
UNRELATED = 0.1  # cosine of tuned and base; fine-tunes lie above 0.9, models that share nothing at zero
BODIES = {"gpt2": "transformer.", "bert": "bert.", "roberta": "roberta."}  # published without the live model's prefix
CONV1D = ("gpt2",)  # linear layers stored as (in, out)


@dataclass(frozen=True)
class Kept:
    """One low-rank tensor: factors, share of the difference kept, and the error after merging it back."""

    module: str
    a: Tensor
    b: Tensor
    energy: float
    rel_norm: float
    max_abs_error: float

    def as_json(self, name: str) -> dict[str, Any]:
        """Return the fields that the report lists."""
        return {
            "name": name,
            "rank": int(self.a.shape[0]),
            "energy": round(self.energy, 6),
            "rel_norm": self.rel_norm,
            "max_abs_error": self.max_abs_error,
        }


def extract(
    tuned: Path,
    base: Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    overwrite: bool = False,
    findings: Findings,
) -> dict[str, Any]:
    """Write the difference as a peft adapter; return `out`, `tensors`, `saved`, `rows`, `energy`, `max_abs_error`.

    Exactly one of ``rank`` and ``energy`` (0 to 1: the share of each tensor's squared difference to keep) is given.
    Errors: `base-mismatch`, `untrained-adapter` (nothing differs), `unknown-format`, `non-finite`.
    """
    if (rank is None) == (energy is None) or (rank is not None and rank < 1) or not 0 < (energy or 1) <= 1:
        refuse("recipe-invalid", f"rank {rank}, energy {energy}", "give --rank R (1 or more) or --energy E (0 to 1)")
    check_free(out, overwrite, (tuned, base))
    above, below = open_base(tuned), open_base(base)
    found = difference(above, below, findings)
    findings.settle()
    if found.nothing:
        refuse(
            "untrained-adapter",
            f"{tuned} equals {base}: there is nothing to extract",
            "give the fine-tuned model",
            tuned,
        )
    conv = below.config.get("model_type") in CONV1D
    live = _live(below, found)
    kept = _low_rank(found, live, conv, rank, energy, findings)
    findings.settle()
    with output_directory(out, overwrite) as partial:
        tensors = _tensors(found, kept, live)
        hf.write_weights(tensors, partial, 1 << 62, stem="adapter_model")
        write_json(partial / "adapter_config.json", _config(above, base, found, kept, live, conv))
        for file in above.side_files:
            if file.name != "generation_config.json":
                shutil.copyfile(file, partial / file.name)
        write_lineage(
            partial,
            Lineage(
                fingerprint(below.tensors),
                str(base.resolve()),
                tokenizer=tokenizer_digest(partial),
                recipe={"extract": {"tuned": str(tuned), "rank": rank, "energy": energy}},
            ),
        )
    return _report(out, found, kept)


def _live(base: Checkpoint, found: Difference) -> Mapping[str, str]:
    """Return the live model's name of every tensor: some models are published without their class's prefix."""
    body = BODIES.get(str(base.config.get("model_type")), "")
    names = (*found.low_rank, *found.whole, *found.rows)
    if not body or any(name.startswith(body) for name in found.base):
        renamed = {disk: live for live, disk in by_transformers(found.base.keys(), base.config).items()}
        return {name: renamed.get(name, name) for name in names}
    outside = ("lm_head", "cls", "classifier", "score", "qa_outputs")
    return {name: name if name.split(".")[0] in outside else body + name for name in names}


def _low_rank(
    found: Difference, live: Mapping[str, str], conv: bool, rank: int | None, energy: float | None, findings: Findings
) -> dict[str, Kept]:
    kept: dict[str, Kept] = {}
    dot = sizes = 0.0
    with track("extract", len(found.low_rank), "tensors") as advance:
        for name in found.low_rank:
            old, new = found.base[name].read(0, None).float(), found.tuned[name].read(0, None).float()
            delta = new - old  # not in place: a mapped file lies below
            norms = float(delta.double().square().sum()), float(old.double().square().sum())
            if not torch.isfinite(torch.tensor(norms)).all():
                refuse("non-finite", f"{name} holds NaN or Inf", "take an earlier checkpoint", tensor=name)
            dot += float((new.double() * old.double()).sum())
            sizes += sqrt(norms[1]) * float(torch.linalg.norm(new.double()))
            transposed = conv and ".c_" in name
            factors = factorise(delta.T.contiguous() if transposed else delta, rank, energy)
            error = _error(found, name, factors.a, factors.b, transposed)
            rel = sqrt(norms[0] / norms[1]) if norms[1] else 0.0
            kept[name] = Kept(live[name].removesuffix(".weight"), factors.a, factors.b, factors.energy, rel, error)
            advance(1)
    if sizes and dot / sizes < UNRELATED:
        findings.problem(
            "base-mismatch",
            f"the two models' weights do not correlate (cosine {dot / sizes:.3f}): one was not trained from the other",
            "give the model that the fine-tune began from",
        )
    return kept


def _error(found: Difference, name: str, a: Tensor, b: Tensor, transposed: bool) -> float:
    """Return the largest error of one tensor after a merge, which rounds to the base's dtype."""
    merged = LowRank(_entry(a), _entry(b), 1.0, transposed).onto(found.base[name])
    dtype, worst = found.base[name].dtype, 0.0
    for start, stop in row_blocks(merged.shape, 4, BLOCK):
        there = merged.read(start, stop).to(dtype).float() - found.tuned[name].read(start, stop).float()
        worst = max(worst, float(there.abs().max()))
    return worst


def _entry(tensor: Tensor) -> Entry:
    return header({"": tensor}, "")


def _tensors(found: Difference, kept: Mapping[str, Kept], live: Mapping[str, str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for one in kept.values():
        tensors[f"{PREFIX}{one.module}.lora_A.weight"] = one.a
        tensors[f"{PREFIX}{one.module}.lora_B.weight"] = one.b
    targets = {one.module for one in kept.values()}
    for name in found.whole:
        module, _, parameter = live[name].rpartition(".")
        inner = "base_layer." if parameter == "bias" and module in targets else ""
        tensors[f"{PREFIX}{module}.{inner}{parameter}"] = found.tuned[name].read(0, None)
    for name, rows in found.rows.items():
        module = live[name].removesuffix(".weight")
        if _by_rows(found):
            values = found.tuned[name].read(0, None)[list(rows)].clone()
            tensors[f"{PREFIX}{module}.token_adapter.trainable_tokens_delta"] = values
        else:
            tensors[f"{PREFIX}{module}.weight"] = found.tuned[name].read(0, None)
    return tensors


def _by_rows(found: Difference) -> bool:
    """Rows where they are few, or where embedding and head are one: the only form that stays tied in peft."""
    return found.tied or all(2 * len(rows) < found.tuned[n].shape[0] for n, rows in found.rows.items())


def _config(
    tuned: Checkpoint, base: Path, found: Difference, kept: Mapping[str, Kept], live: Mapping[str, str], conv: bool
) -> dict[str, Any]:
    modules = {one.module: int(one.a.shape[0]) for one in kept.values()}
    rank = max(modules.values(), default=1)
    odd = {module: size for module, size in modules.items() if size != rank}
    tokens = {live[name].removesuffix(".weight"): list(rows) for name, rows in found.rows.items() if _by_rows(found)}
    saved = [live[name].removesuffix(".weight") for name in found.rows if not _by_rows(found)]
    biases = [name for name in found.whole if name.endswith(".bias") and not _is_saved(found, name)]
    saved += [live[name].rpartition(".")[0] for name in found.whole if name not in biases]
    architecture = str((tuned.config.get("architectures") or ["?"])[0])
    return {
        "peft_type": "LORA",
        "task_type": _task(architecture, saved),
        "base_model_name_or_path": str(base.resolve()),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "target_modules": _targets(modules, found, live),
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "modules_to_save": sorted(set(saved)) or None,
        "fan_in_fan_out": conv,
        "bias": "all" if biases else "none",
        "trainable_token_indices": tokens or None,
        "use_rslora": False,
        "use_dora": False,
    }


def _is_saved(found: Difference, name: str) -> bool:
    """A bias goes with its module where that is a norm or a new head, which modules_to_save holds whole."""
    module = name.rpartition(".")[0]
    weight = found.tuned.get(f"{module}.weight")
    if weight is None:
        return False  # a bias of its own, such as that of a masked-language head
    return len(weight.shape) == 1 or f"{module}.weight" not in found.base or f"{module}.weight" in found.whole


def _targets(modules: Mapping[str, int], found: Difference, live: Mapping[str, str]) -> list[str]:
    """Name target modules by their last step where every module of that name is one, else by their whole path."""
    by_leaf: dict[str, set[str]] = defaultdict(set)
    for name in found.base:
        module = live.get(name, name).removesuffix(".weight")
        by_leaf[module.rpartition(".")[2]].add(module)
    leaves = {module.rpartition(".")[2] for module in modules}
    whole = {leaf for leaf in leaves if by_leaf[leaf] <= modules.keys()}
    return sorted(whole) + sorted(module for module in modules if module.rpartition(".")[2] not in whole)


def _task(architecture: str, saved: Iterable[str]) -> str | None:
    """Name peft's task; of a classifier only with its head: peft would ask the adapter for it."""
    tasks = {
        "SequenceClassification": "SEQ_CLS",
        "TokenClassification": "TOKEN_CLS",
        "CausalLM": "CAUSAL_LM",
        "QuestionAnswering": "QUESTION_ANS",
        "LMHeadModel": "CAUSAL_LM",
    }
    found = next((task for ending, task in tasks.items() if architecture.endswith(ending)), None)
    return found if found in (None, "CAUSAL_LM") or set(saved) & {*NEW_HEADS} else None


def _report(out: Path, found: Difference, kept: Mapping[str, Kept]) -> dict[str, Any]:
    energies = [(one.energy, _energy(found, name)) for name, one in kept.items()]
    total = sum(size for _, size in energies)
    return {
        "out": str(out),
        "tensors": [one.as_json(name) for name, one in kept.items()],
        "energy": round(sum(share * size for share, size in energies) / total, 6) if total else 1.0,
        "max_abs_error": max((one.max_abs_error for one in kept.values()), default=0.0),
        "saved": sorted(_names(found)),
        "rows": {name: len(rows) for name, rows in found.rows.items()},
        "parameters": sum(one.a.numel() + one.b.numel() for one in kept.values()),
    }


def _names(found: Difference) -> Iterable[str]:
    return [*found.whole, *(name for name in found.rows if not _by_rows(found))]


def _energy(found: Difference, name: str) -> float:
    """Return ‖tuned − base‖² of one tensor, in blocks."""
    new, old = found.tuned[name], found.base[name]
    return sum(
        float((new.read(a, b).float() - old.read(a, b).float()).double().square().sum())
        for a, b in row_blocks(new.shape, 4, BLOCK)
    )
