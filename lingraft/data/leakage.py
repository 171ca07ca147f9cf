"""Keep held-out text out of the training text: whatever shares a run of words with it goes.

Runs of 13, as in Brown et al. 2020, "Language models are few-shot learners", appendix C; a unit is a Han character or a
word of other scripts, punctuation and case do not count. Of a plain text the lines that hold such a run are cut;
conversations, preferences and labelled texts go as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lingraft.data.clean import Item, Readable, Told, kept, text_of
from lingraft.data.text import Document
from lingraft.data.units import UNIT
from lingraft.problems import refuse

Hashes = npt.NDArray[np.uint64]
_PRIME = 0x9E3779B97F4A7C15


class HeldOut:
    """The runs of held-out texts; memory is eight bytes a character of them."""

    def __init__(self, texts: Iterable[str], n: int) -> None:
        self.n = n
        self.runs = np.unique(np.concatenate([np.zeros(0, np.uint64), *(_runs(_units(t)[0], n) for t in texts)]))

    def leaked(self, text: str) -> list[tuple[int, int]]:
        """Return the [start, end) characters of ``text`` that stand in a held-out text, too."""
        units, spans = _units(text)
        where = np.flatnonzero(np.isin(_runs(units, self.n), self.runs))
        return [(spans[i][0], spans[i + self.n - 1][1]) for i in where.tolist()]


def guard(late: Mapping[str, Any], held: Iterable[Readable]) -> HeldOut:
    """Return what must not be trained on. Error: `recipe-invalid` where none of it is long enough to tell."""
    found = HeldOut(map(text_of, held), late["n"])
    if not len(found.runs):
        refuse(
            "recipe-invalid",
            f"clean: leakage finds nothing held out that is {found.n} words long",
            "give `validation`, `evaluate.text`, or {step: leakage, against: PATH}",
        )
    return found


def without(items: Iterable[Item], held: HeldOut, told: Told) -> Iterator[Item]:
    """Yield the items without what leaked, counting removed items and changed documents."""
    return kept((item, _without(item, held, told)) for item in items)


def _without(item: Any, held: HeldOut, told: Told) -> Any:
    told.rows_in += 1
    spans = held.leaked(text_of(item))
    if not spans:
        return item
    if not isinstance(item, Document):
        told.removed += 1
        told.show(text_of(item))
        return None
    text = _without_lines(item.text, spans)
    told.changed += 1
    told.removed += not text.strip()
    told.show(item.text[item.text.rfind("\n", 0, spans[0][0]) + 1 :].split("\n", 1)[0])
    return replace(item, text=text) if text.strip() else None


def _without_lines(text: str, spans: list[tuple[int, int]]) -> str:
    left, at = [], 0
    for start, end in spans:
        first = text.rfind("\n", 0, start) + 1
        last = text.find("\n", end)
        left.append(text[at : max(at, first)])
        at = max(at, len(text) if last < 0 else last + 1)
    return "".join([*left, text[at:]])


def _units(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    found = list(UNIT.finditer(text))
    return [m[0].lower() for m in found], [m.span() for m in found]


def _runs(units: list[str], n: int) -> Hashes:
    """Return a hash of every run of ``n`` units, uint64 [units - n + 1]."""
    codes = np.array([hash(u) & 0xFFFFFFFFFFFFFFFF for u in units], dtype=np.uint64)
    count = max(0, len(codes) - n + 1)
    runs = np.zeros(count, dtype=np.uint64)
    for at in range(n):
        runs = runs * np.uint64(_PRIME) + codes[at : at + count]
    return runs
