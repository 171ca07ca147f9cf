"""How new rows are initialised: the table of starts, and the checkpoint with its matrices grown.

Rows and tokens are two numbers: matrices are padded to a multiple of 64, so that a model may have more rows than
its tokenizer has tokens. Padding rows get the mean of the old rows: finite, and no token ever reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

import torch

from lingraft.problems import refuse
from lingraft.vocab.grown import Grown, Rows
from lingraft.weights.fingerprint import EMBEDDINGS, HEAD
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor, Weights, header

STARTS: Mapping[str, str] = {
    "pieces": "lingraft.vocab.starts.pieces",
    "mean": "lingraft.vocab.starts.mean",
    "random": "lingraft.vocab.starts.random",
    "focus": "lingraft.vocab.starts.focus",
    "omp": "lingraft.vocab.starts.omp",
    "distil": "lingraft.vocab.starts.distil",
}
MULTIPLE = 64
HEAD_BIAS = "lm_head.bias"


def start_of(name: str) -> Callable[[Grown], Rows]:
    """Return the start called ``name``. Error: `recipe-invalid`, naming those there are."""
    if name not in STARTS:
        refuse(
            "recipe-invalid",
            f"vocab.init: {name!r} is not a start; there are {', '.join(STARTS)}",
            "choose one of them",
        )
    return import_module(STARTS[name]).start  # type: ignore[no-any-return]


def rows_for(size: int, old_rows: int) -> int:
    """Return the row count of a vocabulary of ``size`` tokens: a multiple of 64, and never fewer rows than before."""
    return max(old_rows, -(-size // MULTIPLE) * MULTIPLE)


def embedding_name(weights: Weights) -> str:
    """Return the name of the embedding. Error: `config-mismatch` where there is none that we know."""
    found = next((name for name in EMBEDDINGS if name in weights), None)
    if found is None:
        refuse(
            "config-mismatch",
            f"the base has none of {', '.join(EMBEDDINGS)}",
            "name a causal language model whose embedding has one of these names",
        )
    return found


def is_tied(base: Checkpoint) -> bool:
    """Tell whether embedding and head are one matrix."""
    return HEAD not in base.tensors or bool(base.config.get("tie_word_embeddings"))


def grow(base: Checkpoint, rows: Rows, old_size: int, new_size: int) -> Checkpoint:
    """Return the base with its new rows in place, lazily: every other tensor is read when it is written."""
    name = embedding_name(base.tensors)
    count = rows_for(new_size, header(base.tensors, name).shape[0])
    changed = {name: rows.embedding}
    if HEAD in base.tensors:
        changed[HEAD] = rows.embedding if rows.head is None else rows.head
    entries = {key: header(base.tensors, key) for key in base.tensors}
    entries |= {key: _grown(entries[key], new, old_size, count) for key, new in changed.items()}
    if HEAD_BIAS in entries:
        bias = base.tensors[HEAD_BIAS][:old_size].float().mean()
        entries[HEAD_BIAS] = _grown(entries[HEAD_BIAS], bias.expand(new_size - old_size), old_size, count)
    return replace(base, tensors=Lazy(entries), config={**base.config, "vocab_size": count}, side_files=())


def _grown(entry: Entry, new: Tensor, old_size: int, count: int) -> Entry:
    """Return the entry with ``new`` behind its first ``old_size`` rows and mean rows up to ``count``."""

    def read(start: int, stop: int | None) -> Tensor:
        old = entry.read(0, None)[:old_size]
        mean = old.float().mean(0, keepdim=True)
        fill = mean.expand(count - old_size - len(new), *entry.shape[1:])
        whole = torch.cat([old, new.to(entry.dtype), fill.to(entry.dtype)])
        return whole[start : count if stop is None else stop]

    return Entry(entry.dtype, (count, *entry.shape[1:]), read)
