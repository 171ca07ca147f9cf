"""`lingraft check FILE`: refuse what is wrong before an hour is spent.

Keys and values, paths, the base, LoRA targets against the base's layers, rows of data, memory; with ``--dry-run`` one
real batch through forward, backward, save and reopen.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingraft.data import conversations, text
from lingraft.data.hub import hub_of
from lingraft.data.labelled import labelled
from lingraft.data.preferences import preferences
from lingraft.models import Stack, is_adapter, load_tokenizer, locate, require_causal, stack
from lingraft.pipeline import Run
from lingraft.plan.run import require_fit
from lingraft.problems import Findings, Refusal, refuse
from lingraft.recipe import Recipe, Training, parse_technique, resolve
from lingraft.recipe_file import load
from lingraft.recipe_keys import check_keys
from lingraft.stage_keys import TRAINING, data_paths, stages_of
from lingraft.train.distributed import group

_MERGE = "merge it first (lingraft merge), or drop the vocab block"


def check(file: Path, overrides: tuple[str, ...], dry_run: bool, findings: Findings) -> dict[str, Any]:
    """Check a recipe and return {recipe, stages, checked, dry_run?}; every problem found is refused together."""
    recipe = load(file, overrides)
    begun = beforehand(recipe, findings, stages_of(recipe), file)
    for name in TRAINING:
        block = getattr(recipe, name)
        if block is not None:
            _gather(findings, _data, name, block, findings)
    _gather(findings, require_fit, recipe, begun.base, findings)
    findings.settle()
    result: dict[str, Any] = {
        "recipe": str(file),
        "name": recipe.name,
        "stages": stages_of(recipe),
        "checked": ["keys", "paths", "base", "techniques", "data", "memory"],
    }
    if dry_run:
        result["dry_run"] = _dry_run(recipe, begun, findings)
    return result


def beforehand(recipe: Recipe, findings: Findings, stages: Sequence[str], file: Path | None = None) -> Stack:
    """Refuse what is wrong in the stages to run and can be told at once; return what the recipe begins with."""
    _gather(findings, check_keys, recipe, file)
    _paths(recipe, findings, stages, file)
    _place(recipe, findings)
    found = _gather(findings, stack, recipe.base)
    if found is not None and recipe.classify is None:
        _gather(findings, require_causal, found.base)
    findings.settle()
    begun: Stack = found
    _gather(findings, _goes_on, recipe, begun, file)
    for name in TRAINING:
        block = getattr(recipe, name)
        # Several processes look together, when the stage begins: one alone would wait in ZeRO-3 for the others.
        if block is not None and name in stages and group.size() == 1:
            _gather(findings, _fits, begun.base, block, name)
    if "export" in stages:
        _gather(findings, _exports, recipe, begun.base)
    findings.settle()
    return begun


def _gather(findings: Findings, call: Any, *values: Any) -> Any:
    try:
        return call(*values)
    except Refusal as refusal:
        findings.absorb(refusal)
        return None


def _paths(recipe: Recipe, findings: Findings, stages: Sequence[str], file: Path | None) -> None:
    for stage in (*TRAINING, "vocab", "evaluate"):
        block = getattr(recipe, stage)
        for name in data_paths(block) if block is not None and stage in stages else []:
            if not resolve(name).exists() and not any(c in name for c in "*?[") and hub_of(name) is None:
                findings.problem(
                    "not-found",
                    f"{file or recipe.name} names {name}, which does not exist",
                    "check the path; relative paths start where the command runs",
                    name,
                )


def _goes_on(recipe: Recipe, begun: Stack, file: Path | None) -> None:
    """What a recipe goes on from must be there, and hold together."""
    name = None if file is None else str(file)
    if begun.adapters and recipe.vocab is not None:
        refuse("recipe-invalid", f"vocab: {recipe.base} is an adapter, and a vocabulary grows in a model", _MERGE, name)
    for stage in TRAINING:
        block = getattr(recipe, stage)
        if block is None or block.continue_ is None or Path(block.continue_).is_relative_to(recipe.out):
            continue
        if not is_adapter(locate(block.continue_)):
            refuse("not-found", f"{stage}.continue: {block.continue_} is no adapter", "name an adapter's folder", name)


def _exports(recipe: Recipe, base: Path) -> None:
    """An architecture that has no names in GGUF is refused before the training, not after it."""
    from lingraft.weights.gguf_write import family_of
    from lingraft.weights.hf import read_json

    if any(item.to.startswith("gguf") for item in recipe.export):
        family_of(read_json(base / "config.json"), base)


def _place(recipe: Recipe, findings: Findings) -> None:
    """The run folder must be one, or able to become one."""
    out = Path(recipe.out).expanduser().absolute()
    there = next(p for p in (out, *out.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        findings.problem(
            "unreadable",
            f"out: {recipe.out} cannot be written: {there} is a file, or read-only",
            "choose another `out`",
            recipe.out,
        )


def _data(stage: str, block: Training, findings: Findings) -> None:
    """Read the rows of a stage, all of them, and of plain text, which has no form to miss, the beginning."""
    names = [resolve(name) for name in data_paths(block) if hub_of(name) is None]
    if not names:
        return  # all from the Hub, which is not fetched for a check
    asks = getattr(block, "method", None) == "grpo"  # it takes prompts; the other methods take pairs
    readers = {
        "sft": conversations.stream,
        "prefer": conversations.stream if asks else preferences,
        "classify": labelled,
    }
    if stage in readers:
        deque(readers[stage](names, findings), maxlen=0)
    else:
        next(text.stream(names, findings), None)


def _fits(base: Path, block: Any, name: str) -> None:
    from lingraft.train.fit import check_techniques

    check_techniques(base, block.techniques, name)
    if getattr(block, "template", "auto") != "auto":
        from lingraft.data.templates import resolve as resolve_template

        resolve_template(block.template, load_tokenizer(base))


def _dry_run(recipe: Recipe, begun: Stack, findings: Findings) -> list[dict[str, Any]]:
    """Train one real batch of every training stage on what the recipe begins with, in a scratch folder.

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
            trial = recipe.model_copy(
                update={
                    "out": f"{scratch}/{name}",
                    "vocab": None,
                    name: block.model_copy(update={"techniques": techniques}),
                }
            )
            told.append(
                {"stage": name, **dry_run(stage_of(Run(trial, begun.base, findings), name, adapters=begun.adapters))}
            )
    return told
