"""What a comparison came to, as the contract's JSON: figures, differences to the first model, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingraft.evaluate.bits import Scored, summary
from lingraft.evaluate.differences import difference, difference_of_outcomes
from lingraft.evaluate.generate import SAMPLING
from lingraft.evaluate.outcomes import Result, mean
from lingraft.evaluate.subjects import Subject
from lingraft.evaluate.tasks import Task

WAYS = {"greedy": ("answers", "counts"), "sampled": ("sampled", "sampled_counts")}  # way → names in the JSON
COUNTED = ("characters", "repetition", "han", "stopped")


@dataclass(frozen=True)
class Wanted:
    """What every model is asked."""

    text: list[str] | None
    english: list[str] | None
    tasks: Sequence[Task] = ()
    prompts: Sequence[str] = ()
    samples: bool = True


@dataclass
class Row:
    """One model's results; ``answers`` holds those of every way of generating."""

    subject: Subject
    text: list[Scored] | None = None
    english: list[Scored] | None = None
    tasks: dict[str, Result] = field(default_factory=dict)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    speed: float | None = None  # tokens a second in llama.cpp, of a GGUF file
    dtype: str = ""
    seconds: float = 0.0


def answer_of(rows: Sequence[Row], wanted: Wanted, contamination: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer of `evaluate`."""
    answer = {
        "models": [_figures(row) for row in rows],
        "differences": [*_differences(rows, "text"), *_differences(rows, "english"), *_task_differences(rows)],
        "answers": _side_by_side(rows, wanted.prompts),
        "text": _about(wanted.text),
        "english": _about(wanted.english),
    }
    if wanted.prompts and wanted.samples:
        answer["sampling"] = {name: value for name, value in SAMPLING.items() if name != "do_sample"}
    return answer if contamination is None else {**answer, "contamination": dict(contamination)}


def _figures(row: Row) -> dict[str, Any]:
    text = summary(row.text) if row.text is not None else {}
    english = summary(row.english) if row.english is not None else {}
    return {
        "model": row.subject.name,
        "bits_per_character": text.get("bits_per_character"),
        "tokens_per_character": text.get("tokens_per_character"),
        "english_bits_per_character": english.get("bits_per_character"),
        "tasks": {name: dict(result.metrics) for name, result in row.tasks.items()},
        "bits_per_byte": text.get("bits_per_byte"),
        "token_perplexity": text.get("token_perplexity"),  # never to be compared between tokenizers
        "english_tokens_per_character": english.get("tokens_per_character"),
        "generation": {
            way: {name: mean([float(one[name]) for one in found]) for name in COUNTED}
            for way, found in row.answers.items()
        },
        "bytes": row.subject.bytes,
        "tokens_per_second": row.speed,
        "dtype": row.dtype or None,
        "seconds": row.seconds,
    }


def _differences(rows: Sequence[Row], which: str) -> list[dict[str, Any]]:
    reference = getattr(rows[0], which)
    if reference is None:
        return []
    measure_name = "bits_per_character" if which == "text" else "english_bits_per_character"
    return [
        {
            "model": row.subject.name,
            "reference": rows[0].subject.name,
            "measure": measure_name,
            **difference(reference, getattr(row, which)),
        }
        for row in rows[1:]
    ]


def _task_differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Hold every task against the first model's, question by question."""
    return [
        {
            "model": row.subject.name,
            "reference": rows[0].subject.name,
            "measure": f"{name}/{first.measure}",
            **difference_of_outcomes(first.outcomes, row.tasks[name].outcomes),
        }
        for name, first in rows[0].tasks.items()
        for row in rows[1:]
        if first.outcomes and len(first.outcomes) == len(row.tasks[name].outcomes)
    ]


def _side_by_side(rows: Sequence[Row], prompts: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for number, prompt in enumerate(prompts):
        item: dict[str, Any] = {"prompt": prompt}
        for way, (texts, counts) in WAYS.items():
            given = {row.subject.name: row.answers[way][number] for row in rows if way in row.answers}
            if given:
                item[texts] = {name: one["text"] for name, one in given.items()}
                item[counts] = {name: _counts(one) for name, one in given.items()}
        found.append(item)
    return found


def _counts(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "text"}


def _about(documents: Sequence[str] | None) -> dict[str, int] | None:
    if documents is None:
        return None
    return {"documents": len(documents), "characters": sum(len(one) for one in documents)}
