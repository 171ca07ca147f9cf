"""What pydantic found wrong in a recipe, told by the path and in the words of the person who wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lingraft.problems import Problem


def problems(error: ValidationError, raw: Any, model: type[BaseModel], path: Path | None) -> list[Problem]:
    """Return one problem for every place in ``raw`` that is wrong; where several types would do, each complains."""
    told: dict[str, list[str]] = {}
    for item in error.errors():
        told.setdefault(_where(item, raw), []).append(_message(item, model))
    name = None if path is None else str(path)
    return [
        Problem(
            "recipe-invalid",
            f"{where}: {'; or '.join(dict.fromkeys(messages))}",
            "mend the recipe" if where == "recipe" else f"mend {where} in the recipe",
            name,
        )
        for where, messages in told.items()
    ]


def _where(item: Mapping[str, Any], raw: Any) -> str:
    """Return where a problem lies as the recipe is written, without the types that pydantic tried."""
    parts: list[str] = []
    for part in item["loc"]:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            if item["type"] == "missing":
                parts.append(str(part))
            break
        parts.append(str(part))
    return ".".join(parts) or "recipe"


def _message(item: Mapping[str, Any], model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        known = _siblings(item["loc"], model)
        near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
        trainer = "; transformers' own settings (num_train_epochs, max_steps …) stand under `trainer:`"
        return "unknown key" + (f"; did you mean {near[0]!r}?" if near else trainer if "trainer" in known else "")
    if item["type"] == "missing":
        return "this key is missing"
    if item["type"] == "string_type" and isinstance(item["input"], bool | int | float):
        return f"YAML reads this as {item['input']!r}, and text is due: put it in quotes"
    return str(item["msg"]).removeprefix("Value error, ")


def _siblings(loc: tuple[Any, ...], model: Any) -> list[str]:
    for part in loc[:-1]:
        info = getattr(model, "model_fields", {}).get(part)
        kinds = getattr(info.annotation, "__args__", (info.annotation,)) if info is not None else ()
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(getattr(model, "model_fields", {}))
