"""Written answers against references: `--tasks NAME=FILE.jsonl` whose rows have "answers" in place of "choices".

A row is {"question" or "input", "context"?, "answers": […], "dataset"?}. LongBench's own rows work as they are, with
its prompts and metrics (longbench.py; as `score`). Beside that, or alone: chrF (sacrebleu), ROUGE-L (rouge-score;
Chinese by character), F1 of common units and exact match. Every answer counts with the reference it fits best.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.data.units import UNIT
from lingraft.evaluate.generate import generate
from lingraft.evaluate.longbench import Published, published
from lingraft.evaluate.outcomes import Result, mean
from lingraft.problems import refuse
from lingraft.progress import track

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Wanted:
    """One question and every answer that counts as right."""

    prompt: str
    references: tuple[str, ...]
    classes: tuple[str, ...] = ()
    published: Published | None = None


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
            found.append(_wanted(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            refuse(
                "data-invalid",
                f'{path}:{number}: not {{"question" or "input", "context"?, "answers": […]}}',
                "mend the row named",
                path,
            )
    if not found:
        refuse("data-invalid", f"{path} holds no question", "give rows with a question and its answers", path)
    return found


def _wanted(row: Any) -> Wanted:
    """Read one row. Raises ValueError, KeyError, TypeError or AttributeError for what is none."""
    answers = [row["answers"]] if isinstance(row["answers"], str) else [str(a) for a in row["answers"]]
    question = str(row.get("question") or row.get("input") or "")
    context = str(row.get("context") or "")
    if not answers or not (question or context):
        raise ValueError("empty")
    classes = tuple(map(str, row.get("all_classes") or ()))
    if known := published(str(row.get("dataset") or "-")):
        return Wanted(known.prompt(row), tuple(answers), classes, known)
    return Wanted("\n\n".join(part for part in (context, question) if part), tuple(answers), classes)


def score_written(model: Any, tokenizer: Any, wanted: Sequence[Wanted], limit: int | None = None) -> Result:
    """Answer every question greedily and return the mean of every metric, in 0 … 1, and the main one by question."""
    asked = list(wanted[:limit])
    rows: list[dict[str, float]] = []
    repetition: list[float] = []
    with track("answers", len(asked), "questions") as advance:
        for one in asked:
            most = one.published.most_tokens if one.published else MAX_NEW_TOKENS
            (answer,) = generate(model, tokenizer, [_middle_cut(tokenizer, one.prompt, _room(model, most))], most)
            rows.append(metrics(answer["text"], one))
            repetition.append(answer["repetition"])
            advance(1)
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: mean([row[name] for row in rows if name in row]) for name in names}
    main = next(name for name in ("score", "classification", "rouge_l") if all(name in row for row in rows))
    means |= {"repetition": mean(repetition), "questions": float(len(asked))}
    return Result(means, main, tuple(row[main] for row in rows))


def metrics(answer: str, wanted: Wanted) -> dict[str, float]:
    """Return chrF, ROUGE-L, F1 and exact match with the best reference; classification where classes are given."""
    from sacrebleu import sentence_chrf

    best = (
        {} if wanted.published is None else {"score": wanted.published.score(answer, wanted.references, wanted.classes)}
    )
    best |= {
        "chrf": max(sentence_chrf(answer, [reference]).score / 100 for reference in wanted.references),
        "rouge_l": max(rouge_l(answer, reference) for reference in wanted.references),
        "f1": max(f1(answer, reference) for reference in wanted.references),
        "exact": float(any(answer.strip() == reference.strip() for reference in wanted.references)),
    }
    if wanted.classes and wanted.published is None:
        best["classification"] = max(_classified(answer, reference, wanted.classes) for reference in wanted.references)
    return best


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L's F, over Han characters and words of other scripts. Source: Lin 2004, "ROUGE"."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped, unused-ignore]

    return float(RougeScorer(["rougeL"], tokenizer=_Units()).score(reference, answer)["rougeL"].fmeasure)


def f1(answer: str, reference: str) -> float:
    """Return the F1 of common units: Han characters, and words of other scripts."""
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


def _room(model: Any, most: int) -> int:
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or 1 << 20
    return max(int(context) - most - 64, int(context) // 2)


def _middle_cut(tokenizer: Any, prompt: str, room: int) -> str:
    """Cut a prompt that is too long in its middle, as LongBench does: instructions stand at both ends."""
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= room:
        return prompt
    half = room // 2
    return str(tokenizer.decode(ids[:half])) + str(tokenizer.decode(ids[-half:]))
