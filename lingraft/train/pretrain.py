"""Continued pre-training on plain text: ``lingraft pretrain RECIPE``."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from lingraft.data.pack import pack
from lingraft.data.text import documents
from lingraft.data.tokens import of_documents
from lingraft.models import load_tokenizer
from lingraft.train.loop import train
from lingraft.train.sources import gather, refuse_unoffered
from lingraft.train.stage import Examples, Stage


def run(stage: Stage) -> dict[str, Any]:
    """Train on every token of the stage's texts; return what `loop.train` returns."""
    return train(stage, prepare(stage, load_tokenizer(stage.base)))


def prepare(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Read and pack the stage's texts. Errors: `not-found`, `data-invalid` by file and line."""
    refuse_unoffered(stage.block, stage.name, "augment")
    length = stage.block.length
    found = gather(stage.block, stage.seed, lambda paths: documents(paths, stage.findings),
                   lambda items: of_documents(items, tokenizer, length))  # fmt: skip
    validation = None
    if found.validation is not None:
        validation = pack(found.validation, tokenizer, length, found.validation_rows)
    return Examples(pack(found.train, tokenizer, length, found.rows, found.cleaned), validation, tokenizer)
