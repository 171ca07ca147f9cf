"""Which candidate the weights speak for, and when a win is clear.

Candidates meet on growing parts of the probe text: 64, 384, then 1,024 tokens of each document. On each, a candidate
*loses clearly* when it is worse than the best by at least 0.3 % of the bits and by at least three standard errors of
the paired difference, token by token; it is then out. A value is *probed* when every other one has lost clearly.
Values that the whole text does not tell apart are *equals*: among them a claimed value stands, then one that a model
of these shapes was published with; a value that no usage suggests is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lingraft.adopt.answers import Candidate, Decision, answer, unprobed
from lingraft.adopt.family import Question
from lingraft.adopt.infer import Outline
from lingraft.adopt.probe import Bench
from lingraft.weights.tensors import Tensor

CLEAR_SHARE = 0.003
CLEAR_ERRORS = 3.0
FAINT_SHARE = 0.0005  # differences below this after the second part are not pursued through the third
GUESSING = 0.95  # share of log2(vocabulary) bits a token above which nothing was predicted
KEPT = 2  # documents that are read to the end: those in a language that the model reads best
SWEEPS = 3


@dataclass
class Trial:
    """Scores of whole configs on one bench; what was computed once is not computed again."""

    outline: Outline
    bench: Bench
    _known: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def bits(self, chosen: Mapping[str, Any], documents: Sequence[int], length: int) -> Tensor:
        """Return the bits of every scored token of some documents' first ``length`` tokens, in one row."""
        config = self.outline.config(chosen)
        key = json.dumps(config, sort_keys=True, default=str)
        lengths = {number: min(length, len(self.bench.documents[number].ids)) for number in documents}
        wanted = {n: size for n, size in lengths.items() if len(self._known.get((key, n), ())) < size - 1}
        if self.bench.masked is not None:
            wanted = {n: size for n, size in wanted.items() if (key, n) not in self._known}
        for number, found in (self.bench.score(config, wanted) if wanted else {}).items():
            self._known[key, number] = found
        return torch.cat([self._known[key, number][: lengths[number] - 1] for number in documents])

    def characters(self, documents: Sequence[int], length: int) -> int:
        """Return how many characters those tokens stand for."""
        return sum(self.bench.documents[number].characters(length) for number in documents)


def decide(outline: Outline, bench: Bench | None) -> Decision:
    """Answer every question by the probe; without a bench, from claims and published models alone."""
    blind = Decision(tuple(unprobed(outline, question) for question in outline.questions))
    if bench is None:
        return blind
    trial = Trial(outline, bench)
    every = range(len(bench.documents))
    best = _first(trial, every)
    documents = _predicted(trial, best, every)
    if not documents:
        meetings = {q.name: _meet(trial, best, q, every, bench.stages[:1]) for q in outline.questions}
        return Decision(blind.answers, tuple(c for found in meetings.values() for c in found), blind=True)
    for _ in range(SWEEPS):
        before, meetings = dict(best), {}
        for question in outline.questions:
            meetings[question.name] = _meet(trial, best, question, documents, bench.stages)
            if meetings[question.name]:
                best[question.name] = min(meetings[question.name], key=lambda c: (c.lost, c.bits)).value
        if best == before:
            break
    answers = tuple(answer(outline, question, meetings[question.name]) for question in outline.questions)
    bits = trial.bits(best, documents, bench.stages[0])
    return Decision(
        answers,
        tuple(c for found in meetings.values() for c in found),
        float(bits.sum()) / trial.characters(documents, bench.stages[0]),
    )


def _first(trial: Trial, documents: Sequence[int]) -> dict[str, Any]:
    """Find the best config on the first part: what depends on each other together, then one question at a time."""
    length = trial.bench.stages[0]

    def total(chosen: Mapping[str, Any]) -> float:
        return float(trial.bits(chosen, documents, length).sum())

    questions = [question for question in trial.outline.questions if len(question.candidates) > 1]
    grid = [trial.outline.start()]
    for question in questions:  # the head size comes first; with another wrong value its two best may still be near
        if question.asked or question.name in ("use_parallel_residual", "rope_theta"):
            values = question.candidates if question.asked else question.candidates[:2]
            grid = [{**point, question.name: value} for point in sorted(grid, key=total)[:2] for value in values]
    best = min(grid, key=total)
    for question in questions:
        best = min(({**best, question.name: value} for value in question.candidates), key=total)
    return best


def _predicted(trial: Trial, best: Mapping[str, Any], documents: Sequence[int]) -> list[int]:
    """Return the documents that the model predicts better than by guessing, the two that it reads best.

    By bits per UTF-8 byte, which is fair between scripts: per token a text of byte pieces would look easy.
    """
    length = trial.bench.stages[0]
    bits = {n: trial.bits(best, [n], length) for n in documents}
    guessing = GUESSING * math.log2(trial.outline.sizes["vocab_size"])
    per_byte = {n: float(bits[n].sum()) / trial.bench.documents[n].bytes(length) for n in documents}
    return sorted((n for n in documents if float(bits[n].mean()) < guessing), key=lambda n: per_byte[n])[:KEPT]


def _meet(
    trial: Trial, best: Mapping[str, Any], question: Question, documents: Sequence[int], stages: Sequence[int]
) -> list[Candidate]:
    """Let a question's candidates meet on growing parts of the text; return them as they ended."""
    if len(question.candidates) < 2:
        return []
    alive, ended = list(range(len(question.candidates))), dict[int, int]()
    configs = [{**best, question.name: value} for value in question.candidates]
    for stage, length in enumerate(stages):
        bits = {i: trial.bits(configs[i], documents, length) for i in alive}
        top = min(alive, key=lambda i: float(bits[i].sum()))
        ended |= dict.fromkeys(alive, length)
        alive = [i for i in alive if not _is_clear(bits[i] - bits[top], bits[top])]
        faint = all(float((bits[i] - bits[top]).mean().abs()) < FAINT_SHARE * float(bits[top].mean()) for i in alive)
        if len(alive) == 1 or (stage >= 1 and faint):
            break
    found = []
    for i, value in enumerate(question.candidates):
        own, other = (trial.bits(configs[j], documents, ended[i]) for j in (i, top))
        characters = trial.characters(documents, ended[i])
        found.append(
            Candidate(
                question.name,
                value,
                float(own.sum()) / characters,
                float((own - other).sum()) / characters,
                i not in alive,
                len(own),
            )
        )
    return found


def _is_clear(behind: Tensor, top: Tensor) -> bool:
    if not bool(torch.isfinite(behind).all()):
        return True
    error = float(behind.std()) / math.sqrt(len(behind))
    return float(behind.mean()) > max(CLEAR_SHARE * float(top.mean()), CLEAR_ERRORS * error)
