"""`lingraft check FILE`: refuse what is wrong before an hour is spent.

Keys and values, paths, the base, LoRA targets against the base's layers; with ``--dry-run`` one real batch
through forward, backward, save and reopen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lingraft.data.hub import hub_of
from lingraft.models import locate, require_causal
from lingraft.pipeline import Run
from lingraft.plan.run import require_fit
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Recipe, parse_technique, resolve
from lingraft.recipe_file import load
from lingraft.recipe_keys import check_keys
from lingraft.stage_keys import TRAINING, data_paths, stages_of


def check(file: Path, overrides: tuple[str, ...], dry_run: bool, findings: Findings) -> dict[str, Any]:
    """Check a recipe and return {recipe, stages, checked, dry_run?}; every problem found is refused together."""
    recipe = load(file, overrides)
    checked = ["keys"]
    _gather(findings, check_keys, recipe, file)
    _paths(recipe, findings, file)
    checked.append("paths")
    base = _gather(findings, locate, recipe.base)
    if base is not None and recipe.classify is None:
        _gather(findings, require_causal, base)
        checked.append("base")
    findings.settle()
    assert base is not None
    for name in TRAINING:
        block = getattr(recipe, name)
        if block is not None:
            _gather(findings, _fits, base, block, name)
    findings.settle()
    checked.append("techniques")
    _gather(findings, require_fit, recipe, base, findings)
    checked.append("memory")
    findings.settle()
    result: dict[str, Any] = {"recipe": str(file), "name": recipe.name, "stages": stages_of(recipe), "checked": checked}
    if dry_run:
        result["dry_run"] = _dry_run(recipe, base, findings)
    return result


def _gather(findings: Findings, call: Any, *values: Any) -> Any:
    try:
        return call(*values)
    except Refusal as refusal:
        findings.absorb(refusal)
        return None


def _paths(recipe: Recipe, findings: Findings, file: Path) -> None:
    blocks = [getattr(recipe, name) for name in (*TRAINING, "vocab", "evaluate")]
    for block in blocks:
        for name in data_paths(block) if block is not None else []:
            if not resolve(name).exists() and not any(c in name for c in "*?[") and hub_of(name) is None:
                findings.problem("not-found", f"{file} names {name}, which does not exist",
                                 "check the path; relative paths start where the command runs", name)  # fmt: skip


def _fits(base: Path, block: Any, name: str) -> None:
    from lingraft.train.fit import check_techniques

    check_techniques(base, block.techniques, name)


def _dry_run(recipe: Recipe, base: Path, findings: Findings) -> list[dict[str, Any]]:
    """Train one real batch of every training stage on the bare base, in a scratch folder.

    The vocabulary is not grown for it (that writes a whole model), so rows that it would add are left out, and a stage
    of nothing but rows is tried with a LoRA.
    """
    from lingraft.stages import stage_of
    from lingraft.train.dry_run import dry_run

    told = []
    with tempfile.TemporaryDirectory(prefix="lingraft-check-") as scratch:
        for name in TRAINING:
            block = getattr(recipe, name)
            if block is None:
                continue
            given = [parse_technique("lora") if t.kind == "rows" else t for t in block.techniques]
            techniques = [t.model_copy(update={"rows": "none"}) if hasattr(t, "rows") else t for t in given]
            trial = recipe.model_copy(update={
                "out": f"{scratch}/{name}", "vocab": None, name: block.model_copy(update={"techniques": techniques}),
            })  # fmt: skip
            told.append({"stage": name, **dry_run(stage_of(Run(trial, base, findings), name, adapters=()))})
    return told
