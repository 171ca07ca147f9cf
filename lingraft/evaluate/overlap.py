"""Was the held-out text seen in training? The share of its n-grams that also stand in the training text.

A unit is a Han character or a word of other scripts; punctuation and case do not count. 13-grams, as in Brown et al.
2020, "Language models are few-shot learners", appendix C. `evaluate --train FILE…`, and every run of a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft.data.units import UNIT
from lingraft.evaluate.cache import remembered
from lingraft.evaluate.text import digest
from lingraft.evaluate.training import files_of, texts_of

N = 13
NAMED = 10


def contamination(heldout: Sequence[str], training: Iterable[str], n: int = N) -> dict[str, Any]:
    """Return {"share", "n", "ngrams", "documents": how many have a common n-gram, "first": their numbers}.

    ``share`` is None where no document is n units long. Memory is bounded by the held-out text; the training text
    streams by.
    """
    told: dict[str, Any] = contaminations({"text": heldout}, training, n)["text"]
    return told


def contaminations(heldout: Mapping[str, Sequence[str]], training: Iterable[str], n: int = N) -> dict[str, Any]:
    """Return the same for several held-out texts by name, reading the training text once."""
    mine = {name: [grams(text, n) for text in texts] for name, texts in heldout.items()}
    wanted = set().union(*(one for texts in mine.values() for one in texts))
    seen: set[int] = set()
    for text in training:
        seen |= wanted & grams(text, n)
    return {name: _told(texts, seen, n) for name, texts in mine.items()}


def _told(texts: Sequence[set[int]], seen: set[int], n: int) -> dict[str, Any]:
    own: set[int] = set().union(*texts)
    touched = [number for number, one in enumerate(texts) if one & seen]
    return {
        "share": len(own & seen) / len(own) if own else None,
        "n": n,
        "ngrams": len(own),
        "documents": len(touched),
        "first": touched[:NAMED],
    }


def contamination_of_files(heldout: Mapping[str, Sequence[str]], training: Sequence[Path]) -> dict[str, Any]:
    """Return what the training files hold of every held-out text, from the cache where that was counted before.

    Errors: `not-found`, `unreadable` of the training files.
    """
    files = files_of(training)
    depends = [N, {name: digest(texts) for name, texts in heldout.items()}, [_digest(file) for file in files]]
    told = remembered("overlap", depends, lambda: contaminations(heldout, texts_of(files)))
    return {**told, "files": [str(file) for file in files]}


def grams(text: str, n: int) -> set[int]:
    """Return the n-grams of a text, by hash (stable within a process)."""
    units = [unit.lower() for unit in UNIT.findall(text)]
    return {hash(tuple(units[i : i + n])) for i in range(len(units) - n + 1)}


def _digest(file: Path) -> str:
    return str(blake3(max_threads=blake3.AUTO).update_mmap(str(file)).hexdigest())
