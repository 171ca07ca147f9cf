"""The pre-tokenizers that GGUF names in one word (`tokenizer.ggml.pre`), spelled out as tokenizer.json does.

llama.cpp keeps these splits in its source (llama-vocab.cpp) and a file only names one; Hugging Face keeps them in
the file. Both directions go through this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
ENDING = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"\p{N}{1,3}" + ENDING
QWEN2 = CONTRACTIONS + r"\p{N}" + ENDING
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(regex: str) -> dict[str, Any]:
    isolated = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [isolated, _bytes(use_regex=False)]}


GPT2 = _bytes(use_regex=True)
DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]}
# The first name of each split is the one that is written.
SPLITS: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    (GPT2, ("gpt-2", "phi-2", "mpt", "olmo", "default")),
    (DIGITS, ("smollm", "starcoder", "refact", "command-r", "codeshell")),
    (_split(LLAMA3), ("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe", "falcon3")),
    (_split(QWEN2), ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez")),
    (_split(GPT4O), ("gpt-4o", "llama4")),
    (_split(TEKKEN), ("tekken",)),
)
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})  # a word that is a piece needs no merges
NFC = frozenset({"qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"})


def pre_tokenizer(name: str) -> dict[str, Any] | None:
    """Return tokenizer.json's pre_tokenizer for a name, or None where lingraft does not know it."""
    return next((split for split, names in SPLITS if name in names), None)


CLASSES = {"GPT2Tokenizer": GPT2, "Qwen2Tokenizer": _split(QWEN2)}  # tokenizers saved as vocab.json + merges.txt


def name_of(pre: Mapping[str, Any] | None, ignore_merges: bool) -> str | None:
    """Return the name of a pre_tokenizer out of tokenizer.json, or None where llama.cpp has none for it."""
    steps = _steps(pre)
    for split, names in SPLITS:
        if _steps(split) == steps:
            # llama.cpp takes whole words under some of the names only
            return next((name for name in names if (name in WHOLE_WORDS) == ignore_merges), None)
    return None


def _steps(pre: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
    """Return a pre_tokenizer's steps without the fields that do not change where text is split."""
    pre = pre or {}
    steps: list[tuple[Any, ...]] = []
    for part in pre.get("pretokenizers", [pre]):
        kind = part.get("type")
        if kind == "ByteLevel":
            steps.append((kind, part.get("add_prefix_space", True), part.get("use_regex", True)))
        elif kind == "Split":
            steps.append((kind, tuple(part["pattern"].items()), part["behavior"], part["invert"]))
        else:
            steps.append((kind, part.get("individual_digits")))
    return steps
