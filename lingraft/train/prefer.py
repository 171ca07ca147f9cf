"""Training on preferences through trl: ``lingraft prefer RECIPE`` (DPO, KTO, ORPO, GRPO, or a reward model).

DPO: Rafailov et al. 2023, arXiv:2305.18290. KTO: Ethayarajh et al. 2024, arXiv:2402.01306. ORPO: Hong et al. 2024,
arXiv:2403.07691. GRPO: Shao et al. 2024, arXiv:2402.03300; it samples answers and scores them (`rewards.py`).
trl's trainers are transformers' Trainer below, so they get the same checkpoints as every stage; the reference model
is the base with the adapters below, without the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
from transformers import PreTrainedTokenizerBase

from lingraft.data.conversations import conversations
from lingraft.data.gather import Gathered, gather
from lingraft.data.preferences import preferences
from lingraft.data.templates import resolve as resolve_template
from lingraft.models import load_tokenizer
from lingraft.problems import refuse
from lingraft.recipe import Prefer
from lingraft.train.checkpoints import Atomic
from lingraft.train.language import load_causal
from lingraft.train.loop import train
from lingraft.train.preferred import BATCH, Form, Pairs, asked, pairs
from lingraft.train.rewards import functions
from lingraft.train.sources import protected, refuse_unoffered
from lingraft.train.stage import Examples, Stage
from lingraft.train.task import Task


def run(stage: Stage) -> dict[str, Any]:
    """Train on the stage's preferences; return what `loop.train` returns."""
    return train(stage, prepare(stage, load_tokenizer(stage.base)))


def prepare(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Read the preferences.

    Errors: `not-found`, `data-invalid` by file and line, `recipe-invalid`, `nothing-supervised`.
    """
    block = stage.block
    assert isinstance(block, Prefer)
    check(block, stage.name)
    template = resolve_template(block.template, tokenizer)
    tokenizer.chat_template = template
    asks = block.method == "grpo"
    read: Any = conversations if asks else preferences
    found: Gathered[Any] = gather(read, block, stage.seed, protected(stage.recipe), stage.findings)
    form = Form(block.method, template, block.length, int(block.trainer.get("per_device_train_batch_size", BATCH)))

    def made(items: list[Any]) -> Pairs:
        return asked(items, form, tokenizer) if asks else pairs(items, form, tokenizer, stage.findings)

    train_on = made(found.train)
    train_on.stats.update(found.told)
    return Examples(train_on, made(found.held) if found.held else None, tokenizer, template, _task(block))


def check(block: Prefer, stage: str) -> None:
    """Refuse (`recipe-invalid`) what this stage does not offer, and settings of trl's that lingraft makes itself."""
    if "label_smoothing_factor" in block.trainer:
        refuse(
            "recipe-invalid",
            f"{stage}.trainer.label_smoothing_factor: this loss knows no such smoothing",
            "remove it (DPO has its own: trainer.label_smoothing)",
        )
    for key in ("max_length", "truncation_mode"):
        if key in block.trainer:
            refuse(
                "recipe-invalid",
                f"{stage}.trainer.{key}: {stage}.length says how long a prompt with an answer may be",
                f"remove it, and give {stage}.length",
            )
    refuse_unoffered(block, stage, "mix", "minutes", "augment")


def _task(block: Prefer) -> Task:
    method = block.method

    def load(config: Any, base: Path) -> Any:
        if method != "reward":
            return load_causal(config, base)
        from transformers import AutoModelForSequenceClassification

        config.num_labels = 1
        return AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)

    def trainer(model: Any, arguments: Mapping[str, Any], examples: Examples, dtype: torch.dtype, **more: Any) -> Any:
        kind, config = _of_trl(method)
        kept = {k: v for k, v in arguments.items() if k not in ("label_names", "remove_unused_columns")}
        try:
            args = config(**_own(block, kept), bf16=dtype == torch.bfloat16)
        except (ValueError, TypeError) as error:
            refuse("recipe-invalid", f"prefer.trainer: {str(error).splitlines()[0]}", "mend prefer.trainer")
        import datasets

        datasets.disable_progress_bars()  # trl's, which would be drawn into log files, too
        assert isinstance(examples.train, Pairs)
        sources: Sequence[Any] = (examples.train, examples.validation)
        tables = [None if d is None else datasets.Dataset.from_list(list(d.rows)) for d in sources]
        atomic = type(f"Atomic{kind.__name__}", (Atomic, kind), {})
        scored = {"reward_funcs": functions(block.rewards)[0]} if method == "grpo" else {}
        return atomic(
            model=model,
            args=args,
            **scored,
            train_dataset=tables[0],
            eval_dataset=tables[1],
            processing_class=examples.tokenizer,
            **more,
        )

    def as_it_is(model: Any, dtype: torch.dtype, smoothing: float) -> Any:  # noqa: ARG001
        return model

    defaults = {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 5e-5,
    }
    return Task(load, as_it_is, _uncollated, defaults, trainer=trainer)


def _own(block: Prefer, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the method's own: a length, or for GRPO the size of a group and of an answer."""
    if block.method != "grpo":
        return {"max_length": block.length, **arguments}
    weights = functions(block.rewards)[1]
    return {
        "num_generations": max(2, int(arguments["per_device_train_batch_size"])),
        "reward_weights": weights,
        "max_completion_length": block.length,
        **arguments,
    }


def settings_of(method: str) -> dict[str, Any]:
    """Return a method's settings by name, trl's beside transformers', with types. Error: `recipe-invalid`, no trl."""
    return get_type_hints(_of_trl(method)[1])


def _uncollated(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    raise NotImplementedError(f"trl collates its own {len(items)} rows")


def _of_trl(method: str) -> tuple[Any, Any]:
    try:
        import trl

        if method == "orpo":
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            return ORPOTrainer, ORPOConfig
        return {
            "dpo": (trl.DPOTrainer, trl.DPOConfig),
            "kto": (trl.KTOTrainer, trl.KTOConfig),
            "reward": (trl.RewardTrainer, trl.RewardConfig),
            "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
        }[method]
    except ImportError as error:
        refuse("recipe-invalid", f"prefer.method: {method} needs trl ({error})", "pip install 'lingraft[prefer]'")
