"""Which stages a recipe asks for, in order, and a key of each: a digest of everything that its output depends on.

A stage whose key is the recorded one need not run again. Nothing is loaded or run here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft.recipe import Recipe, Training, resolve

TRAINING = ("pretrain", "sft", "prefer", "classify")


def chain(recipe: Recipe, before: str | None = None) -> list[str]:
    """List the training stages that stand on one another, as far as ``before``; a reward model is no part of it."""
    names = [n for n in ("pretrain", "sft", "prefer") if getattr(recipe, n) is not None]
    names = [n for n in names if n != "prefer" or recipe.prefer is None or recipe.prefer.method != "reward"]
    return names[: names.index(before)] if before in names else names


def merges(recipe: Recipe) -> bool:
    """Tell whether there is anything to merge: the last stages leave adapters, and none that only works live."""
    left = [training_block(recipe, name).leaves for name in chain(recipe)]
    return bool(left) and left[-1] == "adapter"


def stages_of(recipe: Recipe) -> list[str]:
    """List the stages that a recipe asks for, in order."""
    names = [name for name in ("vocab", *TRAINING) if getattr(recipe, name) is not None]
    if merges(recipe):
        names += ["merge", "verify"]
    if recipe.evaluate is not None:
        names.append("evaluate")
    if recipe.export:
        names.append("export")
    return [*names, "report"]


def training_block(recipe: Recipe, name: str) -> Training:
    """Return a training stage's block."""
    block: Training = getattr(recipe, name)
    return block


def key_of(recipe: Recipe, name: str, state: Mapping[str, Any]) -> str:
    """Digest everything a stage's output depends on."""
    names = [*stages_of(recipe), "finished"]
    above = [state.get("stages", {}).get(n, {}).get("key") for n in names[: names.index(name)]]
    block = getattr(recipe, name, None)
    parts = [name, recipe.base, recipe.seed, _dump(block), above, _data_digests(block), _base_mark(recipe.base)]
    return str(blake3(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest())


def _dump(block: Any) -> Any:
    if isinstance(block, list):
        return [_dump(item) for item in block]
    return block.model_dump(mode="json") if hasattr(block, "model_dump") else block


def data_paths(block: Any) -> list[str]:
    """List the files and folders that a block reads."""
    paths: list[str] = []
    for key in ("corpus", "data", "text", "english"):
        value = getattr(block, key, None)
        paths += [value] if isinstance(value, str) else list(value or [])
    paths += [item.path for item in getattr(block, "mix", None) or []]
    validation = getattr(block, "validation", None)
    return [*paths, validation] if isinstance(validation, str) else paths


def _data_digests(block: Any) -> list[str]:
    """Digest a block's data by content: a cache keyed by file name would serve stale text."""
    found = []
    going_on = getattr(block, "continue_", None)
    for name in [*data_paths(block), *([going_on] if going_on else [])]:
        path = resolve(name)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            hasher = blake3(max_threads=blake3.AUTO)
            if file.is_file():
                hasher.update_mmap(str(file))
            found.append(f"{file}:{hasher.hexdigest()}")
    return found


def _base_mark(base: str) -> list[str]:
    """Mark a local base by the names, sizes and times of its files; its bytes are the fingerprint's business."""
    path = Path(base).expanduser()
    if not path.is_dir():
        return []
    return [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in sorted(path.iterdir()) if p.is_file()]
