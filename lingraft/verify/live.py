"""Proof for an adapter that only works live (prompt, prefix, bottleneck): its numbers, and that it is this base's.

Prompts and prefixes begin at random values that nobody kept, so that whether they moved cannot be told (``changed`` is
null); a bottleneck begins with an up-projection of zeros, which tells it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lingraft.merge.lineage import open_adapter, read_lineage
from lingraft.merge.sound import all_finite
from lingraft.problems import Findings
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.hf import read_json

KINDS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "BOTTLENECK")


def is_live(adapter: Path) -> bool:
    """Tell whether an adapter directory is of a kind that no weight of a base can hold."""
    config = adapter / "adapter_config.json"
    return config.is_file() and read_json(config).get("peft_type") in KINDS


def verify_live(adapter: Path, base: Path, findings: Findings) -> dict[str, Any]:
    """Return `modules` of the contract's `verify`; there are no embeddings to hold against others.

    Problems: `base-mismatch` (by width, and by lineage where there is one), `non-finite`, `empty-tensor`,
    `untrained-adapter`.
    """
    config, tensors, below = read_json(adapter / "adapter_config.json"), open_adapter(adapter), open_checkpoint(base)
    modules: list[dict[str, Any]] = []
    for name, value in tensors.items():
        if not value.numel():
            findings.problem(
                "empty-tensor", f"{adapter}: {name} has shape {list(value.shape)}", "train it again", adapter, name
            )
        elif not all_finite(value):
            findings.problem(
                "non-finite", f"{adapter}: {name} holds NaN or Inf", "take an earlier checkpoint", adapter, name
            )
        else:
            moved = bool(value.any()) if name.endswith("bottleneck.up.weight") else None
            modules.append(
                {
                    "name": name.removesuffix(".weight"),
                    "changed": moved,
                    "max_abs": float(value.abs().max()),
                    "rel_norm": None,
                }
            )
    told = [m["changed"] for m in modules if m["changed"] is not None]
    if told and not any(told):
        findings.problem(
            "untrained-adapter", f"{adapter}: every up-projection is zero", "train for more steps", adapter
        )
    _check_base(adapter, config, below, findings)
    return {"adapter": str(adapter), "base": str(base), "modules": modules, "embeddings": []}


def _check_base(adapter: Path, config: dict[str, Any], base: Any, findings: Findings) -> None:
    width, remedy = (base.config or {}).get("hidden_size"), "give the base that the adapter was trained on"
    if width is not None and config.get("peft_type") == "PROMPT_TUNING" and config.get("token_dim", width) != width:
        findings.problem(
            "base-mismatch",
            f"{adapter} holds vectors of width {config['token_dim']}, {base.path} is {width} wide",
            remedy,
            adapter,
        )
        return
    lineage = read_lineage(adapter)
    if lineage is not None and (found := fingerprint(base.tensors)) != lineage.base:
        findings.problem(
            "base-mismatch",
            f"{adapter} was trained on {lineage.base[:16]}… ({lineage.base_path}); {base.path} is {found[:16]}…",
            remedy,
            adapter,
        )
