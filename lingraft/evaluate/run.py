"""`lingraft evaluate MODEL… [--text FILE] [--english FILE] [--tasks NAME[=PATH],…] [--prompt P]…`: is it better?

Several models in one table, the first being the reference: bits per character on the user's text and on English,
tasks through lm-evaluation-harness, the same prompts answered by all. One model is in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lingraft.evaluate.cache import remembered
from lingraft.evaluate.comparison import Row, Wanted, answer_of
from lingraft.evaluate.generate import MAX_NEW_TOKENS, SAMPLING, generate
from lingraft.evaluate.measure import Opened, measure
from lingraft.evaluate.overlap import contamination_of_files
from lingraft.evaluate.speed import tokens_per_second
from lingraft.evaluate.subjects import Subject, subjects
from lingraft.evaluate.tasks import parse_all
from lingraft.evaluate.tasks import run as run_task
from lingraft.evaluate.text import read_documents
from lingraft.known import note
from lingraft.problems import Findings
from lingraft.progress import say

SHIPPED = Path(__file__).parents[1] / "text"
ASKED = 20_000  # characters: prompts and tasks cost about as much as that
PROBE = "长城是中国古代的伟大工程。The Great Wall is a great work of ancient China."


def evaluate(
    models: Sequence[str],
    *,
    text: Path | None = None,
    english: Path | None = None,
    tasks: Sequence[str] = (),
    shots: int = 0,
    prompts: Sequence[str] = (),
    samples: bool = True,
    limit: int | None = None,
    train: Sequence[Path] = (),
    base: str | None = None,
    adapters: Sequence[str | Path] = (),
    findings: Findings,
) -> dict[str, Any]:
    """Measure every model and return the contract's JSON, with `differences` to the first and `answers`.

    Asked for nothing, it takes the held-out texts that ship with the package. ``train`` are the files that were
    trained on: how much of what is measured stands in them is told as `contamination`. Errors: `not-found`,
    `config-mismatch`, `tokenizer-mismatch`, `base-mismatch`, `data-invalid`.
    """
    if not (text or english or tasks or prompts):
        text, english = SHIPPED / "zh-heldout.jsonl", SHIPPED / "en-heldout.jsonl"
        say("no --text, --english, --tasks or --prompt: measuring on the held-out texts of the package")
    wanted = Wanted(
        text=None if text is None else read_documents(text),
        english=None if english is None else read_documents(english),
        tasks=parse_all(tasks, limit, shots),
        prompts=prompts,
        samples=samples,
    )
    found = subjects(models, base, adapters)
    seen = _contamination(wanted, train) if train else None
    rows = [_row(subject, wanted) for subject in found]
    findings.settle()
    for subject in found:
        note("evaluated", Path(subject.name))
    return answer_of(rows, wanted, seen)


def _contamination(wanted: Wanted, train: Sequence[Path]) -> dict[str, Any]:
    """Tell how much of the texts and of local tasks' questions stands in the training files."""
    heldout: dict[str, Sequence[str]] = {"text": wanted.text or [], "english": wanted.english or []}
    heldout |= {f"tasks/{task.name}": task.questions() for task in wanted.tasks}
    told = contamination_of_files({name: texts for name, texts in heldout.items() if texts}, train)
    return {"share": (told.get("text") or {}).get("share"), **told}


def _row(subject: Subject, wanted: Wanted) -> Row:
    started = time.monotonic()
    texts = [*(wanted.text or []), *(wanted.english or [])]
    opened, row = Opened(subject, sum(map(len, texts)) + ASKED * bool(wanted.tasks or wanted.prompts)), Row(subject)
    if wanted.text is not None:
        row.text = measure(opened, wanted.text, f"{subject.name}: text")
    if wanted.english is not None:
        row.english = measure(opened, wanted.english, f"{subject.name}: English")
    if wanted.prompts:
        row.answers = _answers(opened, wanted)
    for task in wanted.tasks:
        row.tasks[task.name] = run_task(task, partial(opened.pair, _probe(wanted)), subject.key)
    if subject.gguf is not None:
        row.speed = remembered("speed", [subject.key], partial(_speed, subject.gguf))["tokens_per_second"]
    row.dtype, row.seconds = opened.dtype, round(time.monotonic() - started, 2)
    return row


def _answers(opened: Opened, wanted: Wanted) -> dict[str, list[dict[str, Any]]]:
    ways: Mapping[str, Any] = {"greedy": None, "sampled": SAMPLING} if wanted.samples else {"greedy": None}
    found: dict[str, list[dict[str, Any]]] = {}
    for way, settings in ways.items():
        depends = [opened.subject.key, list(wanted.prompts), MAX_NEW_TOKENS, settings]
        found[way] = remembered("answers", depends, partial(_generate, opened, wanted, way))["answers"]
    return found


def _generate(opened: Opened, wanted: Wanted, way: str) -> dict[str, Any]:
    return {"answers": generate(*opened.pair(_probe(wanted)), wanted.prompts, sample=way == "sampled")}


def _speed(gguf: Path) -> dict[str, Any]:
    return {"tokens_per_second": tokens_per_second(gguf)}


def _probe(wanted: Wanted) -> str:
    """Return the text on which the compute type is decided."""
    return (wanted.text or wanted.english or list(wanted.prompts) or [PROBE])[0][:1200]
