"""Sequence classification with an encoder or a decoder: ``lingraft classify RECIPE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lingraft.data.contradictions import contradictions
from lingraft.data.describe import histogram, padding_of
from lingraft.data.eda import edas, varied
from lingraft.data.labelled import Labelled, cleaned, labelled
from lingraft.data.text import require_some
from lingraft.models import load_tokenizer
from lingraft.problems import refuse
from lingraft.recipe import Classify, resolve
from lingraft.train.classified import Texts, balanced, task_of
from lingraft.train.loop import train
from lingraft.train.sources import refuse_unoffered, split
from lingraft.train.stage import Examples, Stage

_BATCH = 16  # texts a batch, unless the recipe says otherwise: what the padding share is told for


def run(stage: Stage) -> dict[str, Any]:
    """Train a classifier; return what `loop.train` returns, with accuracy and macro-F1 in its log."""
    return train(stage, prepare(stage, load_tokenizer(stage.base)))


def prepare(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Read and tokenise the labelled texts; texts longer than ``length`` are cut and told.

    Errors: `not-found`, `data-invalid` by file and line, and where there are fewer than two classes.
    """
    block = stage.block
    assert isinstance(block, Classify)
    refuse_unoffered(block, stage.name, "mix")
    variants = edas(block.augment, f"{stage.name}.augment")
    given = [block.data] if isinstance(block.data, str) else list(block.data or [])
    items = labelled([resolve(path) for path in given], stage.findings)
    rows = len(items)
    items, told = cleaned(items, block.clean)
    require_some(bool(items), given, "cleaning left nothing of it")
    held: list[Labelled] = []
    if isinstance(block.validation, str):
        held = labelled([resolve(block.validation)], stage.findings)
    elif block.validation is not None:
        items, held = split(items, block.validation, stage.seed, resolve(given[0]))
    names = sorted({item.label for item in items}, key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0, n))
    strange = next((item for item in held if item.label not in names), None)
    if len(names) < 2 or strange is not None:
        what = (
            f"{given[0]} has one class only"
            if strange is None
            else (f"{strange.source}: class {strange.label!r} is not among the training texts")
        )
        refuse("data-invalid", what, "give texts of every class to train on", given[0])
    _warn_cut(stage, tokenizer, items)
    added = []
    for by in variants:
        items, one = varied(items, by, stage.seed)
        added.append(one.as_json())
    whole = _texts(items, names, tokenizer, block.length)
    whole.stats.update(
        {
            "rows_in": rows - len(held) * isinstance(block.validation, float),
            "clean": [asdict(t) for t in told],
            "augment": added,
        }
    )
    weights = balanced(whole.classes, len(names)) if block.class_weights == "balanced" else None
    task = task_of(names, _padding(tokenizer), weights)
    return Examples(whole, _texts(held, names, tokenizer, block.length) if held else None, tokenizer, task=task)


def _texts(items: Sequence[Labelled], names: Sequence[str], tokenizer: Any, length: int) -> Texts:
    ids = tokenizer([i.text for i in items], truncation=True, max_length=length, verbose=False)["input_ids"]
    classes = tuple(names.index(item.label) for item in items)
    tokens = sum(map(len, ids))
    stats = {
        "rows_in": len(items),
        "rows_out": len(ids),
        "tokens": tokens,
        "supervised_tokens": len(ids),
        "length": length,
        "classes": dict(zip(names, np.bincount(classes, minlength=len(names)).tolist(), strict=True)),
        "padding_share": padding_of([len(i) for i in ids], _BATCH),
        "lengths": histogram([len(i) for i in ids], length),
        "contradictions": contradictions((i.text, i.label, i.source) for i in items),
        "examples": [f"{item.text} ⟦{item.label}⟧" for item in items[:5]],
    }
    return Texts(tuple(map(tuple, ids)), classes, stats)


def _warn_cut(stage: Stage, tokenizer: Any, items: Sequence[Labelled]) -> None:
    limit = stage.block.length
    lengths = [len(ids) for ids in tokenizer([i.text for i in items], verbose=False)["input_ids"]]
    over = [item for item, n in zip(items, lengths, strict=True) if n > limit]
    if over:
        message = f"{len(over)} of {len(items)} texts are longer than {limit} tokens and lose their end"
        stage.findings.warn("data-invalid", f"{message}, the first {over[0].source}", "raise `length`", over[0].source)


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if found is None:
        refuse("tokenizer-mismatch", "the tokenizer has neither a padding nor an end token", "add one to it")
    return int(found)
