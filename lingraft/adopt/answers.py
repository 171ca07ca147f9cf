"""What came of a question: the value, how it was found, by what margin, and whether it has to be asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lingraft.adopt.family import How, Question
from lingraft.adopt.infer import UNSAID, Outline


@dataclass(frozen=True)
class Candidate:
    """One value that was tried: its bits per character on ``tokens`` tokens, and how far behind the best it lies."""

    name: str
    value: Any
    bits: float
    margin: float
    lost: bool  # clearly
    tokens: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields as the report writes them."""
        return {
            "name": self.name,
            "value": self.value,
            "bits_per_character": _finite(self.bits),
            "margin": _finite(self.margin),
            "loses_clearly": self.lost,
            "tokens": self.tokens,
        }


@dataclass(frozen=True)
class Answer:
    """The value of one question; ``open`` where nothing decides it and nothing usual may be assumed."""

    name: str
    value: Any
    how: How
    source: str
    margin: float | None = None
    open: bool = False


@dataclass(frozen=True)
class Decision:
    """Every answer and every candidate that was scored; ``blind`` where the model predicts none of the text."""

    answers: tuple[Answer, ...]
    candidates: tuple[Candidate, ...] = ()
    bits: float | None = None
    blind: bool = False

    def chosen(self) -> dict[str, Any]:
        """Return the answers by name."""
        return {answer.name: answer.value for answer in self.answers}


def answer(outline: Outline, question: Question, met: Sequence[Candidate]) -> Answer:
    """Return the answer to a question after its candidates have met."""
    if not met:
        return unprobed(outline, question)
    equals = [c.value for c in met if not c.lost]
    claim, who = outline.claims.get(question.name, (None, ""))
    if len(equals) == 1:
        return Answer(question.name, equals[0], "probed", "every other value loses clearly", _margin(met, equals[0]))
    if question.name in outline.claims and claim in equals and who != UNSAID:
        return Answer(question.name, claim, "read", f"{who}; the probe does not speak against it", _margin(met, claim))
    published = [value for value in _published(outline, question.name) if value in equals]
    if published:
        others = [value for value in equals if value != published[0]]
        return Answer(
            question.name,
            published[0],
            "assumed",
            f"as published; the probe does not tell it from {', '.join(map(str, others))}",
            _margin(met, published[0]),
        )
    return Answer(
        question.name,
        equals[0],
        "assumed",
        f"the usual value; the probe does not tell it from {', '.join(str(v) for v in equals[1:])}",
        _margin(met, equals[0]),
        open=question.asked or len(equals) < len(met),
    )


def unprobed(outline: Outline, question: Question) -> Answer:
    """Return the answer to a question without a probe: as claimed, as published, as usual; or open."""
    first = question.candidates[0]
    if question.name in outline.claims and outline.claims[question.name][0] == first:
        who = outline.claims[question.name][1]
        return Answer(question.name, first, "assumed" if who == UNSAID else "read", who)
    if len(question.candidates) == 1:
        return Answer(question.name, first, "inferred", "nothing else fits the shapes")
    if first in _published(outline, question.name):
        return Answer(question.name, first, "assumed", f"as published with {outline.published[0].name}")
    return Answer(question.name, first, "assumed", "the family's usual value", open=question.asked)


def _published(outline: Outline, name: str) -> list[Any]:
    return [known.head_dim if name == "head_dim" else known.fields.get(name) for known in outline.published]


def _margin(met: Sequence[Candidate], value: Any) -> float | None:
    """Return how far the next best other value lies behind this one in bits per character (below zero: ahead)."""
    own = next(c for c in met if c.value == value)
    return _finite(min(c.margin for c in met if c.value != value) - own.margin)


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
