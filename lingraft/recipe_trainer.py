"""What a `trainer:` block may hold: the keys and types that transformers (or trl) declares, checked before a run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from lingraft.problems import Findings, Refusal

# Numbers of which zero or less would end in a traceback, or in a run that trains nothing.
_POSITIVE = {
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "learning_rate",
    "logging_steps",
    "eval_steps",
    "save_steps",
}
_OURS = {"wsd"}  # names beside transformers' own: train/arguments.py knows them


def check_trainer(
    trainer: Mapping[str, Any], stage: str, findings: Findings, path: Path | None, method: str | None = None
) -> None:
    """Note every key that does not exist (`recipe-invalid`) and every value that its key cannot take."""
    if not trainer:
        return
    _check_trackers(trainer, stage, findings)
    types = _types(None)
    if method is not None and set(trainer) - set(types):
        types = {**_types(method), **types}
    for key, value in trainer.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            wrong = "transformers.TrainingArguments has no such argument" + (
                f"; did you mean {near[0]!r}?" if near else ""
            )
        else:
            wrong = _wrong(key, types[key], value)
        if wrong:
            findings.problem(
                "recipe-invalid", f"{stage}.trainer.{key}: {wrong}", f"mend {stage}.trainer.{key} in the recipe", path
            )


@cache
def _types(method: str | None) -> dict[str, Any]:
    """Return the settings by name with their types: transformers' own, or those of one of trl's methods."""
    if method is not None:
        from lingraft.train.prefer import settings_of

        return settings_of(method)
    from transformers import TrainingArguments

    # warmup_ratio left TrainingArguments in transformers 5, not the recipes that people have; the loop translates it.
    found = {**get_type_hints(TrainingArguments), "warmup_ratio": float}
    return {name: kind for name, kind in found.items() if name != "output_dir" and not name.startswith("_")}


def _wrong(key: str, kind: Any, value: Any) -> str:
    """Say what is wrong with a value, or nothing."""
    names = [str(one.value) for part in get_args(kind) if _is_enum(part) for one in part]
    if names and isinstance(value, bool):
        return f"YAML reads this as {value!r}, and text is due: put it in quotes"
    if names and str(getattr(value, "value", value)) not in {*names, *_OURS}:
        return f"{value!r} is none of {', '.join(names)}"
    try:
        read = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        return f"{value!r} does not do: {'; or '.join(dict.fromkeys(str(item['msg']) for item in error.errors()))}"
    except PydanticSchemaGenerationError:
        return ""  # a type that only its library knows
    if key in _POSITIVE and read is not None and not read > 0:
        return f"a number above 0 is due, not {value!r}"
    if key == "warmup_ratio" and not 0 <= read < 1:
        return f"a share of the steps from 0 to 1 is due, not {value!r}; a number of steps is warmup_steps"
    return ""


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _check_trackers(trainer: Mapping[str, Any], stage: str, findings: Findings) -> None:
    from lingraft.train import trackers

    try:
        trackers.require(trainer, stage)
    except Refusal as refusal:
        findings.absorb(refusal)
