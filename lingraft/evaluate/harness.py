"""Drive lm-evaluation-harness: examinations from local files, subject by subject, and its own tasks by name.

`lm_eval.evaluate` is called where the data is ours: `simple_evaluate` would spend seconds a call on asking pip and git
about the machine. Every subject is kept as it is done, so that an interrupted examination goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lingraft.evaluate.bits import context, free_bytes
from lingraft.evaluate.cache import digest_of, remembered
from lingraft.evaluate.categories import category
from lingraft.evaluate.exams import LETTERS, Question, Subject
from lingraft.evaluate.outcomes import Result, mean
from lingraft.problems import refuse
from lingraft.progress import track

HARNESS_NAMES = {"ceval": "ceval-valid", "cmmlu": "cmmlu", "mmlu": "mmlu"}
CHINESE = "{{question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n答案："
ENGLISH = "{{question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\nAnswer:"
MOST = 16  # prompts at once; more are not faster
Pair = Callable[[], tuple[Any, Any]]  # opens model and tokenizer when they are first needed


@dataclass(frozen=True)
class Exam:
    """An examination as it is put to a model."""

    name: str
    shots: int
    limit: int | None
    letters: bool  # A to D, as against choices of their own


def score_exam(exam: Exam, subjects: Sequence[Subject], pair: Pair, key: str) -> Result:
    """Score every subject; ``key`` names the model in the cache."""
    open_lm = cache(lambda: _lm(pair, exam, subjects))
    accuracies: dict[str, list[float]] = {}
    with track(exam.name, len(subjects), "subjects") as advance:
        for subject in subjects:
            depends = [key, exam.name, exam.shots, exam.limit, exam.letters, digest_of(subject)]
            kept = remembered("subjects", depends, lambda one=subject: _subject(exam, one, open_lm()))  # type: ignore[misc]
            accuracies[subject.name] = kept["acc"]
            advance(1)
    return _gathered(exam.name, accuracies)


def score_published(name: str, shots: int, limit: int | None, pair: Pair) -> Result:
    """Score one of the harness's own tasks, its data from the Hub. Error: `not-found`."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager, asked = TaskManager(), HARNESS_NAMES.get(name, name)
    if not manager.match_tasks([asked]):
        refuse("not-found", f"the harness has no task {asked!r}", "see `lm-eval ls tasks`, or give the data: NAME=PATH")
    model, tokenizer = pair()
    try:
        found = lm_eval.simple_evaluate(
            model=_hflm(model, tokenizer, 1),
            tasks=[asked],
            limit=limit,
            num_fewshot=shots or None,
            bootstrap_iters=0,
            log_samples=False,
            verbosity="ERROR",
            task_manager=manager,
        )
    except Exception as error:  # the Hub, datasets and the tasks' own code raise many kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        refuse(
            "not-found",
            f"the harness cannot run {name}: {reason}",
            f"check the name with `lm-eval ls tasks` and the network, or give the data: {name}=PATH",
        )
    return Result(_flat(found))


def _subject(exam: Exam, subject: Subject, lm: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_defaults=False).load([config(exam, subject)])
    found: Any = lm_eval.evaluate(lm, loaded, limit=exam.limit, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    (samples,) = found["samples"].values()
    return {"acc": [float(one["acc"]) for one in sorted(samples, key=lambda one: int(one["doc_id"]))]}


def config(exam: Exam, subject: Subject) -> dict[str, Any]:
    """Return the harness's task for one subject; its rows never touch the disk."""
    from datasets import Dataset, DatasetDict

    splits = DatasetDict({"test": Dataset.from_list([_row(q, exam.letters) for q in subject.questions])})
    if exam.shots:
        splits["dev"] = Dataset.from_list([_row(q, exam.letters) for q in subject.examples])
    return {
        "task": f"{exam.name}_{subject.name}",
        "dataset_path": exam.name,
        "custom_dataset": lambda **_: splits,
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": exam.shots,
        "doc_to_text": (ENGLISH if exam.name == "mmlu" else CHINESE) if exam.letters else "{{question}}",
        "doc_to_choice": list(LETTERS) if exam.letters else "{{choices}}",
        "doc_to_target": "answer",
        "description": _description(exam.name, subject.name),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **({"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}} if exam.shots else {}),
    }


def _row(question: Question, letters: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"question": question.text, "answer": question.answer}
    if letters:
        return row | dict(zip(LETTERS, question.choices, strict=True))
    return row | {"choices": list(question.choices)}


def _description(exam: str, subject: str) -> str:
    """Return the sentence that the harness puts before this subject's questions."""
    import lm_eval
    import yaml

    home = Path(lm_eval.__file__).parent / "tasks"
    file = {
        "ceval": home / "ceval" / f"ceval-valid_{subject}.yaml",
        "cmmlu": home / "cmmlu" / f"cmmlu_{subject}.yaml",
        "mmlu": home / "mmlu" / "default" / f"mmlu_{subject}.yaml",
    }.get(exam)
    if file is None or not file.is_file():
        return ""
    return str(yaml.safe_load(file.read_text(encoding="utf-8")).get("description", ""))


def _lm(pair: Pair, exam: Exam, subjects: Sequence[Subject]) -> Any:
    model, tokenizer = pair()
    longest = max((q.text for one in subjects for q in (*one.questions, *one.examples[: exam.shots])), key=len)
    tokens = (len(tokenizer(longest)["input_ids"]) + 64) * (1 + exam.shots)
    return _hflm(model, tokenizer, tokens)


def _hflm(model: Any, tokenizer: Any, tokens: int) -> Any:
    """Wrap a model; the batch is what a quarter of the free memory holds, logits in float32 counted twice."""
    from lm_eval.models.huggingface import HFLM

    rows = model.get_input_embeddings().weight.shape[0]
    batch = free_bytes(model) // 4 // (8 * rows * min(max(tokens, 256), context(model)))
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=max(1, min(MOST, batch)))


def _gathered(exam: str, accuracies: Mapping[str, Sequence[float]]) -> Result:
    """Gather the subjects' answers into micro, macro and categories."""
    scores = {name: mean(found) for name, found in sorted(accuracies.items())}
    every = tuple(one for name in scores for one in accuracies[name])
    metrics = {
        "acc": mean(every),
        "micro": mean(every),
        "macro": mean(list(scores.values())),
        "questions": float(len(every)),
    }
    by_category: dict[str, list[float]] = {}
    for name, score in scores.items():
        by_category.setdefault(category(exam, name) or "", []).append(score)
    metrics |= {f"category/{name}": mean(found) for name, found in sorted(by_category.items()) if name}
    return Result(metrics | {f"subject/{name}": score for name, score in scores.items()}, "acc", every)


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
    """Flatten what the harness answers: its own metrics first, then those of the subtasks by name."""
    answer: dict[str, float] = {}
    first, *_ = found["results"]
    for name, row in found["results"].items():
        for metric, value in row.items():
            if isinstance(value, int | float) and "stderr" not in metric:
                plain = metric.removesuffix(",none")
                answer[plain if name == first else f"{name}/{plain}"] = float(value)
    return answer
