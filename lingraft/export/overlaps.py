"""Added tokens that llama.cpp cuts otherwise than transformers: told, since no way of writing them mends it.

transformers takes the added token that begins first, the longest of those (Aho-Corasick, leftmost-longest).
llama.cpp takes the longest token of the whole text first, wherever it stands, then the next (llama-vocab.cpp,
tokenizer_st_partition; among equally long ones the order is its sort's). Both agree unless two tokens overlap:
没有 and 有关 in 没有关系. `lingraft vocab` learns no such pairs; a tokenizer from elsewhere may hold some.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from lingraft.problems import Findings


def conflicts(words: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (left, right, text) for every two tokens whose overlap ``text`` the two cut differently.

    That is so where the left one ends with the beginning of the right one, and the right one is at least as long.
    """
    known = set(words)
    starts: dict[str, list[str]] = defaultdict(list)
    for word in known:
        for cut in range(1, len(word)):
            starts[word[:cut]].append(word)
    found = []
    for left in sorted(known):
        for cut in range(1, len(left)):
            shared = left[cut:]
            for right in starts.get(shared, ()):
                if right != left and len(right.encode()) >= len(left.encode()):
                    found.append((left, right, left + right[len(shared) :]))
    return found


def added_words(description: Mapping[str, Any]) -> list[str]:
    """Return the added tokens of a tokenizer.json that match inside text: not special, of two characters or more."""
    return [
        str(item["content"])
        for item in description.get("added_tokens") or ()
        if not item.get("special") and len(str(item["content"])) > 1
    ]


def warn(description: Mapping[str, Any], where: str, findings: Findings) -> int:
    """Warn (`tokenizer-mismatch`) where two added tokens overlap so; return how many pairs do."""
    found = conflicts(added_words(description))
    if found:
        left, right, text = found[0]
        findings.warn(
            "tokenizer-mismatch",
            f"{where}: {len(found):,} pairs of added tokens overlap, and where they "
            f"meet llama.cpp takes the longer one, transformers the left one: {text!r} is {left} + "
            f"{text[len(left) :]} there, and may be {text[: len(text) - len(right)]} + {right} here",
            "such texts are still read, with other tokens than in training; `lingraft serve` on the "
            "directory instead of the file cuts as trained, and `lingraft vocab` learns no such pairs",
            where,
        )
    return len(found)
