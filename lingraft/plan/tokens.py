"""How many supervised tokens a recipe's stage will train on: counted on small data, estimated from a sample of large.

Weighed against the number of trained parameters they say where a model could learn its texts by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lingraft.data.text import Document
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Pretrain, Sft, Training, resolve

_SAMPLE = 1000  # conversations that are tokenised
_SAMPLE_CHARACTERS = 2_000_000  # of plain text

Risk = Literal["low", "some", "high"]
# Supervised tokens a trained parameter, each seen once: below the first the risk is high, below the second there is
# some. A rule of thumb: a parameter can hold about two bits of facts (Allen-Zhu & Li 2024, arXiv:2404.05405).
_HIGH, _SOME = 0.02, 0.5
_EPOCHS = 3  # seen more often than this, every text weighs on the risk


@dataclass(frozen=True)
class Supervised:
    """Supervised tokens of one epoch; ``exact`` where all of the data was counted."""

    tokens: int
    exact: bool


def supervised(block: Training, base: Path | None) -> Supervised | None:
    """Count or estimate a stage's supervised tokens; None without data, tokenizer, or a kind known here."""
    if base is None or not isinstance(block, Pretrain | Sft):
        return None
    from lingraft.models import load_tokenizer

    try:
        tokenizer = load_tokenizer(base)
        found = [_count(block, paths, tokenizer) for paths in _sources(block)]
    except Refusal:  # `check` tells what is wrong with data; a plan does without
        return None
    share = 1.0 - (block.validation if isinstance(block.validation, float) else 0.0)
    return Supervised(round(sum(f.tokens for f in found) * share), all(f.exact for f in found))


def risk(tokens: int, epochs: float, trained: int) -> Risk:
    """Say how likely a model is to learn its texts by heart instead of the language."""
    ratio = tokens / max(trained, 1)
    if epochs > _EPOCHS:
        ratio *= _EPOCHS / epochs
    return "high" if ratio < _HIGH else "some" if ratio < _SOME else "low"


def warning(level: Risk, tokens: Supervised, epochs: float, trained: int) -> str:
    """Say it in plain words."""
    about = "" if tokens.exact else "about "
    facts = (
        f"{about}{tokens.tokens:,} supervised tokens, seen {epochs:g} times, against {trained:,} trained "
        f"parameters ({tokens.tokens / max(trained, 1):.2g} a parameter)"
    )
    return {
        "low": f"{facts}: overfitting is unlikely",
        "some": f"{facts}: it may overfit; watch a validation loss (validation: 0.02, early_stopping)",
        "high": f"{facts}: it can learn the texts by heart. Use more text, a smaller r, rows: new instead of a whole "
        "embedding, fewer epochs, and validation with early_stopping",
    }[level]


def _sources(block: Training) -> list[list[Path]]:
    if block.mix:
        return [[resolve(m.path)] for m in block.mix]
    given = [block.data] if isinstance(block.data, str) else list(block.data or [])
    return [[resolve(path) for path in given]]


def _count(block: Training, paths: Sequence[Path], tokenizer: Any) -> Supervised:
    if isinstance(block, Sft):
        return _conversations(block, paths, tokenizer)
    from lingraft.data.files import ROWS, TEXT, expand
    from lingraft.data.prepare import pack_items
    from lingraft.data.text import stream

    sample: list[Document] = []
    seen = 0
    whole = True
    for document in stream(paths, Findings()):
        if seen >= _SAMPLE_CHARACTERS:
            whole = False
            break
        part = document.text[: _SAMPLE_CHARACTERS - seen]
        whole = whole and len(part) == len(document.text)
        sample.append(Document(part, document.source))
        seen += len(part)
    tokens = int(pack_items(sample, tokenizer, block.length).stats["supervised_tokens"])
    if whole:
        return Supervised(tokens, True)
    there = sum(p.stat().st_size for p in expand(paths, TEXT + ROWS) if isinstance(p, Path))
    read = sum(len(d.text.encode()) for d in sample)
    return Supervised(round(tokens * max(1.0, there / max(read, 1))), False)


def _conversations(block: Sft, paths: Sequence[Path], tokenizer: Any) -> Supervised:
    from lingraft.data.conversations import conversations
    from lingraft.data.prepare import pack_items
    from lingraft.data.templates import resolve as resolve_template

    known = conversations(paths, Findings())
    sample = known[:: max(1, len(known) // _SAMPLE)]
    findings = Findings(allow=frozenset({"nothing-supervised"}))
    template = resolve_template(block.template, tokenizer)
    packed = pack_items(sample, tokenizer, block.length, template, block.turns, findings)
    tokens = int(packed.stats["supervised_tokens"])
    return Supervised(round(tokens * len(known) / max(len(sample), 1)), len(sample) == len(known))
