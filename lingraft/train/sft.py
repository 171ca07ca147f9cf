"""Instruction tuning with the loss on answers only: ``lingraft sft RECIPE``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from lingraft.data.conversations import Conversation, conversations
from lingraft.data.pack import pack, segments_of
from lingraft.data.templates import resolve
from lingraft.data.tokens import Segments
from lingraft.models import load_tokenizer
from lingraft.recipe import Sft
from lingraft.train.contradictions import contradictions
from lingraft.train.loop import train
from lingraft.train.sources import gather, refuse_unoffered
from lingraft.train.stage import Examples, Stage


def run(stage: Stage) -> dict[str, Any]:
    """Train on the answers of the stage's conversations; return what `loop.train` returns."""
    return train(stage, prepare(stage, load_tokenizer(stage.base)))


def prepare(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Read, render and pack the stage's conversations.

    Errors: `not-found`, `data-invalid` by file and line, `nothing-supervised`, and those of the template.
    """
    block = stage.block
    assert isinstance(block, Sft)
    refuse_unoffered(block, stage.name, "augment")
    template = resolve(block.template, tokenizer)
    seen: list[Conversation] = []

    def tokenise(items: list[Conversation]) -> Segments:
        seen.extend(items)
        return segments_of(items, tokenizer, template, block.length, block.turns, stage.findings)

    found = gather(block, stage.seed, lambda paths: conversations(paths, stage.findings), tokenise)
    validation = None
    if found.validation is not None:
        validation = pack(found.validation, tokenizer, block.length, found.validation_rows)
    packed = pack(found.train, tokenizer, block.length, found.rows, found.cleaned)
    twice = contradictions((str(c.messages[:-1]), c.messages[-1].content, c.source) for c in seen)
    return Examples(replace(packed, stats={**packed.stats, "contradictions": twice}), validation, tokenizer, template)
