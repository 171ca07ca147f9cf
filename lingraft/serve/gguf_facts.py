"""What the llama.cpp engine has to know of a GGUF before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lingraft.weights.gguf_header import read_header


@dataclass(frozen=True)
class Facts:
    """A GGUF's context and rotary base as trained, its vocabulary, and what one token of context takes in memory."""

    context: int
    theta: float
    width: int  # of a head's rotated part
    has_template: bool
    vocabulary: tuple[str, ...]
    token_bytes: int = 0  # keys and values of one token in 16 bits


def read_facts(path: Path) -> Facts:
    """Read a GGUF's header. Errors: those of a damaged file."""
    told = read_header(path).metadata
    family = told.get("general.architecture", "llama")

    def number(key: str, otherwise: float) -> float:
        value = told.get(f"{family}.{key}", otherwise)
        return float(max(value) if isinstance(value, list | tuple) else value)  # some models tell it layer by layer

    heads = number("attention.head_count", 1)
    width = number("rope.dimension_count", number("embedding_length", heads * 64) / heads)
    tokens = told.get("tokenizer.ggml.tokens") or ()
    kept = number("attention.head_count_kv", heads) * number("attention.key_length", width) * number("block_count", 1)
    return Facts(
        int(number("context_length", 4096)),
        number("rope.freq_base", 10000.0),
        int(width),
        bool(told.get("tokenizer.chat_template")),
        tuple(str(token) for token in tokens),
        int(kept * 2 * 2),
    )
