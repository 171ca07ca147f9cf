"""`lingraft plan MODEL_OR_RECIPE`: what each way of training needs here, which fit, and which to choose.

lingraft plan meta-llama/Llama-2-7b-hf --hardware "RTX 4090" --length 1024
lingraft plan recipe.yaml --json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lingraft.plan import advice, skeleton, tokens
from lingraft.plan.hardware import Hardware, find
from lingraft.plan.memory import Cost, Model, look, weigh
from lingraft.plan.step import Work
from lingraft.plan.strategies import NAMED
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Pretrain, Recipe, Training, parse_technique
from lingraft.train import arguments
from lingraft.train.stage import Examples, Stage
from lingraft.train.techniques import Technique, Tuning
from lingraft.train.techniques.freeze import Freeze
from lingraft.train.techniques.lora import Lora
from lingraft.train.techniques.prompt import Prompt
from lingraft.train.techniques.qlora import Qlora

STAGES = ("pretrain", "sft", "prefer", "classify")
_LENGTH = 512
_UNKNOWN_ROWS = {"auto": 2000, "unite": 20000}  # where a recipe does not say how many pieces will be new


@dataclass(frozen=True)
class Ask:
    """One training stage of a recipe, or the one a bare model is planned with."""

    name: str
    block: Training
    tuning: Mapping[str, Any]
    work: Work


def plan(
    model: str | Path,
    *,
    recipe: Recipe | None = None,
    hardware: str | None = None,
    memory: str | None = None,
    length: int | None = None,
    findings: Findings | None = None,
) -> dict[str, Any]:
    """Weigh full, frozen-layer, LoRA and QLoRA training of a model, and a recipe's own stages where one is given.

    ``model`` is a directory, checkpoint or Hub id (config.json is enough), ignored with a recipe, which names its
    base. Memory in bytes, times in seconds. Errors: `not-found`, `config-mismatch`; ValueError for unknown
    ``hardware`` or ``memory`` (wrong usage).
    """
    del findings  # nothing is wrong with a model that does not fit: that is the answer
    base = recipe.base if recipe is not None else model
    config = skeleton.read_config(base)
    found = look(config, new_rows(recipe))
    blocks = _blocks(recipe, length)
    place = find(hardware, memory, _ordered_type(blocks[0][1]))
    asks = [_ask(name, block, place) for name, block in blocks]
    first, low_rank = asks[0], _lora_of(asks[0].block)
    costs = {
        name: weigh(found, partial(strategy.techniques, lora=low_rank), first.work, place, strategy.quantised)
        for name, strategy in NAMED.items()
    }
    stages = [] if recipe is None else [_stage(ask, found, place, _home(base)) for ask in asks]
    known = [s["supervised_tokens"] for s in stages if "supervised_tokens" in s]
    aim = advice.Aim(new_tokens=found.rows is not None, supervised_tokens=max(known) if known else None)
    recommended, why = advice.recommend(costs, found, place, aim)
    return {
        "model": str(base),
        "parameters": found.parameters,
        "hardware": place.as_json(),
        "length": first.work.length,
        "tokens_at_once": first.work.tokens,
        "gradient_checkpointing": first.work.checkpointing,
        "strategies": [
            {"name": name, "means": NAMED[name].means, **cost.as_json(), "fits": advice.fits(cost, place)}
            for name, cost in costs.items()
        ],
        "recommended": recommended,
        "why": why,
        **({"stages": stages} if stages else {}),
    }


def require_fit(
    recipe: Recipe, base: Path, findings: Findings, hardware: str | None = None, memory: str | None = None
) -> None:
    """Note `does-not-fit` for every training stage that this machine has not the memory for, with what would help."""
    found = look(skeleton.read_config(base), new_rows(recipe))
    for name, block in _blocks(recipe, None):
        place = find(hardware, memory, _ordered_type(block))
        ask = _ask(name, block, place)
        cost = _own(ask, found, place)
        if not advice.fits(cost, place):
            findings.problem("does-not-fit", _too_much(ask, cost, place), _remedy(ask, cost, found, place))


def new_rows(recipe: Recipe | None) -> int:
    """Return how many rows the vocabulary stage will add, guessing where only the text decides."""
    if recipe is None or recipe.vocab is None:
        return 0
    if isinstance(recipe.vocab.size, int):
        return recipe.vocab.size
    return _UNKNOWN_ROWS["auto" if recipe.vocab.unite is None else "unite"]


def _blocks(recipe: Recipe | None, length: int | None) -> list[tuple[str, Training]]:
    found = [(name, getattr(recipe, name)) for name in STAGES if getattr(recipe, name, None) is not None]
    found = found or [("pretrain", Pretrain.model_validate({"data": "none", "length": _LENGTH}))]
    changed = {} if length is None else {"length": length}
    return [
        (name, b.model_copy(update={"techniques": [parse_technique(t) for t in b.techniques], **changed}))
        for name, b in found
    ]


def _ask(name: str, block: Training, place: Hardware) -> Ask:
    """Lay a stage out as the loop will: batch sizes, type and checkpointing after its own defaults."""
    nothing: Any = None
    stage = Stage(name, block, Path(), (), Path(), Path())
    chosen = arguments.build(
        stage, {**_tuning(block.techniques).arguments, **block.trainer}, Examples(nothing, None, nothing)
    )
    pair = 2 if name == "prefer" else 1  # chosen and rejected go through together
    return Ask(
        name,
        block,
        chosen,
        Work(
            length=block.length,
            blocks=pair * int(chosen["per_device_train_batch_size"]),
            micro_steps=int(chosen["gradient_accumulation_steps"]),
            dtype=_ordered_type(block) or place.dtype,
            fused=not place.is_cpu,
            checkpointing=bool(chosen.get("gradient_checkpointing", False)),
        ),
    )


def _tuning(techniques: Sequence[Technique]) -> Tuning:
    tuning = Tuning()
    for technique in techniques:
        tuning = technique.on_trainer(tuning)
    return tuning


def _ordered_type(block: Training) -> torch.dtype | None:
    return arguments.type_of(block.trainer)


def _lora_of(block: Training) -> Lora | None:
    return next((t for t in map(traced, block.techniques) if isinstance(t, Lora)), None)


def _own(ask: Ask, model: Model, place: Hardware, **changes: Any) -> Cost:
    """Weigh a stage's own techniques; ``changes`` go to its LoRA technique."""
    plain = [traced(t) for t in ask.block.techniques]
    chosen = [t.model_copy(update=changes) if isinstance(t, Lora) else t for t in plain]
    by_block = any(isinstance(t, Freeze) or getattr(t, "targets", "all-linear") != "all-linear" for t in chosen)
    low_bit = any(isinstance(t, Qlora) for t in ask.block.techniques)
    return weigh(model, lambda _model, _config: chosen, ask.work, place, low_bit, whole=by_block)


