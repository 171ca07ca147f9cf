"""`lingraft evaluate MODEL… [--text FILE] [--english FILE] [--tasks NAME[=PATH],…]`: is it better?

Several models in one table, the first being the reference: bits per character on the user's text and on English,
tasks through lm-evaluation-harness, the same prompts answered by all. One model is in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lingraft.evaluate.bits import Scored, summary
from lingraft.evaluate.cache import remembered
from lingraft.evaluate.differences import difference
from lingraft.evaluate.generate import MAX_NEW_TOKENS, generate
from lingraft.evaluate.measure import Opened, measure
from lingraft.evaluate.speed import tokens_per_second, weight_bytes
from lingraft.evaluate.subjects import Subject, subjects
from lingraft.evaluate.tasks import Task, parse
from lingraft.evaluate.tasks import run as run_task
from lingraft.evaluate.text import read_documents
from lingraft.problems import Findings
from lingraft.progress import say

SHIPPED = Path(__file__).parents[1] / "text"
PROBE = "长城是中国古代的伟大工程。The Great Wall is a great work of ancient China."


@dataclass(frozen=True)
class Wanted:
    """What every model is asked."""

    text: list[str] | None
    english: list[str] | None
    tasks: Sequence[Task] = ()
    prompts: Sequence[str] = ()


@dataclass
class Row:
    """One model's results."""

    subject: Subject
    text: list[Scored] | None = None
    english: list[Scored] | None = None
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    speed: float | None = None  # tokens a second in llama.cpp, of a GGUF file
    dtype: str = ""
    seconds: float = 0.0


def evaluate(
    models: Sequence[str],
    *,
    text: Path | None = None,
    english: Path | None = None,
    tasks: Sequence[str] = (),
    prompts: Sequence[str] = (),
    limit: int | None = None,
    base: str | None = None,
    adapters: Sequence[str | Path] = (),
    findings: Findings,
) -> dict[str, Any]:
    """Measure every model and return the contract's JSON, with `differences` to the first and `answers`.

    Asked for nothing, it takes the held-out texts that ship with the package. Errors: `not-found`,
    `config-mismatch`, `tokenizer-mismatch`, `base-mismatch`, `data-invalid`.
    """
    if not (text or english or tasks or prompts):
        text, english = SHIPPED / "zh-heldout.jsonl", SHIPPED / "en-heldout.jsonl"
        say("no --text, --english, --tasks or --prompt: measuring on the held-out texts of the package")
    wanted = Wanted(
        text=None if text is None else read_documents(text),
        english=None if english is None else read_documents(english),
        tasks=[parse(one, limit) for one in tasks], prompts=prompts,
    )  # fmt: skip
    rows = [_row(subject, wanted) for subject in subjects(models, base, adapters)]
    findings.settle()
    return _answer(rows, wanted)


def _row(subject: Subject, wanted: Wanted) -> Row:
    started = time.monotonic()
    opened, row = Opened(subject), Row(subject)
    if wanted.text is not None:
        row.text = measure(opened, wanted.text, f"{subject.name}: text")
    if wanted.english is not None:
        row.english = measure(opened, wanted.english, f"{subject.name}: English")
    if wanted.prompts:
        depends = [subject.key, list(wanted.prompts), MAX_NEW_TOKENS]
        row.answers = remembered("answers", depends, lambda: _generate(opened, wanted))["answers"]
    for task in wanted.tasks:
        depends = [subject.key, *task.depends_on()]
        row.tasks[task.name] = remembered("tasks", depends, partial(_task, task, opened, wanted))
    if subject.gguf:
        row.speed = remembered("speed", [subject.key], partial(_speed, subject))["tokens_per_second"]
    row.dtype, row.seconds = opened.dtype, round(time.monotonic() - started, 2)
    return row


def _generate(opened: Opened, wanted: Wanted) -> dict[str, Any]:
    return {"answers": generate(*opened.pair(_probe(wanted)), wanted.prompts)}


def _task(task: Task, opened: Opened, wanted: Wanted) -> dict[str, Any]:
    return dict(run_task(task, *opened.pair(_probe(wanted))))


def _speed(subject: Subject) -> dict[str, Any]:
    return {"tokens_per_second": tokens_per_second(subject.stack.base)}


def _probe(wanted: Wanted) -> str:
    """Return the text on which the compute type is decided."""
    return (wanted.text or wanted.english or list(wanted.prompts) or [PROBE])[0][:1200]


def _answer(rows: Sequence[Row], wanted: Wanted) -> dict[str, Any]:
    return {
        "models": [_figures(row) for row in rows],
        "differences": [*_differences(rows, "text"), *_differences(rows, "english")],
        "answers": _side_by_side(rows, wanted.prompts),
        "text": _about(wanted.text),
        "english": _about(wanted.english),
    }


def _figures(row: Row) -> dict[str, Any]:
    text = summary(row.text) if row.text is not None else {}
    english = summary(row.english) if row.english is not None else {}
    return {
        "model": row.subject.name,
        "bits_per_character": text.get("bits_per_character"),
        "tokens_per_character": text.get("tokens_per_character"),
        "english_bits_per_character": english.get("bits_per_character"),
        "tasks": row.tasks,
        "bits_per_byte": text.get("bits_per_byte"),
        "token_perplexity": text.get("token_perplexity"),  # never to be compared between tokenizers
        "english_tokens_per_character": english.get("tokens_per_character"),
        "bytes": weight_bytes(row.subject.stack.base) + sum(weight_bytes(a) for a in row.subject.stack.adapters),
        "tokens_per_second": row.speed,
        "dtype": row.dtype or None,
        "seconds": row.seconds,
    }


def _differences(rows: Sequence[Row], which: str) -> list[dict[str, Any]]:
    reference = getattr(rows[0], which)
    if reference is None:
        return []
    measure_name = "bits_per_character" if which == "text" else "english_bits_per_character"
    return [{"model": row.subject.name, "reference": rows[0].subject.name, "measure": measure_name,
             **difference(reference, getattr(row, which))} for row in rows[1:]]  # fmt: skip


def _side_by_side(rows: Sequence[Row], prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt,
         "answers": {row.subject.name: row.answers[number]["text"] for row in rows},
         "counts": {row.subject.name: {k: v for k, v in row.answers[number].items() if k != "text"} for row in rows}}
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip


def _about(documents: Sequence[str] | None) -> dict[str, int] | None:
    if documents is None:
        return None
    return {"documents": len(documents), "characters": sum(len(one) for one in documents)}
