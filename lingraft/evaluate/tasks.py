"""Tasks through lm-evaluation-harness: `--tasks ceval@5=/data/ceval-exam.zip,hellaswag`.

NAME alone is the harness's own task, with data from the Hub. NAME=PATH takes the questions from a local folder, zip or
.jsonl (rows with "choices": multiple choice; with "answers": written.py); ceval, cmmlu and mmlu get the prompts that
the harness publishes. NAME@5, or --shots 5 for all, shows five worked examples.
Answered: `acc` (= `micro`, every question weighs the same), `macro` (every subject weighs the same), per category
(macro within it) and per subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lingraft.evaluate.cache import digest_of, remembered
from lingraft.evaluate.exams import Subject, read_exam
from lingraft.evaluate.harness import Exam, Pair, score_exam, score_published
from lingraft.evaluate.outcomes import Result
from lingraft.evaluate.written import is_written, read_written, score_written
from lingraft.problems import Findings, Refusal, refuse


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

    def questions(self) -> list[str]:
        """Return what a local task asks, to be looked for in the training text."""
        if self.path is None:
            return []
        if self.written:
            return [one.prompt for one in read_written(self.path)]
        return [question.text for subject in read_exam(self.path) for question in subject.questions]


def split(text: str) -> list[str]:
    """Split --tasks at its commas, but not at those inside a path that exists."""
    found: list[str] = []
    for part in text.split(","):
        open_path = found[-1].partition("=")[2] if found else ""
        if open_path and not _exists(open_path) and _begins(f"{open_path},{part}"):
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()


def _begins(path: str) -> bool:
    """Tell whether something exists whose path begins so."""
    whole = Path(path).expanduser()
    above = whole.parent
    return whole.exists() or (above.is_dir() and any(one.name.startswith(whole.name) for one in above.iterdir()))


def parse(text: str, limit: int | None, shots: int = 0) -> Task:
    """Read NAME[@SHOTS][=PATH]; ``shots`` holds where the name has none. Error: `data-invalid`."""
    name, _, path = text.partition("=")
    exam, at, number = name.strip().partition("@")
    if not exam or (at and not number.isdigit()) or ("=" in text and not path):
        refuse("data-invalid", f"--tasks {text!r} is not NAME, NAME=PATH or NAME@SHOTS=PATH", "for example ceval@5=DIR")
    count = int(number) if at else shots
    task = Task(f"{exam}@{count}" if count else exam, exam, count, Path(path).expanduser() if path else None, limit)
    if task.written and task.path is not None:
        read_written(task.path)
        return task
    _require_harness()
    for subject in read_exam(task.path) if task.path is not None else ():
        _require_examples(task, subject)
    return task


def parse_all(texts: Sequence[str], limit: int | None, shots: int = 0) -> list[Task]:
    """Read every task. Errors: those of `parse`, all at once, and `data-invalid` where two have one name."""
    findings, found = Findings(), []
    for text in texts:
        try:
            found.append(parse(text, limit, shots))
        except Refusal as refusal:
            findings.absorb(refusal)
    findings.settle()
    names = [task.name for task in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        refuse("data-invalid", f"--tasks names {twice} twice", "give each its own name: NAME=PATH takes any name")
    return found


def run(task: Task, pair: Pair, key: str) -> Result:
    """Score one task under the model that ``key`` names; what was scored before comes from the cache."""
    if task.path is None:
        depends = [key, task.exam, task.shots, task.limit]
        call = lambda: score_published(task.exam, task.shots, task.limit, pair).as_json()  # noqa: E731
    elif task.written:
        wanted = read_written(task.path)
        depends = [key, "written", digest_of(wanted), task.limit]
        call = lambda: score_written(*pair(), wanted, task.limit).as_json()  # noqa: E731
    else:
        exam = Exam(task.exam, task.shots, task.limit, task.path.suffix != ".jsonl")
        return score_exam(exam, read_exam(task.path), pair, key)
    return Result.of_json(remembered("tasks", depends, call))


def _require_examples(task: Task, subject: Subject) -> None:
    known = len(subject.examples)
    if known < task.shots:
        refuse(
            "data-invalid",
            f"{task.path}: {subject.name} has {known} worked examples under dev/, {task.shots} were asked for",
            f"ask for {task.exam}@{known}",
            task.path,
        )


def _require_harness() -> None:
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        refuse("not-found", "--tasks needs lm-evaluation-harness", "pip install 'lingraft[eval]'")
