"""From a recipe's data block to packed tokens on the disk, or in the cache already: what a training stage calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lingraft.data import cache, store
from lingraft.data.answers import Turns
from lingraft.data.clean import steps_of
from lingraft.data.describe import describe
from lingraft.data.files import ROWS, TEXT, expand
from lingraft.data.make import Order, augmentations_of, given, guarded, make, pieces_of, tell_cuts
from lingraft.data.pack import Blocks, Packed, pack
from lingraft.data.store import Piece
from lingraft.data.tokens import Cuts
from lingraft.problems import Findings
from lingraft.progress import say
from lingraft.recipe import Data, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Ready:
    """Data to train on, and to validate with."""

    train: Packed
    validation: Packed | None


def prepare(order: Order, tokenizer: PreTrainedTokenizerBase, findings: Findings) -> Ready:
    """Return packed data, from the cache where it is there.

    Errors: those of the readers (`not-found`, `unknown-format`, `unreadable`, `data-invalid` by file and line …),
    `recipe-invalid` by path, `nothing-supervised`; `data-invalid` where nothing is left.
    """
    steps = steps_of(order.block.clean)  # what is wrong with a recipe is refused before anything is read
    augmentations_of(order)
    key = cache.key_of(
        [
            order.kind,
            order.seed,
            order.template,
            order.turns,
            _settings(order.block),
            _content(order, guarded(order, steps)),
            cache.tokenizer_mark(tokenizer),
            sorted(findings.allow),
        ]
    )
    folder, known = cache.remembered(key, lambda out: make(order, steps, tokenizer, findings.allow, out))
    report = json.loads((folder / cache.REPORT).read_text(encoding="utf-8"))
    for note in report["allowed"]:
        findings.problem(**note)
    for note in report["warnings"]:
        findings.warn(**note)
    if known:
        say(f"{', '.join(given(order.block))}: {report['train']['tokens']:,} tokens, known from an earlier run")
    validation = _opened(folder, "validation", report) if report["validation"] else None
    return Ready(_opened(folder, "train", report), validation)


def pack_items(
    items: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    template: str = "",
    turns: Turns = "all",
    findings: Findings | None = None,
) -> Packed:
    """Pack a few documents, or conversations by a template's Jinja text, in memory. Error: `nothing-supervised`."""
    findings, cuts = findings or Findings(), Cuts()
    pieces = list(pieces_of(iter(items), tokenizer, length, template, turns, cuts))
    tell_cuts(cuts, length, findings)
    findings.settle()
    return pack_pieces(pieces, tokenizer, length, len(items))


def pack_pieces(pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, length: int, rows: int) -> Packed:
    """Pack what was tokenised already, in memory; ``rows`` is how many texts it came from."""
    segments = store.in_memory(pieces)
    chosen = np.arange(len(segments))
    blocks = pack(segments.lengths, chosen, length)
    return Packed(segments, blocks, describe(segments, chosen, blocks, tokenizer, length, rows))


def _settings(block: Data) -> dict[str, Any]:
    """Return what of a block decides its tokens."""
    keys = {"data", "mix", "clean", "augment", "length", "validation"}
    return block.model_dump(mode="json", include=keys)


def _content(order: Order, protected: Sequence[str]) -> dict[str, Any]:
    kinds = ROWS if order.kind == "conversations" else TEXT + ROWS
    block = order.block
    names = [*given(block), *([block.validation] if isinstance(block.validation, str) else [])]
    found = {name: expand([resolve(name)], kinds) for name in names}
    found |= {f"protected {name}": expand([resolve(name)], TEXT + ROWS) for name in protected}
    return {name: cache.content_of(sources) for name, sources in found.items()}


def _opened(folder: Path, name: str, report: dict[str, Any]) -> Packed:
    with np.load(folder / f"{name}.blocks.npz") as saved:
        blocks = Blocks(saved["members"], saved["edges"])
    return Packed(store.read(folder / f"{name}.arrow"), blocks, report[name])
