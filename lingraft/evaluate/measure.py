"""Measure one model on one text, from the cache where it was measured before.

bfloat16 is taken where it is the faster, where there is enough to compute that this matters, and where it changes bits
per character by less than 0.2 % on a probe of the very text; else float32. The model is loaded only when something is
left to measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lingraft import accelerator, models
from lingraft.evaluate import bits, text
from lingraft.evaluate.cache import remembered
from lingraft.evaluate.subjects import Subject, open_subject
from lingraft.evaluate.windows import LONGEST
from lingraft.progress import track

PROBE = 1200  # characters
TOLERANCE = 0.002
LITTLE = 3e12  # bytes of weights × characters: some twenty seconds of two cores in float32
PORTION = 60_000  # characters that are scored, and kept, at a time


class Opened:
    """A subject whose weights are read when they are first needed, in a type that is proved to be good enough."""

    def __init__(self, subject: Subject, characters: int) -> None:
        self.subject = subject
        self.fast = models.fastest_dtype() if subject.bytes * characters > LITTLE else torch.float32
        self.dtype = ""
        self._pair: tuple[Any, Any] | None = None

    def pair(self, probe: str) -> tuple[Any, Any]:
        """Return model and tokenizer; the first call decides the compute type on ``probe``."""
        if self._pair is None:
            self._pair = _choose(self.subject, self.fast, probe)
            self.dtype = str(self._pair[0].dtype).removeprefix("torch.")
        return self._pair


def measure(opened: Opened, documents: Sequence[str], label: str) -> list[bits.Scored]:
    """Score every document under one model, portion by portion, so that an interrupted call goes on."""
    found: list[bits.Scored] = []
    for portion in portions(documents):
        depends = [opened.subject.key, text.digest(portion), LONGEST, str(opened.fast)]
        kept = remembered("bits", depends, lambda portion=portion: _score(opened, portion, label))  # type: ignore[misc]
        opened.dtype = kept["dtype"]
        found += [bits.Scored.of_json(one) for one in kept["documents"]]
    return found


def portions(documents: Sequence[str]) -> Iterator[list[str]]:
    """Split the documents into runs of about 60,000 characters."""
    portion: list[str] = []
    for document in documents:
        portion.append(document)
        if sum(len(one) for one in portion) >= PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _score(opened: Opened, documents: Sequence[str], label: str) -> dict[str, Any]:
    model, tokenizer = opened.pair(documents[0][:PROBE])
    total = sum(len(one) for one in bits.token_ids(tokenizer, documents))
    with track(label, total, "tokens") as advance:
        scored = bits.score(model, tokenizer, documents, advance=advance)
    return {"dtype": opened.dtype, "documents": [one.as_json() for one in scored]}


def _choose(subject: Subject, fast: torch.dtype, probe: str) -> tuple[Any, Any]:
    """Load in float32, compare the fast type with it on the probe, and keep the fast one where it agrees."""
    if fast == torch.float32 or accelerator.kind() != "cpu":
        return open_subject(subject, fast)
    model, tokenizer = open_subject(subject, torch.float32)
    exact = _of_probe(model, tokenizer, probe)
    model = model.to(fast)
    if abs(_of_probe(model, tokenizer, probe) - exact) <= TOLERANCE * exact:
        return model, tokenizer
    return open_subject(subject, torch.float32)


def _of_probe(model: Any, tokenizer: Any, probe: str) -> float:
    return bits.summary(bits.score(model, tokenizer, [probe]))["bits_per_character"]
