"""Was the held-out text seen in training? The share of its n-grams that also stand in the training text.

A unit is a Han character or a word of other scripts; punctuation and case do not count. 13-grams, as in Brown et al.
2020, "Language models are few-shot learners", appendix C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lingraft.evaluate.generate import UNIT
from lingraft.evaluate.text import read_documents

N = 13
NAMED = 10


def contamination(heldout: Sequence[str], training: Iterable[str], n: int = N) -> dict[str, Any]:
    """Return {"share", "n", "ngrams", "documents": the numbers of those with a common n-gram}.

    Memory is bounded by the held-out text; the training text streams by.
    """
    mine = [grams(text, n) for text in heldout]
    wanted = set().union(*mine) if mine else set()
    seen: set[int] = set()
    for text in training:
        seen |= wanted & grams(text, n)
    touched = [number for number, one in enumerate(mine) if one & seen]
    return {"share": len(seen) / len(wanted) if wanted else 0.0, "n": n, "ngrams": len(wanted),
            "documents": len(touched), "first": touched[:NAMED]}  # fmt: skip


def contamination_of_files(heldout: Path, training: Sequence[Path], n: int = N) -> dict[str, Any]:
    """Return the same for a held-out file and the files that were trained on (.txt, or .jsonl with text)."""
    return contamination(read_documents(heldout), (text for path in training for text in read_documents(path)), n)


def grams(text: str, n: int) -> set[int]:
    """Return the n-grams of a text, by hash (stable within a process)."""
    units = [unit.lower() for unit in UNIT.findall(text)]
    return {hash(tuple(units[i : i + n])) for i in range(len(units) - n + 1)}
