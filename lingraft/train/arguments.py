"""The Trainer's arguments: what techniques chose, what the recipe says, and what a resumable run needs.

No second copy of transformers' settings: ``trainer:`` goes to TrainingArguments as it is. Only defaults that a
person would have to look up are filled in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from lingraft import accelerator
from lingraft.problems import refuse
from lingraft.train.distributed import group
from lingraft.train.stage import Examples, Stage

_STEP_TOKENS = 2048  # tokens an update sees, unless the recipe gives batch sizes
_STEP_TOKENS_SHORT = 512  # the same where minutes bound the run: many small updates beat few large ones
_SHORT_MINUTES = 10
_BATCH_TOKENS = 1024  # tokens computed at once on a CPU: beyond this memory grows and speed does not
_WSD_DECAY = 0.1  # share of the steps; Hu et al. 2024, arXiv:2404.06395, section 4.2
_EPOCHS_WITH_MINUTES = 4  # a small corpus is not repeated more often than this to fill the time


def build(stage: Stage, chosen: Mapping[str, Any], examples: Examples) -> dict[str, Any]:
    """Return the arguments for TrainingArguments but ``max_steps``, with defaults under what was chosen."""
    given = dict(chosen)
    for precision in ("bf16", "fp16"):
        given.pop(precision, None)
    if "warmup_ratio" in given:  # transformers 5 reads a ratio out of warmup_steps
        given["warmup_steps"] = float(given.pop("warmup_ratio"))
    length = stage.block.length
    short = stage.block.minutes is not None and stage.block.minutes <= _SHORT_MINUTES
    wanted = _STEP_TOKENS_SHORT if short else _STEP_TOKENS
    blocks = max(1, min(wanted, _BATCH_TOKENS) // length)
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": blocks,
        "gradient_accumulation_steps": max(1, wanted // (blocks * length * group.size())),
        "num_train_epochs": _EPOCHS_WITH_MINUTES if stage.block.minutes else 1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "logging_steps": 1,
        "report_to": "none",
        "per_device_eval_batch_size": 1,
        "save_total_limit": 2,
        "save_strategy": "no",
    }
    if examples.validation is not None:
        defaults |= {"eval_strategy": "steps", "eval_steps": 0.2, "prediction_loss_only": True}
    if examples.task is not None:
        defaults |= examples.task.defaults
    arguments = {**defaults, **given}
    if chosen.get("fp16"):  # accelerate scales the loss then; float16 loses small gradients without
        if not accelerator.scales_losses(accelerator.kind()):
            refuse(
                "recipe-invalid",
                f"{stage.name}.trainer.fp16: half precision of this kind needs a GPU",
                "remove the key, or use bf16: true",
            )
        arguments["fp16"] = True
    if arguments.get("load_best_model_at_end"):
        arguments |= {"save_strategy": arguments["eval_strategy"], "save_steps": arguments.get("eval_steps", 500)}
    device = accelerator.kind()
    fixed = {
        "output_dir": str(stage.work / "checkpoints"),
        "seed": stage.seed,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": accelerator.pins_memory(device),
        "logging_nan_inf_filter": False,
        "label_smoothing_factor": 0.0,  # the loss is ours, and so is its smoothing
    }
    return {**arguments, **fixed}


def finish(arguments: Mapping[str, Any], max_steps: int | None, name: str) -> TrainingArguments:
    """Build TrainingArguments. Error: `recipe-invalid` with transformers' own words."""
    steps = {} if max_steps is None else {"max_steps": max_steps}
    try:
        return TrainingArguments(**{**arguments, **steps})
    except (ValueError, TypeError, ImportError) as error:
        refuse("recipe-invalid", f"{name}.trainer: {str(error).splitlines()[0]}", f"mend {name}.trainer")


def scheduled(arguments: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the arguments with what a schedule needs to know of the run: WSD ends with a decay over a tenth of it."""
    kind = str(arguments.get("lr_scheduler_type"))
    if kind not in ("wsd", "warmup_stable_decay"):
        return dict(arguments)
    given = arguments.get("lr_scheduler_kwargs") or {}
    return {
        **arguments,
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": max(1, round(_WSD_DECAY * steps)), **given},
    }


def smoothing_of(chosen: Mapping[str, Any]) -> float:
    """Return the recipe's label smoothing."""
    return float(chosen.get("label_smoothing_factor", 0.0))


def type_of(chosen: Mapping[str, Any]) -> torch.dtype | None:
    """Return the compute type that the recipe orders, or None where it is to be measured."""
    if "bf16" in chosen:
        return torch.bfloat16 if chosen["bf16"] else torch.float32
    return torch.float16 if chosen.get("fp16") else None


def keeps_own_pace(arguments: Mapping[str, Any]) -> bool:
    """Tell whether the Trainer's own strategy decides when to save."""
    return str(arguments["save_strategy"]) != "no"


def log_path(stage: Stage) -> Path:
    """Return where a stage's log rows go; of several processes one writes them."""
    return stage.work / "log.jsonl" if group.leads() else Path(os.devnull)
