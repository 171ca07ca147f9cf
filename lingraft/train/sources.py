"""What stages share about their data: settings they do not offer, files that must not be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingraft.problems import refuse
from lingraft.recipe import Data


def protected(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the held-out texts that a recipe evaluates on."""
    found = (recipe.get("evaluate") or {}).get("text")
    return (found,) if isinstance(found, str) else ()


def refuse_unoffered(block: Data, stage: str, *keys: str) -> None:
    """Refuse (`recipe-invalid`) settings that a stage would otherwise pass over in silence."""
    for key in keys:
        if getattr(block, key):
            refuse("recipe-invalid", f"{stage}.{key}: this stage does not offer it", f"remove {stage}.{key}")
