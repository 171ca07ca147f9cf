"""Score candidates: bits per character of a short text under the weights, with one config after the other.

The weights are loaded once; every candidate is a model built without memory of its own around the same tensors, so
that a different head size or rotary base costs one pass over a few hundred tokens. A causal model is scored token by
token; an encoder by its masked tokens, one in seven at a time. A text that the model predicts no better than
guessing (a language it never read) says nothing about its config and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from lingraft.adopt.names import LIVE
from lingraft.adopt.opened import in_hf_layout
from lingraft.problems import refuse
from lingraft.weights.tensors import Entry, Tensor

STAGES = (64, 384, 1024)  # tokens of each document: most candidates lose within the first
DOCUMENTS = 4
EVERY = 7  # of an encoder's tokens, one in seven is masked at a time


def probe_text(path: Path | None) -> str:
    """Return the probe text: the user's, or the one that ships with lingraft. Errors: `not-found`, `data-invalid`."""
    if path is None:
        return (files("lingraft") / "text" / "probe.txt").read_text(encoding="utf-8")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        refuse("data-invalid", f"{path} is not UTF-8 text", "give a plain text file", path)
    except OSError as error:
        refuse("not-found", f"{path} cannot be read: {error.strerror}", "check the path", path)
    if not text.strip():
        refuse("data-invalid", f"{path} holds no text", "give a text of a few hundred words", path)
    return text


@dataclass(frozen=True)
class Document:
    """One paragraph of the probe: its token ids, and the characters read after each of them."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    text: str

    def characters(self, length: int) -> int:
        """Return how many characters the first ``length`` ids stand for."""
        return max(self.ends[min(length, len(self.ends)) - 1], 1)

    def bytes(self, length: int) -> int:
        """Return how many UTF-8 bytes the first ``length`` ids stand for."""
        return max(len(self.text[: self.characters(length)].encode("utf-8", "replace")), 1)


def encode(tokenizer: Any, text: str, rows: int, most: int) -> tuple[Document, ...]:
    """Cut a text at blank lines into at most four documents of at most ``most`` tokens, BOS first where there is one.

    A document whose ids the embedding (``rows``) does not have is left out.
    """
    found = [_document(tokenizer, part.strip(), most) for part in text.split("\n\n") if part.strip()]
    return tuple(one for one in found[:DOCUMENTS] if len(one.ids) > 8 and max(one.ids) < rows)


def _document(tokenizer: Any, text: str, most: int) -> Document:
    fast = bool(getattr(tokenizer, "is_fast", False))
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    ids = list(made["input_ids"])
    ends = (
        [stop for _, stop in made["offset_mapping"]]
        if fast
        else [round(len(text) * (i + 1) / len(ids)) for i in range(len(ids))]
    )
    start, end = tokenizer.bos_token_id, None
    if tokenizer.mask_token_id is not None:
        start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids, ends = ids[: most - 2], ends[: most - 2]
    if start is not None:
        ids, ends = [start, *ids], [0, *ends]
    if end is not None:
        ids, ends = [*ids, end], [*ends, ends[-1] if ends else 0]
    return Document(tuple(ids), tuple(ends), text)


@dataclass(frozen=True)
class Bench:
    """Weights and a text on which candidates are scored; `score` of a config, cached by its content."""

    entries: Mapping[str, Entry]
    documents: tuple[Document, ...]
    masked: int | None  # the mask token's id, where the model is an encoder
    pairs: bool = False
    dtype: torch.dtype = torch.float32

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: _cast(entry.read(0, None), self.dtype) for name, entry in self.entries.items()}

    @property
    def stages(self) -> tuple[int, ...]:
        """Return the lengths that are tried in turn; an encoder's masks need the whole text each time."""
        return STAGES[:2][-1:] if self.masked is not None else STAGES

    def score(self, config: Mapping[str, Any], wanted: Mapping[int, int]) -> dict[int, Tensor]:
        """Return the bits of every scored token of some documents (number → length) under one config."""
        model = build(config, self._laid_out(config))
        with torch.inference_mode():
            return {number: self._bits(model, self.documents[number].ids[:length]) for number, length in wanted.items()}

    def _bits(self, model: Any, ids: tuple[int, ...]) -> Tensor:
        return _causal_bits(model, ids) if self.masked is None else _masked_bits(model, ids, self.masked)

    def _laid_out(self, config: Mapping[str, Any]) -> Mapping[str, Tensor]:
        if not self.pairs:
            return self._tensors
        whole = {name: Entry(t.dtype, tuple(t.shape), _reader(t)) for name, t in self._tensors.items()}
        return {name: entry.read(0, None) for name, entry in in_hf_layout(whole, config["head_dim"]).items()}


def _reader(tensor: Tensor) -> Any:
    return lambda start, stop: tensor[start:stop]


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def build(config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Any:
    """Build the model class that a config names around tensors that exist already; without them, on no memory."""
    import transformers
    from accelerate import init_empty_weights
    from transformers.utils import logging

    logging.set_verbosity_error()
    kind = getattr(transformers, config["architectures"][0])
    with init_empty_weights(include_buffers=False):
        model = kind(kind.config_class(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")}))
    if tensors is not None:
        known = model.state_dict().keys()
        named = {live_name(name, known): tensor for name, tensor in tensors.items()}
        model.load_state_dict({k: v for k, v in named.items() if k in known}, strict=False, assign=True)
        model.tie_weights()
    return model.eval()


def live_name(name: str, known: Collection[str]) -> str:
    """Return the name that a class of the installed transformers gives to a tensor on disk."""
    return LIVE[name] if name not in known and LIVE.get(name) in known else name


def _causal_bits(model: Any, ids: tuple[int, ...]) -> Tensor:
    row = torch.tensor([ids])
    logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
    return _bits(logits, row[0, 1:])


def _masked_bits(model: Any, ids: tuple[int, ...], mask: int) -> Tensor:
    whole = torch.tensor(ids)
    rows = whole.repeat(EVERY, 1)
    places = [torch.arange(1 + i, len(ids) - 1, EVERY) for i in range(EVERY)]
    for row, hidden in enumerate(places):
        rows[row, hidden] = mask
    logits = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits.float()
    return torch.cat([_bits(logits[row, hidden], whole[hidden]) for row, hidden in enumerate(places)])


def _bits(logits: Tensor, targets: Tensor) -> Tensor:
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return torch.nan_to_num(nats.double() / math.log(2), nan=math.inf)
