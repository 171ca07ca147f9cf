"""Where a stage's texts come from: paths or a weighted mixture, and a share or a file held out for validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from lingraft.data.clean import Told, clean, steps_of
from lingraft.data.conversations import Conversation
from lingraft.data.text import Document
from lingraft.data.tokens import Segments, concatenate, mix
from lingraft.problems import refuse
from lingraft.recipe import Data, resolve

Item = TypeVar("Item", Document, Conversation)
Reader = Callable[[Sequence[Path]], list[Item]]
Tokenise = Callable[[list[Item]], Segments]


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Tokens to train on and to validate with, and how many rows were read for each."""

    train: Segments
    rows: int
    validation: Segments | None
    validation_rows: int
    cleaned: tuple[Told, ...] = ()


def gather(block: Data, seed: int, read: Reader[Item], tokenise: Tokenise[Item]) -> Split[Item]:
    """Read, split and tokenise a block's sources, and mix them by weight.

    A share is drawn from every source before anything else touches it; a path is read whole. Errors: those of the
    reader, and `data-invalid` where the share leaves nothing on one side.
    """
    sources = [([resolve(m.path)], m.weight) for m in block.mix] if block.mix else [(_paths(block), 1.0)]
    parts: list[tuple[Segments, float]] = []
    held: list[Item] = []
    rows = 0
    steps = steps_of(block.clean)
    told: list[Told] = []
    for number, (paths, weight) in enumerate(sources):
        items = read(paths)
        if isinstance(block.validation, float | int):
            items, out = split(items, float(block.validation), seed + number, paths[0])
            held += out
        rows += len(items)
        items, told_here = clean(items, steps)
        told += told_here
        if not items:
            refuse("data-invalid", f"{paths[0]}: cleaning left nothing of it", "clean less", paths[0])
        parts.append((tokenise(items), weight))
    if isinstance(block.validation, str):
        held = read([resolve(block.validation)])
    train = mix(parts, seed) if block.mix else concatenate([segments for segments, _ in parts])
    return Split(train, rows, tokenise(held) if held else None, len(held), tuple(told))


def refuse_unoffered(block: Data, stage: str, *keys: str) -> None:
    """Refuse (`recipe-invalid`) settings that a stage would otherwise pass over in silence."""
    for key in keys:
        if getattr(block, key):
            refuse("recipe-invalid", f"{stage}.{key}: this stage does not offer it", f"remove {stage}.{key}")


def split(items: list[Any], share: float, seed: int, path: Path) -> tuple[list[Any], list[Any]]:
    """Hold out a random ``share`` of the items (at least one), keeping the order of both sides."""
    count = max(1, round(len(items) * share))
    if not 0 < share < 1 or count >= len(items):
        refuse("data-invalid", f"{path}: a validation share of {share:g} of {len(items)} rows leaves nothing to "
               f"{'train on' if share > 0 else 'validate with'}", "give more data, a smaller share, or a path",
               path)  # fmt: skip
    chosen = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    return ([x for i, x in enumerate(items) if i not in chosen], [x for i, x in enumerate(items) if i in chosen])


def _paths(block: Data) -> list[Path]:
    given = [block.data] if isinstance(block.data, str) else list(block.data or [])
    return [resolve(path) for path in given]
