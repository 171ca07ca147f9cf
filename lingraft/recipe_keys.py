"""What of a recipe only the libraries can tell: keys of a `trainer:` block, trackers, validation, export targets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal
from lingraft.recipe import Recipe, Training


def check_keys(recipe: Recipe, path: Path | None = None) -> None:
    """Check what needs the libraries to know: the keys of every `trainer:` block, and validation where it is due.

    Error: `recipe-invalid`, every one by its path.
    """
    findings = Findings()
    for stage in ("pretrain", "sft", "prefer", "classify"):
        block = getattr(recipe, stage)
        if block is not None:
            _check_trainer(block.trainer, stage, findings, path, getattr(block, "method", None))
            _check_techniques(block, stage, findings, path)
            _check_steps(block, stage, findings)
    _check_rewards(recipe, findings, path)
    _check_exports(recipe, findings, path)
    findings.settle()


def _check_steps(block: Training, stage: str, findings: Findings) -> None:
    """Cleaning and augmentation are built as the stage will build them, long before it begins."""
    from lingraft.data.augment import augmentations
    from lingraft.data.clean import steps_of
    from lingraft.data.eda import edas

    varied = edas if stage == "classify" else augmentations
    for build, chosen, key in ((steps_of, block.clean, "clean"), (varied, block.augment, "augment")):
        try:
            build(chosen, f"{stage}.{key}")
        except Refusal as refusal:
            findings.absorb(refusal)


def _check_rewards(recipe: Recipe, findings: Findings, path: Path | None) -> None:
    """A reward of the table must be in it; a function of the user's own is imported when its stage begins, not here."""
    from lingraft.train.rewards import TABLE

    for number, reward in enumerate(recipe.prefer.rewards if recipe.prefer else ()):
        if ":" not in reward.kind and reward.kind not in TABLE:
            findings.problem(
                "recipe-invalid",
                f"prefer.rewards.{number}.kind: {reward.kind} is none of {', '.join(TABLE)}",
                "name one of them, or your own as package.module:function",
                path,
            )


def _check_exports(recipe: Recipe, findings: Findings, path: Path | None) -> None:
    for number, item in enumerate(recipe.export):
        from lingraft.export.run import check

        try:
            check(item.to, item.type, item.data, findings)
        except Refusal as refusal:
            for p in refusal.problems:
                findings.problem("recipe-invalid", f"export.{number}: {p.message}", p.remedy, path)


def _check_trainer(
    trainer: Mapping[str, Any], stage: str, findings: Findings, path: Path | None, method: str | None = None
) -> None:
    if not trainer:
        return
    _check_trackers(trainer, stage, findings)
    from dataclasses import fields

    from transformers import TrainingArguments

    # warmup_ratio left TrainingArguments in transformers 5, not the recipes that people have; the loop translates it.
    known = {field.name for field in fields(TrainingArguments)} - {"output_dir"} | {"warmup_ratio"}
    if method is not None and set(trainer) - known:
        from lingraft.train.prefer import settings_of

        known |= settings_of(method)
    for key in trainer:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            findings.problem(
                "recipe-invalid",
                f"{stage}.trainer.{key}: transformers.TrainingArguments has no such argument{hint}",
                f"mend {stage}.trainer.{key} in the recipe",
                path,
            )


def _check_trackers(trainer: Mapping[str, Any], stage: str, findings: Findings) -> None:
    from lingraft.train import trackers

    try:
        trackers.require(trainer, stage)
    except Refusal as refusal:
        findings.absorb(refusal)


def _check_techniques(block: Training, stage: str, findings: Findings, path: Path | None) -> None:
    needs = [t.kind for t in block.techniques if getattr(t, "needs_validation", False)]
    best = ("load_best_model_at_end", "metric_for_best_model")
    needs += [f"trainer.{key}" for key in best if block.trainer.get(key)]
    if str(block.trainer.get("eval_strategy", "no")) != "no":
        needs.append("trainer.eval_strategy")
    best_kept = [name for name in needs if name != "trainer.eval_strategy"]
    if best_kept and any(t.kind == "average" for t in block.techniques):
        findings.problem(
            "recipe-invalid",
            f"{stage}.techniques: average and {best_kept[0]} both decide which weights are kept",
            "keep one of them",
            path,
        )
    if needs and block.validation is None:
        findings.problem(
            "recipe-invalid",
            f"{stage}.validation: {needs[0]} needs validation data",
            f"add `validation: 0.02` (a share or a path) to {stage}",
            path,
        )
