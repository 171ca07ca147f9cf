"""Say before anything is trained what a larger vocabulary would save and need.

    lingraft vocab BASE --corpus FILE… --dry-run [--budget TOKENS]

For a row of sizes: tokens per character with that many pieces, which share of the tokens inference saves, how many
tokens of training until every piece has been met `NEEDED` times, and the parameters added; and the size that
`auto` would take. Nothing is loaded but the tokenizer, and nothing is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from lingraft.problems import Findings
from lingraft.vocab import base_tokenizer
from lingraft.vocab.budget import choose, most, needed
from lingraft.vocab.corpus import sample
from lingraft.vocab.learn import Pieces
from lingraft.vocab.measure import aligned, tokens_per_character
from lingraft.vocab.rows import embedding_name, is_tied
from lingraft.weights import hf
from lingraft.weights.tensors import header

SIZES = (8, 16, 40, 160, 500, 2_000, 8_000, 20_000)


def forecast(
    base: Path, corpus: Sequence[Path], budget: int | None, size: int | None, findings: Findings, seed: int = 42
) -> dict[str, Any]:
    """Return {"tokens_per_character", "corpus_tokens", "budget_tokens", "auto": {"size", "why"}, "sizes": [...]}.

    ``budget`` is in training tokens (None: the corpus once); ``size`` is looked at beside the usual ones.
    Errors: those of reading the corpus and the tokenizer.
    """
    old, text = base_tokenizer.read(base), sample(corpus, findings, seed=seed)
    before = tokens_per_character(old.fast, text.texts)
    tokens = round(before * text.characters)
    chosen, choice = choose(old.learn(text.runs(), most(budget or tokens)), tokens, budget, text.share)
    rows: list[dict[str, Any]] = []
    for wanted in sorted({*SIZES, len(chosen), *([size] if size else [])} - {0}):
        pieces = old.learn(text.runs(), wanted)
        if rows and rows[-1]["size"] == len(pieces):
            break  # the corpus has no more
        needs = max(needed(piece.text) / max(piece.count, 1) for piece in pieces) * tokens * text.share
        after = _after(old, base, pieces, text.texts)
        rows.append(
            {
                "size": len(pieces),
                "tokens_per_character": after,
                "saved": 1 - after / before,
                "tokens_needed": float(f"{needs:.2g}"),
                "met_enough": needs <= (budget or tokens),
                "new_parameters": len(pieces) * _per_row(base),
            }
        )
    return {
        "tokens_per_character": before,
        "corpus_tokens": tokens,
        "budget_tokens": budget or tokens,
        "auto": {"size": choice.size, "why": choice.why},
        "sizes": rows,
    }


def _after(old: base_tokenizer.BaseTokenizer, base: Path, pieces: Pieces, texts: Sequence[str]) -> float:
    """Return tokens per character with the pieces, by encoding the text with the tokenizer that would be written."""
    with tempfile.TemporaryDirectory() as folder:
        old.write(Path(folder), [file for file in [base / "tokenizer.json"] if file.is_file()], pieces)
        return tokens_per_character(tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json"), texts)


def _per_row(base: Path) -> int:
    """Return the parameters that one more token takes; 0 where the path holds a tokenizer alone."""
    if not hf.knows(base):
        return 0
    checkpoint = hf.read(base)
    width = header(checkpoint.tensors, embedding_name(checkpoint.tensors)).shape[1]
    return int(width) * (1 if is_tied(checkpoint) else 2)


def as_text(result: dict[str, Any]) -> str:
    """Return the forecast as a person reads it in a terminal."""
    lines = [("new pieces", "tokens/char", "saved at inference", "training tokens needed", "new parameters")]
    lines.append(("0", f"{result['tokens_per_character']:.3f}", "-", "-", "-"))
    for row in result["sizes"]:
        lines.append(
            (
                f"{row['size']:,}",
                f"{row['tokens_per_character']:.3f}",
                f"{row['saved']:.1%}",
                f"{row['tokens_needed']:,.0f}{'' if row['met_enough'] else '*'}",
                f"{row['new_parameters']:,}",
            )
        )
    notes = [f"* more than the {result['budget_tokens']:,} that training will see"]
    return "\n".join([aligned(lines), *notes, f"auto: {result['auto']['why']}"])
