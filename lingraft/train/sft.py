"""Instruction tuning with the loss on answers only: ``lingraft sft RECIPE``."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from lingraft.data.make import Order
from lingraft.data.prepare import prepare as prepare_data
from lingraft.data.templates import resolve
from lingraft.models import load_tokenizer
from lingraft.recipe import Sft
from lingraft.train.loop import train
from lingraft.train.sources import protected
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
    template = resolve(block.template, tokenizer)
    order = Order(block, "conversations", stage.seed, template, block.turns, protected(stage.recipe))
    ready = prepare_data(order, tokenizer, stage.findings)
    return Examples(ready.train, ready.validation, tokenizer, template)
