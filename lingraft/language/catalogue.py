"""Templates in two languages: "{0} does not exist" → "{0} 不存在", and how a finished text finds its template.

A text matches a template when its literal parts appear in order; of several, the one with the most literal characters
wins. What stands in a hole is translated too where it is itself a sentence of the catalogue (a reason inside a
message), and else stays as it is: a path, a tensor's name, a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

HOME = Path(__file__).parent / "zh"
HOLE = re.compile(r"\{\d+\}")
KEY = re.compile(r"[\w.\-]+")
DEPTH = 5  # sentences inside sentences
SHORT = 8  # letters of literal text; with fewer, a template fits too much


@dataclass(frozen=True)
class Catalogue:
    """English templates and what they become."""

    entries: Mapping[str, str]
    short: int = SHORT

    @cached_property
    def _with_holes(self) -> list[tuple[str, list[str]]]:
        """The templates that have holes with their literal parts, those with the most literal text first."""
        split = [(template, HOLE.split(template)) for template in self.entries if HOLE.search(template)]
        return sorted(split, key=lambda item: -sum(map(len, item[1])))

    def translate(self, text: str, depth: int = DEPTH) -> str:
        """Return ``text`` in the other language, or itself."""
        known = self.entries.get(text)
        if known is not None or not depth:
            return known or text
        for template, parts in self._with_holes:
            values = _holes(text, parts)
            if values is None:
                continue
            told = [self._inner(value, depth) for value in values]
            if sum(map(len, parts)) >= self.short or not _left(values, told):
                return _filled(self.entries[template], told)
        key, colon, reason = text.partition(": ")
        if colon and KEY.fullmatch(key):  # sft.length: what is wrong there
            there = self.translate(reason, depth - 1)
            return text if there == reason else f"{key}：{there}"
        return text

    def _inner(self, value: str, depth: int) -> str:
        return self.translate(value, depth - 1) if " " in value.strip() else value


def _holes(text: str, parts: list[str]) -> list[str] | None:
    """Return what stands between a template's literal parts in a text, or None where it does not fit."""
    if not (text.startswith(parts[0]) and text.endswith(parts[-1]) and all(part in text for part in parts)):
        return None
    found = re.fullmatch("(.+?)".join(map(re.escape, parts)), text, re.DOTALL)
    return list(found.groups()) if found else None


def _left(values: list[str], told: list[str]) -> bool:
    """Tell whether a hole holds several words that nobody has translated: a sentence that only looks alike."""
    return any(" " in value and value == after for value, after in zip(values, told, strict=True))


def _filled(template: str, values: list[str]) -> str:
    return HOLE.sub(lambda hole: values[int(hole[0][1:-1])], template)


@cache
def shipped(*names: str, short: int = SHORT) -> Catalogue:
    """Return the catalogue that comes with lingraft: the files named, or everything that is said in messages."""
    files = sorted(HOME.glob("*.json")) if not names else [HOME / f"{name}.json" for name in names]
    entries: dict[str, str] = {}
    for file in files:
        if names or file.stem != "summary":
            entries |= json.loads(file.read_text(encoding="utf-8"))
    return Catalogue(entries, short)
