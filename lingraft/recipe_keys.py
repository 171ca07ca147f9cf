"""What of a recipe only the libraries and the files can tell, asked before a run: trainer blocks, cleaning steps,
rewards, starts of new rows, tasks, export targets, and validation where it is due."""

from __future__ import annotations

from pathlib import Path

from lingraft.problems import Findings, Refusal
from lingraft.recipe import Recipe, Training
from lingraft.recipe_trainer import check_trainer


def check_keys(recipe: Recipe, path: Path | None = None) -> None:
    """Check what needs the libraries to know: the keys of every `trainer:` block, and validation where it is due.

    Error: `recipe-invalid`, every one by its path.
    """
    findings = Findings()
    for stage in ("pretrain", "sft", "prefer", "classify"):
        block = getattr(recipe, stage)
        if block is not None:
            check_trainer(block.trainer, stage, findings, path, getattr(block, "method", None))
            _check_techniques(block, stage, findings, path)
            _check_steps(block, stage, findings)
    _check_prefer(recipe, findings, path)
    _check_vocab(recipe, findings)
    _check_tasks(recipe, findings)
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


def _check_prefer(recipe: Recipe, findings: Findings, path: Path | None) -> None:
    """Refuse what the stage does not offer, and rewards that the table lacks; a user's own function is not run here."""
    if recipe.prefer is None:
        return
    from lingraft.train import prefer
    from lingraft.train.rewards import TABLE

    try:
        prefer.check(recipe.prefer, "prefer")
    except Refusal as refusal:
        findings.absorb(refusal)
    for number, reward in enumerate(recipe.prefer.rewards):
        if ":" not in reward.kind and reward.kind not in TABLE:
            findings.problem(
                "recipe-invalid",
                f"prefer.rewards.{number}.kind: {reward.kind} is none of {', '.join(TABLE)}",
                "name one of them, or your own as package.module:function",
                path,
            )


def _check_vocab(recipe: Recipe, findings: Findings) -> None:
    if recipe.vocab is not None:
        from lingraft.vocab.rows import start_of

        try:
            start_of(recipe.vocab.init)
        except Refusal as refusal:
            findings.absorb(refusal)


def _check_tasks(recipe: Recipe, findings: Findings) -> None:
    """The questions of local tasks are read as the evaluation will read them, long before it begins."""
    block = recipe.evaluate
    if block is not None and block.tasks:
        from lingraft.evaluate.tasks import parse_all

        try:
            parse_all(block.tasks, block.limit, block.shots)
        except Refusal as refusal:
            findings.absorb(refusal)


def _check_exports(recipe: Recipe, findings: Findings, path: Path | None) -> None:
    for number, item in enumerate(recipe.export):
        from lingraft.export.run import check

        try:
            check(item.to, item.type, item.data, findings)
        except Refusal as refusal:
            for p in refusal.problems:
                findings.problem("recipe-invalid", f"export.{number}: {p.message}", p.remedy, path)


def _check_techniques(block: Training, stage: str, findings: Findings, path: Path | None) -> None:
    needs = [t.kind for t in block.techniques if getattr(t, "needs_validation", False)]
    best = ("load_best_model_at_end", "metric_for_best_model")
    needs += [f"trainer.{key}" for key in best if block.trainer.get(key)]
    if block.trainer.get("eval_strategy", "no") not in ("no", False):
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