def traced(technique: Technique) -> Technique:
    """Return the technique that costs the same and needs no weights to begin."""
    if isinstance(technique, Qlora):
        return technique.lora
    if isinstance(technique, Prompt):  # the words it begins with have no weights here
        return technique.model_copy(update={"text": None})
    if isinstance(technique, Lora) and technique.kind == "pissa":
        return technique.model_copy(update={"kind": "lora"})
    return technique


def _stage(ask: Ask, model: Model, place: Hardware, home: Path | None) -> dict[str, Any]:
    """Return what a recipe's stage needs as it is written, and where it threatens to overfit."""
    cost = _own(ask, model, place)
    told = {
        "stage": ask.name,
        "length": ask.work.length,
        "tokens_at_once": ask.work.tokens,
        "gradient_checkpointing": ask.work.checkpointing,
        **cost.as_json(),
        "fits": advice.fits(cost, place),
    }
    counted = tokens.supervised(ask.block, home)
    if counted is None:
        return told
    epochs = float(ask.tuning.get("num_train_epochs", 1))
    level = tokens.risk(counted.tokens, epochs, cost.trained)
    return {
        **told,
        "supervised_tokens": counted.tokens,
        "counted": "all" if counted.exact else "sample",
        "overfitting": level,
        "advice": tokens.warning(level, counted, epochs, cost.trained),
    }


def _home(base: str | Path) -> Path | None:
    """Return where a base lies on this machine, without fetching it."""
    path = Path(base).expanduser()
    return path if path.is_dir() else None


def _too_much(ask: Ask, cost: Cost, place: Hardware) -> str:
    gb = advice.gb
    ends = cost.trained_embedding + cost.trained_head
    parts = {
        "the weights": cost.weights - 4 * ends,
        "the trained embedding and head": cost.ends,
        "gradients and optimizer of the other trained parameters": 12 * (cost.trained - ends),
        "activations": cost.activations,
    }
    # Weights are what one has; what breaks it is the largest of what a recipe adds, unless they alone are too much.
    added = [name for name in parts if name != "the weights"]
    breaks = "the weights" if parts["the weights"] > place.memory else max(added, key=lambda name: parts[name])
    listed = ", ".join(f"{name} {gb(size)}" for name, size in parts.items() if size > 0.01 * cost.total)
    return (
        f"{ask.name} needs {gb(cost.total)} and {place.name} has {gb(place.memory)}; what breaks it is "
        f"{breaks} ({listed})"
    )


def _remedy(ask: Ask, cost: Cost, model: Model, place: Hardware) -> str:
    """Try what a person would try, the mildest first, and name the first that fits."""
    thin = replace(ask, work=replace(ask.work, checkpointing=True, blocks=1))
    low_rank = _lora_of(ask.block)
    tries: list[tuple[str, Ask, dict[str, Any]]] = [
        (f"{ask.name}.trainer: gradient_checkpointing: true, per_device_train_batch_size: 1", thin, {})
    ]
    if low_rank is not None and low_rank.save:
        saved = ", ".join(low_rank.save)
        fewer: dict[str, Any] = {"save": [], "rows": "new" if model.rows is not None else "none"}
        words = f"rows: new instead of save: [{saved}]" if model.rows is not None else f"leave out save: [{saved}]"
        tries = [(words, ask, fewer), tries[0], (f"{words}, and {tries[0][0]}", thin, fewer)]
    for words, changed, changes in tries:
        try:
            needed = _own(changed, model, place, **changes).total
        except Refusal:
            continue
        if needed <= place.memory:
            return f"{words}: {advice.gb(needed)}"
    if low_rank is None:
        return "train a LoRA instead: techniques: [{kind: lora}]; `lingraft plan` compares them"
    return f"4-bit weights or a smaller model: the weights alone take {advice.gb(cost.weights)}; see `lingraft plan`"
