"""Sequence classification with an encoder or a decoder: ``lingraft classify RECIPE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lingraft.data.contradictions import contradictions
from lingraft.data.describe import histogram, padding_of, spread
from lingraft.data.eda import edas, varied
from lingraft.data.gather import Gathered, gather
from lingraft.data.labelled import Labelled, labelled
from lingraft.models import load_tokenizer
from lingraft.problems import refuse
from lingraft.recipe import Classify
from lingraft.train.classified import Texts, balanced, task_of
from lingraft.train.loop import train
from lingraft.train.sources import protected, refuse_unoffered
from lingraft.train.stage import Examples, Stage

_BATCH = 16  # texts a batch, unless the recipe says otherwise


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
    found = gather(labelled, block, stage.seed, protected(stage.recipe), stage.findings)
    items, names = found.train, _classes(found, block)
    added = []
    for by in variants:
        items, one = varied(items, by, stage.seed)
        added.append(one.as_json())
    train_on = _texts(items, names, tokenizer, stage)
    train_on.stats.update({**found.told, "augment": added})
    weights = balanced(train_on.classes, len(names)) if block.class_weights == "balanced" else None
    check_on = _texts(found.held, names, tokenizer, stage) if found.held else None
    return Examples(train_on, check_on, tokenizer, task=task_of(names, _padding(tokenizer), weights))


def _classes(found: Gathered[Labelled], block: Classify) -> list[str]:
    """Return the names of the classes, numbers in their order. Error: `data-invalid`."""
    names = sorted({i.label for i in found.train}, key=lambda n: (not n.isdecimal(), int(n) if n.isdecimal() else 0, n))
    strange = next((item for item in found.held if item.label not in names), None)
    if len(names) < 2 or strange is not None:
        where = block.data if isinstance(block.data, str) else ", ".join(block.data or [])
        what = (
            f"{where} has one class only"
            if strange is None
            else f"{strange.source}: class {strange.label!r} is not among the training texts"
        )
        refuse("data-invalid", what, "give texts of every class to train on", where)
    return names


def _texts(items: Sequence[Labelled], names: Sequence[str], tokenizer: Any, stage: Stage) -> Texts:
    limit = stage.block.length
    whole = tokenizer([i.text for i in items], verbose=False)["input_ids"]
    over = [place for place, found in enumerate(whole) if len(found) > limit]
    if over:
        first = items[over[0]].source
        message = f"{len(over)} of {len(items)} texts are longer than {limit} tokens and lose their end"
        stage.findings.warn("data-invalid", f"{message}, the first {first}", "raise `length`", first)
        cut = tokenizer([items[i].text for i in over], truncation=True, max_length=limit, verbose=False)["input_ids"]
        for place, ids in zip(over, cut, strict=True):
            whole[place] = ids
    number = {name: i for i, name in enumerate(names)}
    classes = tuple(number[item.label] for item in items)
    lengths = [len(found) for found in whole]
    stats = {
        "rows_in": len(items),
        "rows_out": len(items),
        "length": limit,
        "tokens": sum(lengths),
        "supervised_tokens": len(items),  # the loss is on one label a text
        "padding_share": padding_of(lengths, int(stage.block.trainer.get("per_device_train_batch_size", _BATCH))),
        "lengths": histogram(lengths, limit),
        "cut": len(over),
        "classes": dict(zip(names, np.bincount(classes, minlength=len(names)).tolist(), strict=True)),
        "contradictions": contradictions((i.text, i.label, i.source) for i in items),
        "examples": [f"{tokenizer.decode(whole[i])} ⟦{items[i].label}⟧" for i in spread(len(items))],
    }
    return Texts(tuple(map(tuple, whole)), classes, stats)


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if found is None:
        refuse("tokenizer-mismatch", "the tokenizer has neither a padding nor an end token", "add one to it")
    return int(found)
