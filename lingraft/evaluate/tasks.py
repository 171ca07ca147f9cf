"""Tasks through lm-evaluation-harness: `--tasks ceval@5=/data/ceval-exam.zip,hellaswag`.

NAME alone is the harness's own task, with data from the Hub. NAME=PATH takes the questions from a local folder, zip or
.jsonl (rows with "choices": multiple choice; with "answers": written.py); ceval, cmmlu and mmlu get the prompts that
the harness publishes. NAME@5 shows five worked examples.
Answered: `acc` (= `micro`, every question weighs the same), `macro` (every subject weighs the same), per category
(macro within it) and per subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft.evaluate.categories import category
from lingraft.evaluate.exams import LETTERS, Question, Subject, read_exam
from lingraft.evaluate.written import Wanted as Written
from lingraft.evaluate.written import is_written, read_written, score_written
from lingraft.problems import refuse

HARNESS_NAMES = {"ceval": "ceval-valid", "cmmlu": "cmmlu", "mmlu": "mmlu"}
CHINESE = "{{question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n答案："
ENGLISH = "{{question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\nAnswer:"
BATCH = 8


@dataclass(frozen=True)
class Task:
    """One task as a user asks for it."""

    name: str  # as it stands in the answer
    exam: str
    shots: int
    path: Path | None
    limit: int | None

    @property
    def written(self) -> bool:
        """Tell whether it asks for written answers, which need no harness."""
        return self.path is not None and is_written(self.path)

    def depends_on(self) -> list[Any]:
        """Return what its result depends on, beside the model."""
        if self.path is None:
            return [self.exam, self.shots, self.limit]
        content = read_written(self.path) if self.written else read_exam(self.path)
        return [self.exam, self.shots, self.limit, _digest(content)]


def parse(text: str, limit: int | None) -> Task:
    """Read NAME[@SHOTS][=PATH]. Error: `data-invalid`."""
    name, _, path = text.partition("=")
    exam, at, shots = name.partition("@")
    if not exam or (at and not shots.isdigit()):
        refuse("data-invalid", f"--tasks {text!r} is not NAME, NAME=PATH or NAME@SHOTS=PATH", "for example ceval@5=DIR")
    task = Task(name, exam, int(shots or 0), Path(path).expanduser() if path else None, limit)
    _require_harness()
    if task.written and task.path is not None:
        read_written(task.path)
    elif task.path is not None:
        for subject in read_exam(task.path):
            if len(subject.examples) < task.shots:
                known = len(subject.examples)
                refuse("data-invalid", f"{task.path}: {subject.name} has {known} worked examples under dev/, "
                       f"{task.shots} were asked for", f"ask for {exam}@{known}", task.path)  # fmt: skip
    return task


def run(task: Task, model: Any, tokenizer: Any) -> dict[str, float]:
    """Score one task under one model; return {metric: value}."""
    if task.written and task.path is not None:
        return score_written(model, tokenizer, read_written(task.path), task.limit)
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    asked: list[Any] = [HARNESS_NAMES.get(task.exam, task.exam)]
    if task.path is not None:
        asked = [_config(task, subject) for subject in read_exam(task.path)]
    try:
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH), tasks=asked, limit=task.limit,
            num_fewshot=task.shots if task.path is not None or task.shots else None, bootstrap_iters=0,
            log_samples=False, verbosity="ERROR",
            task_manager=TaskManager(include_defaults=task.path is None),  # reading all of its tasks takes long
        )  # fmt: skip
    except (KeyError, ValueError, OSError) as error:
        if task.path is not None:
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        refuse("not-found", f"the harness cannot run {task.exam}: {reason}",
               f"check the name with `lm-eval ls tasks`, or give the data: {task.exam}=PATH")  # fmt: skip
    return _local(task, found) if task.path is not None else _published(found)


def _config(task: Task, subject: Subject) -> dict[str, Any]:
    """Return the harness's task for one subject; its rows never touch the disk."""
    from datasets import Dataset, DatasetDict

    letters = task.path is not None and task.path.suffix != ".jsonl"
    splits = DatasetDict({"test": Dataset.from_list([_row(q, letters) for q in subject.questions])})
    if task.shots:
        splits["dev"] = Dataset.from_list([_row(q, letters) for q in subject.examples])
    return {
        "task": f"{task.exam}_{subject.name}", "dataset_path": task.exam, "custom_dataset": lambda **_: splits,
        "test_split": "test", "output_type": "multiple_choice",
        "doc_to_text": (ENGLISH if task.exam == "mmlu" else CHINESE) if letters else "{{question}}",
        "doc_to_choice": list(LETTERS) if letters else "{{choices}}", "doc_to_target": "answer",
        "description": _description(task.exam, subject.name),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **({"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}} if task.shots else {}),
    }  # fmt: skip


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
    file = {"ceval": home / "ceval" / f"ceval-valid_{subject}.yaml", "cmmlu": home / "cmmlu" / f"cmmlu_{subject}.yaml",
            "mmlu": home / "mmlu" / "default" / f"mmlu_{subject}.yaml"}.get(exam)  # fmt: skip
    if file is None or not file.is_file():
        return ""
    return str(yaml.safe_load(file.read_text(encoding="utf-8")).get("description", ""))


def _local(task: Task, found: Mapping[str, Any]) -> dict[str, float]:
    """Gather the subjects' accuracies into micro, macro and categories."""
    scores = {name.removeprefix(f"{task.exam}_"): float(row["acc,none"]) for name, row in found["results"].items()}
    counts = {name.removeprefix(f"{task.exam}_"): int(n["effective"]) for name, n in found["n-samples"].items()}
    total = sum(counts.values())
    micro = sum(scores[name] * counts[name] for name in scores) / total
    answer = {"acc": micro, "micro": micro, "macro": _mean(list(scores.values())), "questions": float(total)}
    by_category: dict[str, list[float]] = {}
    for name, score in scores.items():
        by_category.setdefault(category(task.exam, name) or "", []).append(score)
    answer |= {f"category/{name}": _mean(values) for name, values in sorted(by_category.items()) if name}
    return answer | {f"subject/{name}": score for name, score in sorted(scores.items())}


def _published(found: Mapping[str, Any]) -> dict[str, float]:
    """Flatten what the harness answers: its own metrics first, then those of the subtasks by name."""
    answer: dict[str, float] = {}
    first, *_ = found["results"]
    for name, row in found["results"].items():
        for metric, value in row.items():
            if isinstance(value, int | float) and "stderr" not in metric:
                plain = metric.removesuffix(",none")
                answer[plain if name == first else f"{name}/{plain}"] = float(value)
    return answer


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _digest(content: Sequence[Subject | Written]) -> str:
    return str(blake3(repr(list(content)).encode("utf-8", "surrogatepass")).hexdigest())


def _require_harness() -> None:
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        refuse("not-found", "--tasks needs lm-evaluation-harness", "pip install 'lingraft[eval]'")
