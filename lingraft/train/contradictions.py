"""Inputs that stand in the data more than once with different answers: no training can satisfy both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_EXAMPLES = 5


def contradictions(rows: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Return {"inputs": how many, "examples": where the second answer stands} of (input, answer, source) rows."""
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for asked, answer, source in rows:
        key = " ".join(asked.split())
        if first.setdefault(key, answer) != answer:
            found.setdefault(key, source)
    return {"inputs": len(found), "examples": list(found.values())[:_EXAMPLES]}
