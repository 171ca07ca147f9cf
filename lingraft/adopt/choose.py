"""Which of the families that fit the names a model is of: Llama, Mistral and Gemma share every name.

A config's claim or a published model of these shapes decides first; then Gemma's norms, which are stored as
1 + weight and so lie around zero; at last the probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.adopt.family import Family, Fields
from lingraft.adopt.known import KNOWN
from lingraft.adopt.names import Named, known_families
from lingraft.problems import Findings
from lingraft.weights.tensors import Entry

GEMMA_VOCAB = 256_000


def refuse_another_type(path: Path, named: Named, config: Fields, given: Fields, findings: Findings) -> None:
    """Refuse a config of a type that lingraft does not adopt: its names may be Llama's, what it computes is not.

    Problem: `config-mismatch`.
    """
    claimed = config.get("model_type")
    if isinstance(claimed, str) and claimed not in known_families() and "model_type" not in given:
        fitting = named.families[0].model_type
        findings.problem(
            "config-mismatch",
            f"{path}: its config says model_type {claimed}, which lingraft does not "
            f"adopt; its tensors have the names of {fitting}, and may mean another computation",
            f"keep its config, or add --set model_type={fitting} if it computes the same",
            path,
        )


def ordered(named: Named, config: Fields, given: Fields) -> tuple[tuple[Family, str, str], ...]:
    """Return the fitting families with how each was found and why, the likeliest first."""
    by_type = {family.model_type: family for family in named.families}
    for fields, who, how in ((given, "--set", "read"), (config, "config", "read")):
        if (claimed := fields.get("model_type")) in by_type:
            rest = [f for f in named.families if f.model_type == "gemma" or claimed == "gemma"]
            others = [(f, "inferred", "names") for f in rest if f.model_type != claimed and who == "config"]
            return ((by_type[claimed], how, who), *others)
    if len(named.families) == 1:
        return ((named.families[0], "inferred", "names and shapes"),)
    first = _published(named) or ("gemma" if _is_gemma(named.entries) else None)
    if first in by_type:
        others = [
            (f, "inferred", "names")
            for f in named.families
            if f.model_type in ("llama", "gemma") and f.model_type != first and "gemma" in (f.model_type, first)
        ]
        return ((by_type[first], "inferred", "shapes and values"), *others)
    note = "names and shapes; Mistral without a window computes the same"
    return tuple((f, "inferred", note) for f in named.families if f.model_type != "mistral")


def _published(named: Named) -> str | None:
    found: list[tuple[int, str]] = []
    for family in named.families:
        sizes: Mapping[str, Any] = family.sizes({name: entry.shape for name, entry in named.entries.items()})
        if "key_rows" in sizes:
            found += [
                (abs(known.vocab - sizes["vocab_size"]), known.model_type)
                for known in KNOWN
                if known.model_type == family.model_type
                and known.fits(
                    family.model_type,
                    sizes["num_hidden_layers"],
                    sizes["hidden_size"],
                    sizes["intermediate_size"],
                    sizes["key_rows"],
                    sizes["vocab_size"],
                )
            ]
    return min(found)[1] if found else None


def _is_gemma(entries: Mapping[str, Entry]) -> bool:
    """Tell whether the norms of a model look like Gemma's: a good part of the values at or below zero."""
    norms = [entry for name, entry in entries.items() if name.endswith("layernorm.weight")]
    if "lm_head.weight" in entries or not norms:
        return False
    if entries["model.embed_tokens.weight"].shape[0] >= GEMMA_VOCAB:
        return True
    return all(float((entry.read(0, None).float() <= 1e-3).float().mean()) > 0.2 for entry in norms)
