"""Inputs that stand in the data more than once with different answers: no training can satisfy both."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

_EXAMPLES = 5


class Contradictions:
    """Counts them while the data streams by; remembers a few bytes of each input."""

    def __init__(self) -> None:
        self.first: dict[bytes, bytes] = {}
        self.found: dict[bytes, str] = {}

    def add(self, asked: str, answer: str, source: str) -> None:
        """Note one row: what was asked, its answer, and where it stands."""
        key, said = _digest(" ".join(asked.split())), _digest(answer)
        if self.first.setdefault(key, said) != said:
            self.found.setdefault(key, source)

    def as_json(self) -> dict[str, Any]:
        """Return {"inputs": how many, "examples": where the second answer stands}."""
        return {"inputs": len(self.found), "examples": list(self.found.values())[:_EXAMPLES]}


def contradictions(rows: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the same for (input, answer, source) rows."""
    found = Contradictions()
    for row in rows:
        found.add(*row)
    return found.as_json()


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
