"""Continued pre-training on plain text: ``lingraft pretrain RECIPE``."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from lingraft.data.make import Order
from lingraft.data.prepare import prepare as prepare_data
from lingraft.models import load_tokenizer
from lingraft.train.loop import train
from lingraft.train.sources import protected, refuse_unoffered
from lingraft.train.stage import Examples, Stage


def run(stage: Stage) -> dict[str, Any]:
    """Train on every token of the stage's texts; return what `loop.train` returns."""
    return train(stage, prepare(stage, load_tokenizer(stage.base)))


def prepare(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Read and pack the stage's texts. Errors: `not-found`, `data-invalid` by file and line."""
    refuse_unoffered(stage.block, stage.name, "augment")
    order = Order(stage.block, "documents", stage.seed, protected=protected(stage.recipe))
    ready = prepare_data(order, tokenizer, stage.findings)
    return Examples(ready.train, ready.validation, tokenizer)
