"""Measure tokenizers on a text: tokens per character, characters per token, share of byte tokens."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer


def tokens_per_character(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Return how many tokens a character of ``texts`` takes (newlines count, special tokens are not added)."""
    tokens = characters = 0
    for text in texts:
        tokens += len(tokenizer.encode(text, add_special_tokens=False).ids)
        characters += len(text)
    return tokens / max(1, characters)
