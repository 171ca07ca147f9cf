"""Preferences as trl takes them, and what the report says of them.

trl renders and tokenises the rows itself. Here the same is done beforehand, so that lengths, tokens and examples can be
told, and pairs of which nothing would be left are refused rather than dropped in silence, which is what trl does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lingraft.data.answers import rendered
from lingraft.data.contradictions import contradictions
from lingraft.data.conversations import Conversation, Message
from lingraft.data.describe import histogram, marked, padding_of, spread
from lingraft.data.make import tell_cuts
from lingraft.data.preferences import Preference
from lingraft.data.tokens import Cuts, encoder
from lingraft.problems import Findings, refuse

Row = dict[str, Any]
BATCH = 4  # rows a batch, unless the recipe says otherwise


@dataclass(frozen=True)
class Pairs(Dataset[Row]):
    """Rows as trl takes them: a conversational prompt with its answers."""

    rows: tuple[Row, ...]
    stats: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


@dataclass(frozen=True)
class Form:
    """How rows are made: trl's method, the template, and the length that a prompt with an answer may have."""

    method: str
    template: str
    length: int
    batch: int = BATCH


@dataclass(frozen=True)
class Side:
    """A prompt with one of its answers in tokens; the answer begins at ``start``."""

    ids: tuple[int, ...]
    start: int

    def cut(self, length: int) -> Side:
        return Side(self.ids[:length], self.start)

    def shown(self, tokenizer: Any, first: int = 0) -> str:
        """Decode it from the token ``first`` on, the answer marked as what the loss is on."""
        ids = np.asarray(self.ids)
        return marked(ids[first:], np.arange(first, len(ids)) >= self.start, tokenizer)


def pairs(items: Sequence[Preference], form: Form, tokenizer: PreTrainedTokenizerBase, findings: Findings) -> Pairs:
    """Return preferences as rows for DPO, KTO, ORPO or a reward model.

    Errors: `recipe-invalid` where the template fails; `nothing-supervised` where an answer has no room left, and for a
    reward model, which judges whole answers, where a pair is longer than ``form.length``.
    """
    sides = _sides(items, form.template, tokenizer)
    cuts = Cuts(rendered=len(items))
    kept = [place for place, item in enumerate(items) if _fits(item.source, sides[place], form, cuts)]
    _tell(cuts, form, findings)
    taken = [tuple(side.cut(form.length) for side in sides[place]) for place in kept]
    rows = [row for place in kept for row in _rows(items[place], form.method)]
    lengths = np.array([[len(side.ids) for side in pair] for pair in taken])
    stats = {
        "rows_out": len(kept),
        "length": form.length,
        "tokens": int(lengths.sum()),
        "supervised_tokens": sum(len(side.ids) - side.start for pair in taken for side in pair),
        "padding_share": padding_of(lengths.flatten() if form.method == "kto" else lengths, form.batch),
        "lengths": histogram(lengths.flatten(), form.length),
        "cut": cuts.cut,
        "left_out": cuts.emptied,
        "contradictions": contradictions(
            (f"{[m.content for m in i.prompt]}{sorted((i.chosen, i.rejected))}", i.chosen, i.source) for i in items
        ),
        "examples": [
            f"{chosen.shown(tokenizer)}\n✗ {rejected.shown(tokenizer, rejected.start)}"
            for chosen, rejected in (taken[i] for i in spread(len(taken)))
        ],
    }
    return Pairs(tuple(rows), stats)


def asked(items: Sequence[Conversation], form: Form, tokenizer: PreTrainedTokenizerBase) -> Pairs:
    """Return what GRPO is asked: each conversation up to its last answer, which the rewards are given."""
    prompts = [c.as_dicts()[:-1] for c in items]
    rows = tuple({"prompt": p, "answer": c.messages[-1].content} for p, c in zip(prompts, items, strict=True))
    texts = [rendered(tokenizer, form.template, p, c.source, True) for p, c in zip(prompts, items, strict=True)]
    ids = [np.asarray(found) for found in encoder(tokenizer)(texts)]
    lengths = [len(one) for one in ids]
    stats = {
        "rows_out": len(rows),
        "tokens": sum(lengths),
        "supervised_tokens": 0,  # the loss is on answers that are sampled
        "padding_share": padding_of(lengths, form.batch),
        "lengths": histogram(lengths, max(lengths)),
        "examples": [
            f"{tokenizer.decode(ids[i].tolist())}\n(reference: {rows[i]['answer']})" for i in spread(len(ids))
        ],
    }
    return Pairs(rows, stats)


def _sides(items: Sequence[Preference], template: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Side, Side]]:
    """Render and tokenise as trl does: an answer begins where the tokens part from the prompt's."""

    def text(item: Preference, *answer: str) -> str:
        messages = [*item.prompt, *(Message("assistant", said) for said in answer)]
        dicts = [{"role": m.role, "content": m.content} for m in messages]
        return rendered(tokenizer, template, dicts, item.source, not answer)

    texts = [t for item in items for t in (text(item), text(item, item.chosen), text(item, item.rejected))]
    ids = [tuple(found) for found in encoder(tokenizer)(texts)]
    found = []
    for prompt, chosen, rejected in zip(ids[::3], ids[1::3], ids[2::3], strict=True):
        start = min(_common(prompt, chosen), _common(prompt, rejected))
        found.append((Side(chosen, start), Side(rejected, start)))
    return found


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _fits(source: str, sides: tuple[Side, Side], form: Form, cuts: Cuts) -> bool:
    """Tell whether something is left of a pair within the length, and count it where it is cut."""
    longest = max(len(side.ids) for side in sides)
    if sides[0].start >= form.length or (form.method == "reward" and longest > form.length):
        cuts.empty(source)
        return False
    if longest > form.length:
        cuts.shorten(source)
    return True


def _tell(cuts: Cuts, form: Form, findings: Findings) -> None:
    if form.method == "reward" and cuts.emptied:
        findings.problem(
            "nothing-supervised",
            f"{cuts.emptied} of {cuts.rendered} pairs are longer than {form.length} tokens, and a reward model judges "
            f"whole answers: {', '.join(cuts.emptied_first)}",
            "raise `length`, or leave them out knowingly with --allow nothing-supervised",
            cuts.emptied_first[0],
        )
    else:
        tell_cuts(cuts, form.length, findings)
    findings.settle()
    if cuts.emptied == cuts.rendered:
        refuse(
            "nothing-supervised", "no pair has an answer left to learn from", "raise `length`", cuts.emptied_first[0]
        )


def _rows(item: Preference, method: str) -> list[Row]:
    prompt = [{"role": m.role, "content": m.content} for m in item.prompt]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (item.chosen, item.rejected))
    if method == "kto":
        answers = ((chosen, True), (rejected, False))
        return [{"prompt": prompt, "completion": answer, "label": good} for answer, good in answers]
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]
