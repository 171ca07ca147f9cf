"""What stages share about their data: settings they do not offer, rows held out, files that must not be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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


def split(items: list[Any], share: float, seed: int, path: Path) -> tuple[list[Any], list[Any]]:
    """Hold out a random ``share`` of the items (at least one), keeping the order of both sides."""
    count = max(1, round(len(items) * share))
    if not 0 < share < 1 or count >= len(items):
        refuse(
            "data-invalid",
            f"{path}: a validation share of {share:g} of {len(items)} rows leaves nothing to "
            f"{'train on' if share > 0 else 'validate with'}",
            "give more data, a smaller share, or a path",
            path,
        )
    chosen = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    return ([x for i, x in enumerate(items) if i not in chosen], [x for i, x in enumerate(items) if i in chosen])
