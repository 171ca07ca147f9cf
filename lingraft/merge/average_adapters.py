"""The mean of adapters: a mean of what they do, not of what they are made of.

An adapter adds s·B·A. Averaging A and B apart gives (Σ w B)(Σ w A), which holds products of one adapter's B with
another's A that no model ever computed, and which changes when the same adapter is written in another basis
(B·R, R⁻¹·A). The mean of the differences is Σ w s B A, exactly the product of stacked factors [w₁s₁B₁ w₂s₂B₂ …] and
[A₁; A₂; …], of the summed rank. Tensors that are saved whole (modules_to_save, biases, token rows) are averaged as
they are. What is not linear in its tensors (DoRA, IA3) has no such form and is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.lineage import Lineage, adapter_fingerprint, token_indices, versions, write_lineage
from lingraft.merge.names import PREFIX
from lingraft.merge.run import open_base
from lingraft.output import output_directory, write_json
from lingraft.problems import Findings, refuse
from lingraft.weights import hf
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.tensors import Tensor

SAME = ("fan_in_fan_out", "target_parameters", "layers_to_transform")
BASE = "base_model_name_or_path"
LINEAR = ("lora_A", "lora_B", "embedding_A", "embedding_B", "tokens", "value", "base", "lora_bias")


def average_adapters(
    paths: Sequence[Path],
    out: Path,
    weights: Sequence[float],
    method: str,
    base: Path | None,
    overwrite: bool,
    findings: Findings,
) -> dict[str, Any]:
    """Write the mean of LoRA adapters; ``weights`` sum to one.

    Errors: `unsupported-adapter` (not linear; TIES or DARE), `base-mismatch` (of different chains),
    `config-mismatch`, `missing-adapter-tensors` for a whole tensor that only some adapters bring.
    """
    if method != "linear" or base is not None:
        refuse(
            "unsupported-adapter",
            f"{method} with a base trims differences, which adapters of low rank do not hold",
            "merge each adapter into the base, then average the models",
        )
    adapters = [read_adapter(path, findings) for path in paths]
    _check(adapters, findings)
    findings.settle()
    tensors, ranks = _low_rank(adapters, weights)
    tensors |= _whole(adapters, weights, findings)
    findings.settle()
    with output_directory(out, overwrite) as partial:
        written = hf.write_weights(tensors, partial, 1 << 62, stem="adapter_model")
        write_json(partial / "adapter_config.json", _config(adapters, ranks))
        for file in hf.side_files(adapters[0].path):
            shutil.copyfile(file, partial / file.name)
        if (first := adapters[0].lineage) is not None:
            recipe = {"average": {"adapters": [str(p) for p in paths], "weights": list(weights)}}
            write_lineage(
                partial,
                Lineage(first.base, first.base_path, first.adapters, first.quantisation, first.tokenizer, recipe),
            )
        write_json(
            partial / "manifest.json",
            {
                "schema": 1,
                "stage": "average",
                "method": "linear",
                "weights": list(weights),
                "fingerprint": written.fingerprint,
                "tensors": written.digests,
                "versions": versions(),
                "adapters": [{"path": str(a.path), "fingerprint": adapter_fingerprint(a.path)} for a in adapters],
                "allowed": [p.as_json() for p in findings.allowed],
            },
        )
    return {
        "out": str(out),
        "method": "linear",
        "weights": list(weights),
        "fingerprint": written.fingerprint,
        "tensors": len(tensors),
        "rank": max(ranks.values(), default=0),
    }


def _check(adapters: Sequence[Adapter], findings: Findings) -> None:
    first = adapters[0]
    for one in adapters:
        strange = sorted({part.role for part in one.parts} - {*LINEAR, "original", "tokens_original"})
        if one.kind != "LORA" or one.config.get("use_dora") or strange:
            what = "DoRA" if one.config.get("use_dora") else one.kind if one.kind != "LORA" else ", ".join(strange)
            findings.problem(
                "unsupported-adapter",
                f"{one.path}: {what} is not linear in its tensors and has no mean",
                "merge each adapter into the base, then average the models",
                one.path,
            )
        for field in SAME:
            if (one.config.get(field) or None) != (first.config.get(field) or None):
                findings.problem(
                    "config-mismatch",
                    f"{one.path}: {field} is {one.config.get(field)}; {first.path} has {first.config.get(field)}",
                    "average adapters of one kind",
                    one.path,
                )
        if token_indices(one.config) != token_indices(first.config):
            findings.problem(
                "config-mismatch",
                f"{one.path} trains other token rows than {first.path}",
                "merge each adapter into the base, then average the models",
                one.path,
            )
        if one.lineage and first.lineage and _chain(one.lineage) != _chain(first.lineage):
            findings.problem(
                "base-mismatch",
                f"{one.path} and {first.path} were trained on different models",
                "average adapters of one base, at the same place of its chain",
                one.path,
            )
        elif (
            not (one.lineage and first.lineage)
            and one.config.get(BASE) != first.config.get(BASE)
            and _base(one) != _base(first)
        ):
            findings.problem(
                "base-mismatch",
                f"{one.path} names the base {one.config.get(BASE)}, {first.path} names {first.config.get(BASE)}",
                "average adapters of one base; if both names mean the same model, add --allow base-mismatch",
                one.path,
            )


def _base(adapter: Adapter) -> str:
    """Return the base that an adapter names: by fingerprint where it is a folder here, for that may have two names."""
    name = str(adapter.config.get(BASE) or "")
    folder = Path(name)
    return fingerprint(open_base(folder).tensors) if name and (folder / "config.json").is_file() else name


def _chain(lineage: Lineage) -> tuple[str, ...]:
    return (lineage.base, *(link.fingerprint for link in lineage.adapters))


def _low_rank(adapters: Sequence[Adapter], weights: Sequence[float]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Stack the factors of every module, each B scaled by its adapter's weight and scale."""
    stacks: dict[tuple[str, bool], tuple[list[Tensor], list[Tensor]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for first, second in (("lora_A", "lora_B"), ("embedding_A", "embedding_B")):
            pairs = {part.module: part.key for part in adapter.parts if part.role == second}
            for part in (p for p in adapter.parts if p.role == first):
                a, b = stacks.setdefault((part.module, first == "embedding_A"), ([], []))
                a.append(adapter.weights[part.key].float())
                b.append(adapter.weights[pairs[part.module]].float() * (weight * adapter.scale(part.module)))
    tensors, ranks = {}, {}
    for (module, embedding), (some_a, some_b) in stacks.items():
        names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        tensors[f"{PREFIX}{module}.{names[0]}"] = torch.cat(some_a, 0)
        tensors[f"{PREFIX}{module}.{names[1]}"] = torch.cat(some_b, 1)
        ranks[module] = sum(a.shape[0] for a in some_a)
    return tensors, ranks


def _whole(adapters: Sequence[Adapter], weights: Sequence[float], findings: Findings) -> dict[str, Tensor]:
    """Average what is saved whole; it has to be in every adapter, since the base's own value is not here."""
    roles = ("tokens", "value", "base", "lora_bias")
    by_target = [{(p.role, p.target): p.key for p in a.parts if p.role in roles} for a in adapters]
    tensors: dict[str, Tensor] = {}
    for target in {name for one in by_target for name in one}:
        lacking = [a for a, one in zip(adapters, by_target, strict=True) if target not in one]
        if lacking:
            findings.problem(
                "missing-adapter-tensors",
                f"{lacking[0].path} does not bring {target[1]}, which another adapter saves whole",
                "merge each adapter into the base, then average the models",
                lacking[0].path,
                target[1],
            )
            continue
        some = [
            a.weights[one[target]].float() * _factor(a, w, target)
            for a, one, w in zip(adapters, by_target, weights, strict=True)
        ]
        tensors[by_target[0][target]] = torch.stack(some).sum(0)
    return tensors


def _factor(adapter: Adapter, weight: float, target: tuple[str, str]) -> float:
    role, name = target
    return weight * adapter.scale(name.rpartition(".")[0]) if role == "lora_bias" else weight


def _config(adapters: Sequence[Adapter], ranks: Mapping[str, int]) -> dict[str, Any]:
    rank = max(ranks.values(), default=1)
    odd = {module: size for module, size in ranks.items() if size != rank}
    saved = sorted({name for a in adapters for name in a.config.get("modules_to_save") or ()})
    return {
        **adapters[0].config,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "modules_to_save": saved or None,
    }
