"""What a family of models is to `adopt`: how its tensors are recognised, and which fields they cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Shapes = Mapping[str, tuple[int, ...]]
Fields = Mapping[str, Any]
How = Literal["read", "inferred", "probed", "assumed"]
HEAD_SIZES = (64, 128, 32, 96, 80, 256, 48, 16, 112, 192, 160, 8, 40, 24, 4)  # by how often they are published


@dataclass(frozen=True)
class Question:
    """A field that shapes cannot tell: what may be asked of the weights, the likeliest value first.

    ``asked`` marks a field that is never assumed from a family alone: it changes what every head computes, and no
    value of it is usual.
    """

    name: str
    candidates: tuple[Any, ...]
    asked: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture: `sizes` are the fields that shapes tell, `questions` the others, `config` puts them together.

    ``body`` is the prefix of the backbone's names, ``anchor`` a pattern of one of its names without the prefix that
    every layer has, ``outside`` the first steps of names that stand beside the backbone (heads).
    """

    model_type: str
    body: str
    anchor: str
    outside: tuple[str, ...]
    fits: Callable[[Shapes], bool]
    sizes: Callable[[Shapes], dict[str, Any]]
    questions: Callable[[Shapes], list[Question]]
    architecture: Callable[[Shapes], str]
    config: Callable[[Fields, Fields], dict[str, Any]]
    claims: Callable[[Fields], dict[str, Any]]
    embedding: str
    masked: bool = False  # an encoder: scored by masked tokens


def count_layers(shapes: Shapes, stem: str) -> int:
    """Return how many layers there are: one more than the highest number."""
    depth = stem.count(".")
    numbers = [
        int(name.split(".")[depth]) for name in shapes if name.startswith(stem) and name.split(".")[depth].isdigit()
    ]
    return max(numbers, default=-1) + 1


def claimed_head(width: Any, heads: Any) -> dict[str, int]:
    """Return the head size that a config's width and number of heads come to, where they come to one."""
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads == 0
    return {"head_dim": width // heads} if whole else {}


def labels_of(shapes: Shapes) -> int | None:
    """Return the number of classes of a head for classification, where there is one."""
    heads = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
    return next((shapes[name][0] for name in heads if name in shapes), None)


def head_sizes(*rows: int) -> tuple[int, ...]:
    """Return the head sizes that cut all of these row counts evenly, the likeliest first."""
    fitting = [size for size in HEAD_SIZES if all(count % size == 0 for count in rows)]
    fitting = fitting or [size for size in range(2, 513, 2) if all(count % size == 0 for count in rows)]
    if max(rows) > 256:
        return tuple(size for size in fitting if size >= 16) or tuple(fitting)
    return tuple(sorted(fitting, key=lambda size: abs(max(rows) // size - 4)))  # tiny models have a few small heads
