"""What an answer is worth to GRPO: small verifiable rewards, and functions of your own as ``package.module:function``.

A reward is chosen in a recipe: ``rewards: [{kind: contains, weight: 1}, {kind: han, weight: 0.2}]``. Each is a number
from 0 to 1 for one answer; a function of your own has the signature that trl gives reward functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from lingraft.data.units import HAN
from lingraft.problems import refuse

Score = Callable[[str, str], float]
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]")
_SHORT = 200  # characters up to which an answer counts as short


def contains(answer: str, reference: str) -> float:
    """Return 1 where the reference stands in the answer, whatever the spacing."""
    return float("".join(reference.split()) in "".join(answer.split()))


def number(answer: str, reference: str) -> float:
    """Return 1 where the last number of the answer is the last number of the reference."""
    mine, theirs = _NUMBER.findall(answer), _NUMBER.findall(reference)
    return float(bool(mine and theirs) and mine[-1].replace(",", "") == theirs[-1].replace(",", ""))


def han(answer: str, _reference: str) -> float:
    """Return the share of Han characters among the letters: it rewards answering in Chinese."""
    letters = len(_WORD.findall(answer))
    return len(HAN.findall(answer)) / letters if letters else 0.0


def short(answer: str, _reference: str) -> float:
    """Return 1 up to 200 characters, falling to 0 at twice that."""
    return min(1.0, max(0.0, 2 - len(answer) / _SHORT))


TABLE: dict[str, Score] = {"contains": contains, "number": number, "han": han, "short": short}


def functions(rewards: Sequence[Any]) -> tuple[list[Callable[..., list[float]]], list[float]]:
    """Return the rewards as trl takes them, and their weights. Error: `recipe-invalid` for an unknown one."""
    return [_function(item.kind) for item in rewards], [float(item.weight) for item in rewards]


def _function(kind: str) -> Callable[..., list[float]]:
    if kind in TABLE:
        return _named(kind, TABLE[kind])
    module, colon, name = kind.partition(":")
    try:
        if not colon:
            raise ImportError(f"it is none of {', '.join(TABLE)}")
        found: Callable[..., list[float]] = getattr(import_module(module), name)
        return found
    except (ImportError, AttributeError) as error:
        refuse(
            "recipe-invalid",
            f"prefer.rewards: {kind} cannot be used: {error}",
            f"name one of {', '.join(TABLE)}, or your own as package.module:function",
        )


def _named(kind: str, score: Score) -> Callable[..., list[float]]:
    def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        return [score(_text(made), wanted) for made, wanted in zip(completions, answer, strict=True)]

    reward.__name__ = kind  # trl logs it under this name
    return reward


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
