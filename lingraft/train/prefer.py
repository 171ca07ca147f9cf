"""Training on preferences through trl: ``lingraft prefer RECIPE`` (DPO, KTO, ORPO, GRPO, or a reward model).

DPO: Rafailov et al. 2023, arXiv:2305.18290. KTO: Ethayarajh et al. 2024, arXiv:2402.01306. ORPO: Hong et al. 2024,
arXiv:2403.07691. GRPO: Shao et al. 2024, arXiv:2402.03300; it samples answers and scores them (`rewards.py`).
trl's trainers are transformers' Trainer below, so they get the same checkpoints as every stage; the reference model
is the base with the adapters below, without the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lingraft.data.contradictions import contradictions
from lingraft.data.conversations import Conversation, conversations
from lingraft.data.preferences import Preference, preferences
from lingraft.data.templates import resolve as resolve_template
from lingraft.models import load_tokenizer
from lingraft.problems import refuse
from lingraft.recipe import Prefer
from lingraft.recipe import resolve as resolve_path
from lingraft.train.checkpoints import Atomic
from lingraft.train.language import load_causal
from lingraft.train.loop import train
from lingraft.train.rewards import functions
from lingraft.train.sources import refuse_unoffered, split
from lingraft.train.stage import Examples, Stage
from lingraft.train.task import Task

Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs(Dataset[Row]):
    """Rows as trl takes them: a conversational prompt with its answers."""

    rows: tuple[Row, ...]
    stats: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def run(stage: Stage) -> dict[str, Any]:
    """Train on the stage's preferences; return what `loop.train` returns."""
    return train(stage, prepare(stage, load_tokenizer(stage.base)))


def prepare(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Read the preferences. Errors: `not-found`, `data-invalid` by file and line, `recipe-invalid`."""
    block = stage.block
    assert isinstance(block, Prefer)
    _check(stage, block)
    template = resolve_template(block.template, tokenizer)
    tokenizer.chat_template = template
    given = [block.data] if isinstance(block.data, str) else list(block.data or [])
    grpo = block.method == "grpo"
    read: Any = conversations if grpo else preferences
    items = read([resolve_path(path) for path in given], stage.findings)
    held: list[Any] = []
    if isinstance(block.validation, str):
        held = read([resolve_path(block.validation)], stage.findings)
    elif block.validation is not None:
        items, held = split(items, block.validation, stage.seed, resolve_path(given[0]))
    train_on, check_on = (
        (_asked(part, tokenizer) if grpo else _pairs(part, block.method, tokenizer)) if part else None
        for part in (items, held)
    )
    assert train_on is not None  # the readers refuse data without a row
    return Examples(train_on, check_on, tokenizer, template, _task(block))


def _check(stage: Stage, block: Prefer) -> None:
    if "label_smoothing_factor" in block.trainer:
        refuse(
            "recipe-invalid",
            f"{stage.name}.trainer.label_smoothing_factor: this loss knows no such smoothing",
            "remove it (DPO has its own: trainer.label_smoothing)",
        )
    refuse_unoffered(block, stage.name, "mix", "minutes", "clean", "augment")


def _pairs(items: Sequence[Preference], method: str, tokenizer: Any) -> Pairs:
    rows: list[Row] = []
    for item in items:
        prompt = [{"role": m.role, "content": m.content} for m in item.prompt]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (item.chosen, item.rejected))
        if method == "kto":
            rows += [
                {"prompt": prompt, "completion": answer, "label": good}
                for answer, good in ((chosen, True), (rejected, False))
            ]
        else:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    texts = [" ".join([*(m.content for m in i.prompt), i.chosen, i.rejected]) for i in items]
    tokens = sum(map(len, tokenizer(texts, verbose=False)["input_ids"]))
    twice = contradictions(
        (f"{[m.content for m in i.prompt]}{sorted((i.chosen, i.rejected))}", i.chosen, i.source) for i in items
    )
    stats = {
        "rows_in": len(items),
        "rows_out": len(rows),
        "tokens": tokens,
        "supervised_tokens": tokens,
        "padding_share": 0.0,
        "contradictions": twice,
        "examples": [f"{i.prompt[-1].content}\n⟦{i.chosen}⟧\n✗ {i.rejected}" for i in items[:5]],
    }
    return Pairs(tuple(rows), stats)


def _asked(items: Sequence[Conversation], tokenizer: Any) -> Pairs:
    """Return what GRPO is asked: each conversation up to its last answer, which the rewards are given."""
    rows = tuple({"prompt": c.as_dicts()[:-1], "answer": c.messages[-1].content} for c in items)
    tokens = sum(len(tokenizer(c.messages[-2].content, verbose=False)["input_ids"]) for c in items)
    stats = {
        "rows_in": len(items),
        "rows_out": len(rows),
        "tokens": tokens,
        "supervised_tokens": 0,
        "padding_share": 0.0,
        "examples": [f"{c.messages[-2].content}\n(reference: {c.messages[-1].content})" for c in items[:5]],
    }
    return Pairs(rows, stats)


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
        from datasets import Dataset as Table

        assert isinstance(examples.train, Pairs)
        sources: Sequence[Any] = (examples.train, examples.validation)
        tables = [None if d is None else Table.from_list(list(d.rows)) for d in sources]
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
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
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


def settings_of(method: str) -> set[str]:
    """Return the names of a method's settings, trl's own beside transformers'. Error: `recipe-invalid` without trl."""
    return {field.name for field in fields(_of_trl(method)[1])}


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
