"""THE training loop: transformers' Trainer, fed with packed texts, resumable to the bit, checked after it saves.

Every stage comes through here with its examples ready; what is trained is up to the techniques.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PrinterCallback, set_seed

from lingraft import accelerator
from lingraft.models import fastest_dtype
from lingraft.output import output_directory
from lingraft.progress import track
from lingraft.recipe import Distributed
from lingraft.train import arguments as arguments_of
from lingraft.train import liger, pace, trackers
from lingraft.train.assemble import Assembled, assemble, new_rows, rates_of, to_compute_type, with_recipe
from lingraft.train.checkpoints import LingraftTrainer, latest, state_of
from lingraft.train.diagnose import diagnose
from lingraft.train.distributed import group, sharded, strategy, whole
from lingraft.train.distributed.even import Even
from lingraft.train.distributed.trainer import SpreadTrainer
from lingraft.train.language import LANGUAGE
from lingraft.train.linear import speed_up
from lingraft.train.samples import Samples, prompts_of
from lingraft.train.saving import save
from lingraft.train.stage import Examples, Stage
from lingraft.train.task import Task
from lingraft.train.watch import Watch, read_log, trim_log

SAMPLES = "samples.jsonl"  # in the stage's work folder
_SAVE_SECONDS = 30.0  # work lost at most when a short run (`minutes`) is killed
_SAVE_SECONDS_LONG = 300.0


@dataclass(frozen=True)
class Prepared:
    """A trainer ready to go, and what it was decided to do."""

    trainer: LingraftTrainer
    model: Any
    tokens_per_step: float
    dtype: str


def train(stage: Stage, examples: Examples) -> dict[str, Any]:
    """Train a stage to its end, from its last checkpoint where there is one, and write its output.

    Returns {"adapter", "steps", "tokens", "supervised_tokens", "loss_first", "loss_last", "validation" (the last
    evaluation's figures, or None), "diagnosis" (what the log says in words), "samples", "seconds",
    "tokens_per_second", "dtype", "data", "log"}. Errors: `recipe-invalid`, `training-diverged`,
    `checkpoint-damaged`, and what saving and techniques refuse.
    """
    started = time.monotonic()
    quiet()
    checkpoint = group.tell(latest(stage.work / "checkpoints", stage.findings) if group.leads() else None)
    done = 0 if checkpoint is None else state_of(checkpoint).global_step
    with prepared(stage, examples, started, done) as ready:
        trainer = ready.trainer
        begun = time.monotonic()
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trained = time.monotonic() - begun
        model = whole.unsharded(ready.model, lambda: _again(stage, examples))
        if not group.leads():
            return {}
        with output_directory(stage.out, overwrite=True) as folder:
            save(model, stage, examples, folder, quantisation_of(stage))
    steps = trainer.state.global_step
    return {
        "adapter": str(stage.out),
        "steps": steps,
        "tokens": round(steps * ready.tokens_per_step),
        "supervised_tokens": examples.train.stats["supervised_tokens"],
        **_losses(read_log(arguments_of.log_path(stage))),
        "validation": _last_evaluation(read_log(arguments_of.log_path(stage))),
        "seconds": round(time.monotonic() - started, 2),
        "tokens_per_second": round((steps - done) * ready.tokens_per_step / max(trained, 1e-9), 1),
        "dtype": ready.dtype,
        "processes": group.size(),
        "spread": strategy.running(trainer.model_wrapped),
        "data": examples.train.stats,
        "log": read_log(arguments_of.log_path(stage)),
        "diagnosis": [d.as_json() for d in diagnose(read_log(arguments_of.log_path(stage)), examples.train.stats)],
        "samples": read_log(stage.work / SAMPLES),
        **_rows_handed_on(stage),
    }


@contextmanager
def prepared(stage: Stage, examples: Examples, started: float, done: int = 0) -> Any:
    """Yield a Trainer for the stage, inside its progress bar; ``done`` steps were taken by an earlier run."""
    if group.leads():
        stage.work.mkdir(parents=True, exist_ok=True)
        trim_log(arguments_of.log_path(stage), done)
        trim_log(stage.work / SAMPLES, done)
    group.wait()
    set_seed(stage.seed)
    task, spread = examples.task or LANGUAGE, strategy.of(stage)
    assembled = assemble(strategy.own_scratch(stage), examples.tokenizer, task.load)
    tuning = with_recipe(assembled.tuning, stage.block.trainer)
    known = pace.recall(stage.work)
    strategy.require_same(stage.work, known is not None)
    dtype = getattr(torch, known.dtype) if known else arguments_of.type_of(tuning.arguments) or fastest_dtype()
    dtype = group.tell(dtype)
    to_compute_type(assembled.model, dtype, exactly=stage.block.leaves == "model")
    if spread is None or not strategy.gathers_by_module(spread):
        assembled.model.to(accelerator.kind())  # the Trainer would, but only after steps are measured
    model = wrap(assembled, task, dtype, arguments_of.smoothing_of(tuning.arguments), spread)
    chosen = arguments_of.build(stage, tuning.arguments, examples)
    per_step = tokens_per_step(chosen, examples)
    decision = group.tell(known or decide(stage, chosen, examples, model, dtype, started))
    if group.leads():
        pace.remember(stage.work, decision)
    steps = decision.max_steps or total_steps(chosen, examples)
    chosen = arguments_of.scheduled(liger.apply(assembled.model, chosen, stage.name), steps)
    total = per_step * steps
    every = (
        float("inf")
        if arguments_of.keeps_own_pace(chosen)
        else (_SAVE_SECONDS if stage.block.minutes else _SAVE_SECONDS_LONG)
    )
    with trackers.environment(chosen, stage.work), track(stage.name, total - done * per_step, "tokens") as advance:
        watch = Watch(arguments_of.log_path(stage), advance, every, per_step)
        more: dict[str, Any] = {
            "callbacks": [watch, *assembled.tuning.callbacks, *_samples(stage, examples, dtype)],
            "rates": rates_of(assembled.model, assembled.tuning),
            "tuning": assembled.tuning,
        }
        if spread is not None:
            chosen |= strategy.arguments(spread, chosen)
            if spread.kind == "fsdp":
                sharded.shard(model)
        if task.trainer is not None:
            bound = {} if decision.max_steps is None else {"max_steps": decision.max_steps}
            trainer = task.trainer(model, {**chosen, **bound}, examples, dtype, **more)
        else:
            arguments = arguments_of.finish(chosen, decision.max_steps, stage.name)
            trainer = _trainer(model, arguments, examples, task, spread, more)
        trainer.remove_callback(PrinterCallback)
        yield Prepared(trainer, assembled.model, per_step, decision.dtype)


def _trainer(
    model: Any, arguments: Any, examples: Examples, task: Task, spread: Distributed | None, more: Mapping[str, Any]
) -> Any:
    """Build the Trainer of one process, or of several: each then gets as many blocks as every other."""
    kind: Any = LingraftTrainer
    data: Any = examples.train
    if spread is not None:
        kind, more = SpreadTrainer, {**more, "spread": spread}
        data = Even(data, arguments.per_device_train_batch_size * group.size()) if task is LANGUAGE else data
    return kind(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=examples.validation,
        data_collator=task.collate,
        compute_metrics=task.metrics,
        describe=lambda batch: _beginning(batch, examples),
        **more,
    )


def _samples(stage: Stage, examples: Examples, dtype: torch.dtype) -> list[Samples]:
    """Return what writes sample answers at each evaluation; nothing where there is nothing to ask."""
    prompts = prompts_of(examples.validation, examples.tokenizer, stage.block.samples)
    if not prompts or group.size() > 1:
        return []
    return [Samples(stage.work / SAMPLES, prompts, examples.tokenizer, dtype)]


def wrap(
    assembled: Assembled, task: Task, dtype: torch.dtype, smoothing: float, spread: Distributed | None = None
) -> Any:
    """Make the assembled model ready to compute losses in ``dtype``, the fast way where it is plain."""
    gathers = spread is not None and strategy.gathers_by_module(spread)
    if task.trainer is None and not gathers:
        speed_up(assembled.model)
    wrapped: Any = task.wrap(assembled.model, dtype, smoothing)
    if gathers and task is LANGUAGE:
        wrapped.short_head = False
    return wrapped


def _again(stage: Stage, examples: Examples) -> Any:
    """Build a stage's model once more as it began."""
    strategy.forget()
    set_seed(stage.seed)
    return assemble(stage, examples.tokenizer, (examples.task or LANGUAGE).load).model


def decide(
    stage: Stage, chosen: Mapping[str, Any], examples: Examples, model: Any, dtype: torch.dtype, started: float
) -> pace.Decision:
    """Take the decisions of a first start: with ``minutes``, measure a real step and count how many fit."""
    name = str(dtype).removeprefix("torch.")
    if stage.block.minutes is None:
        return pace.Decision(name)
    micro, steps = chosen["per_device_train_batch_size"], chosen["gradient_accumulation_steps"]
    size = len(examples.train)
    collate = (examples.task or LANGUAGE).collate
    made = [collate([examples.train[(n * micro + i) % size] for i in range(micro)]) for n in range(min(steps, 2))]
    batches = [{key: value.to(accelerator.kind()) for key, value in batch.items()} for batch in made]
    seconds = pace.seconds_of(lambda: pace.forward_and_backward(model, batches)) * steps / len(batches)
    fit = pace.steps_that_fit(stage.block.minutes, time.monotonic() - started, seconds)
    return pace.Decision(name, min(fit, total_steps(chosen, examples)), round(seconds, 4))


def quantisation_of(stage: Stage) -> Mapping[str, Any] | None:
    """Return what the base was quantised to in training, where a technique says so."""
    return next((t.seen() for t in stage.block.techniques if hasattr(t, "seen")), None)


def tokens_per_step(chosen: Mapping[str, Any], examples: Examples) -> float:
    """Return how many tokens an update sees on average."""
    blocks = chosen["per_device_train_batch_size"] * chosen["gradient_accumulation_steps"] * group.size()
    return float(examples.train.stats["tokens"] / len(examples.train) * min(blocks, len(examples.train)))


def total_steps(chosen: Mapping[str, Any], examples: Examples) -> int:
    """Return how many updates the epochs come to."""
    if chosen.get("max_steps", -1) > 0:
        return int(chosen["max_steps"])
    batches = -(-len(examples.train) // (chosen["per_device_train_batch_size"] * group.size()))
    per_epoch = -(-batches // chosen["gradient_accumulation_steps"])
    return max(1, int(-(-per_epoch * chosen["num_train_epochs"] // 1)))


def quiet() -> None:
    """Silence what users can do nothing about: progress bars and notices of the libraries below."""
    import logging as python_logging
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in ("bitsandbytes", "DeepSpeed"):  # speak, and set their level, while they are imported
        python_logging.getLogger(name).addFilter(lambda record: record.levelno >= python_logging.ERROR)
    for module in ("peft", "torch", "transformers", "accelerate"):
        warnings.filterwarnings("ignore", module=module)


def _rows_handed_on(stage: Stage) -> dict[str, int]:
    """Return which rows a vocabulary stage added, where a whole model is left: it is the base of what comes next."""
    rows = new_rows(stage.base) if stage.block.leaves == "model" else None
    return {} if rows is None else {"old_size": rows.start, "new_size": rows.stop}


def _losses(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    losses = [row["loss"] for row in log if "loss" in row]
    return {"loss_first": losses[0] if losses else None, "loss_last": losses[-1] if losses else None}


def _last_evaluation(log: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    rows = [row for row in log if "eval_loss" in row]
    return {k.removeprefix("eval_"): v for k, v in rows[-1].items() if k.startswith("eval_")} if rows else None


def _beginning(batch: Mapping[str, torch.Tensor], examples: Examples) -> str:
    text = str(examples.tokenizer.decode(batch["input_ids"][0, :40].tolist()))
    return repr(text[:80])
