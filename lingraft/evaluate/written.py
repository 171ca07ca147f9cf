"""Written answers against references: `--tasks NAME=FILE.jsonl` whose rows have "answers" in place of "choices".

A row is {"question" or "input", "context"?, "answers": […], "metric"?}: LongBench's own layout works as it is. The
metrics are kept libraries': chrF (sacrebleu), ROUGE-L (rouge-score; Chinese by character), beside token F1, exact
match and LongBench's classification and counting. Every answer counts with the reference it fits best.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.evaluate.generate import UNIT, generate
from lingraft.problems import refuse

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Wanted:
    """One question and every answer that counts as right."""

    prompt: str
    references: tuple[str, ...]
    classes: tuple[str, ...] = ()


def is_written(path: Path) -> bool:
    """Tell whether a .jsonl asks for written answers."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    return '"answers"' in first and '"choices"' not in first


def read_written(path: Path) -> list[Wanted]:
    """Read the rows. Error: `data-invalid` with file and line."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            answers = [row["answers"]] if isinstance(row["answers"], str) else [str(a) for a in row["answers"]]
            question = str(row.get("question") or row.get("input") or "")
            context = str(row.get("context") or "")
            if not answers or not (question or context):
                raise ValueError("empty")
        except (ValueError, KeyError, TypeError):
            refuse("data-invalid", f'{path}:{number}: not {{"question" or "input", "context"?, "answers": […]}}',
                   "mend the row named", path)  # fmt: skip
        prompt = "\n\n".join(part for part in (context, question) if part)
        found.append(Wanted(prompt, tuple(answers), tuple(map(str, row.get("all_classes") or ()))))
    if not found:
        refuse("data-invalid", f"{path} holds no question", "give rows with a question and its answers", path)
    return found


def score_written(model: Any, tokenizer: Any, wanted: Sequence[Wanted], limit: int | None = None) -> dict[str, float]:
    """Answer every question greedily and return the mean of every metric, in 0 … 1."""
    asked = list(wanted[:limit])
    room = _room(model)
    made = generate(model, tokenizer, [_middle_cut(tokenizer, one.prompt, room) for one in asked], MAX_NEW_TOKENS)
    rows = [metrics(answer["text"], one) for answer, one in zip(made, asked, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: _mean([row[name] for row in rows if name in row]) for name in names}
    return means | {"repetition": _mean([answer["repetition"] for answer in made]), "questions": float(len(asked))}


def metrics(answer: str, wanted: Wanted) -> dict[str, float]:
    """Return chrF, ROUGE-L, F1 and exact match with the best reference; classification where classes are given."""
    from sacrebleu import sentence_chrf

    best = {
        "chrf": max(sentence_chrf(answer, [reference]).score / 100 for reference in wanted.references),
        "rouge_l": max(rouge_l(answer, reference) for reference in wanted.references),
        "f1": max(f1(answer, reference) for reference in wanted.references),
        "exact": float(any(answer.strip() == reference.strip() for reference in wanted.references)),
    }
    if wanted.classes:
        best["classification"] = max(_classified(answer, reference, wanted.classes) for reference in wanted.references)
    return best


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L's F, over Han characters and words of other scripts. Source: Lin 2004, "ROUGE"."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped, unused-ignore]

    return float(RougeScorer(["rougeL"], tokenizer=_Units()).score(reference, answer)["rougeL"].fmeasure)


def f1(answer: str, reference: str) -> float:
    """Return the F1 of common units, as LongBench's qa_f1 (which cuts Chinese with jieba; here by character)."""
    mine, theirs = Counter(_units(answer)), Counter(_units(reference))
    common = sum((mine & theirs).values())
    return 2 * common / (mine.total() + theirs.total()) if common else 0.0


class _Units:
    """rouge-score's tokenizer protocol; its own drops everything that is not a-z or 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return _units(text)


def _units(text: str) -> list[str]:
    return [unit.lower() for unit in UNIT.findall(text)]


def _classified(answer: str, reference: str, classes: Sequence[str]) -> float:
    """Score as LongBench: one over the number of classes named, where the right one is among them."""
    named = [one for one in classes if one in answer and (one == reference or one not in reference)]
    return 1 / len(named) if reference in named else 0.0


def _room(model: Any) -> int:
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or 1 << 20
    return max(int(context) - MAX_NEW_TOKENS - 64, int(context) // 2)


def _middle_cut(tokenizer: Any, prompt: str, room: int) -> str:
    """Cut a prompt that is too long in its middle, as LongBench does: instructions stand at both ends."""
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= room:
        return prompt
    half = room // 2
    return str(tokenizer.decode(ids[:half])) + str(tokenizer.decode(ids[-half:]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
