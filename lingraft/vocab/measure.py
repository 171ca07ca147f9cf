"""Measure tokenizers on a text: tokens per character, characters per token, share of byte tokens.

Any number of tokenizers by path (a .model file, a tokenizer.json, a directory), as a table, JSON or a picture, so that
a grown tokenizer can be held against its base and against others on the user's own text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers

from lingraft.language.help import cells
from lingraft.problems import refuse
from lingraft.vocab.extend_bpe import is_byte_bpe
from lingraft.vocab.learn_bpe import to_bytes
from lingraft.vocab.unite import tokenizer_file
from lingraft.weights.hf import read_json

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Measured:
    """What one tokenizer makes of a text; ``byte_share`` counts tokens that are no whole character."""

    name: str
    size: int
    tokens: int
    characters: int
    tokens_per_character: float
    characters_per_token: float
    byte_share: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(path: Path, texts: Iterable[str], name: str | None = None) -> Measured:
    """Measure the tokenizer at ``path``; newlines count as characters, special tokens are not added.

    Errors: `not-found`, `unknown-format`, `tokenizer-mismatch`.
    """
    size, cut = _opened(tokenizer_file(path))
    tokens = characters = partial = 0
    for text in texts:
        pieces = cut(text)
        tokens += len(pieces)
        characters += len(text)
        partial += sum(pieces)
    return Measured(
        name or path.name,
        size,
        tokens,
        characters,
        tokens / max(1, characters),
        characters / max(1, tokens),
        partial / max(1, tokens),
    )


def tokens_per_character(tokenizer: tokenizers.Tokenizer, texts: Iterable[str]) -> float:
    """Return how many tokens a character of ``texts`` takes (newlines count, special tokens are not added)."""
    tokens = characters = 0
    for text in texts:
        tokens += len(tokenizer.encode(text, add_special_tokens=False).ids)
        characters += len(text)
    return tokens / max(1, characters)


def table(rows: Sequence[Measured]) -> str:
    """Return the measurements as a table for a terminal."""
    lines = [("tokenizer", "pieces", "tokens/char", "characters/token", "byte tokens")]
    lines += [
        (
            row.name,
            f"{row.size:,}",
            f"{row.tokens_per_character:.3f}",
            f"{row.characters_per_token:.2f}",
            f"{row.byte_share:.1%}",
        )
        for row in rows
    ]
    return aligned(lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns two spaces apart, the first flush left, the others right."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    gaps = [[" " * (width - cells(cell)) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(
        "  ".join([row[0] + gap[0], *(g + cell for g, cell in zip(gap[1:], row[1:], strict=True))])
        for row, gap in zip(rows, gaps, strict=True)
    )


def picture(rows: Sequence[Measured], out: Path, kind: str | None = None) -> None:
    """Draw tokens per character, byte tokens apart, as horizontal bars; ``kind`` is png or svg (None: by ``out``)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [row.name for row in rows]
    broken = [row.tokens_per_character * row.byte_share for row in rows]
    whole = [row.tokens_per_character - part for row, part in zip(rows, broken, strict=True)]
    axes.barh(names, whole, color="#2a6f97", label="whole pieces")
    bars = axes.barh(names, broken, left=whole, color="#e07a5f", label="parts of characters (bytes)")
    axes.bar_label(bars, [f"{row.tokens_per_character:.3f}" for row in rows], padding=4)
    axes.set_xlabel("tokens per character")
    axes.set_xlim(0, 1.15 * max(row.tokens_per_character for row in rows))
    axes.invert_yaxis()
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(out, dpi=150, format=kind)


def _opened(file: Path) -> tuple[int, Callable[[str], list[bool]]]:
    """Return a tokenizer's size, and a function that cuts a text and tells of each token whether it is bytes."""
    if file.suffix == ".model":
        import sentencepiece

        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            refuse("tokenizer-mismatch", f"{file} is not a SentencePiece model: {error}", "fetch it again", file)
        return model.get_piece_size(), lambda text: [model.is_byte(i) for i in model.encode(text)]
    try:
        fast = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        refuse("tokenizer-mismatch", f"{file} cannot be loaded: {error}", "fetch the tokenizer again", file)
    is_part = _is_part if is_byte_bpe(read_json(file)) else lambda token: _BYTE.fullmatch(token) is not None
    return fast.get_vocab_size(), lambda text: list(map(is_part, fast.encode(text, add_special_tokens=False).tokens))


def _is_part(token: str) -> bool:
    try:
        to_bytes(token).decode()
    except UnicodeDecodeError:
        return True
    return False
