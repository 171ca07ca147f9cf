"""What the llama.cpp engine has to know of a GGUF before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lingraft.weights.gguf_header import read_header


@dataclass(frozen=True)
class Facts:
    """A GGUF's context and rotary base as trained, its vocabulary, and whether it brings a chat template."""

    context: int
    theta: float
    width: int  # of a head's rotated part
    has_template: bool
    vocabulary: tuple[str, ...]


def read_facts(path: Path) -> Facts:
    """Read a GGUF's header. Errors: those of a damaged file."""
    told = read_header(path).metadata
    family = told.get("general.architecture", "llama")

    def number(key: str, otherwise: float) -> float:
        return float(told.get(f"{family}.{key}", otherwise))

    heads = number("attention.head_count", 1)
    width = number("rope.dimension_count", number("embedding_length", heads * 64) / heads)
    tokens = told.get("tokenizer.ggml.tokens") or ()
    return Facts(int(number("context_length", 4096)), number("rope.freq_base", 10000.0), int(width),
                 bool(told.get("tokenizer.chat_template")), tuple(str(token) for token in tokens))  # fmt: skip
