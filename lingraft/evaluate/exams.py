"""Read examinations from a local folder or zip in their published layout, and multiple choice from a JSONL.

    C-Eval   dev/SUBJECT_dev.csv, val/…_val.csv, test/…_test.csv; dev has an `explanation` more, test no answer
    CMMLU    dev/SUBJECT.csv, test/SUBJECT.csv, with a nameless first column
    MMLU     dev/SUBJECT_dev.csv … without a header line: question, A, B, C, D, answer

A zip is read where it lies; nothing is unpacked. Scored is `test` where it has answers, else `val`; the examples of a
few-shot run are the first rows of `dev`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lingraft.problems import refuse

LETTERS = ("A", "B", "C", "D")
PLACE = re.compile(r"(?:^|/)(dev|val|test)/([^/]+?)(?:_(?:dev|val|test))?\.csv$")


@dataclass(frozen=True)
class Question:
    """One question, its choices and the number of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Subject:
    """One subject of an examination: what is scored, and the worked examples."""

    name: str
    questions: tuple[Question, ...]
    examples: tuple[Question, ...] = ()


def read_exam(path: Path) -> list[Subject]:
    """Return the subjects of a folder, a zip or a .jsonl (rows of question, choices, answer), by name.

    Errors: `not-found`, `corrupt-file`, `data-invalid` with file and line.
    """
    if not path.exists():
        refuse("not-found", f"{path} does not exist", "give the folder or zip of the task", path)
    if path.suffix == ".jsonl":
        return [Subject(path.stem, tuple(_rows(path)))]
    splits: dict[str, dict[str, tuple[Question, ...]]] = {}
    for name, text in _files(path):
        place = PLACE.search(name)
        if place and "auxiliary_train" not in name:
            questions = tuple(_questions(f"{path}:{name}", text))
            splits.setdefault(place[2], {})[place[1]] = questions
    subjects = [Subject(name, parts.get("test") or parts.get("val") or (), parts.get("dev", ()))
                for name, parts in sorted(splits.items())]  # fmt: skip
    found = [one for one in subjects if one.questions]
    if not found:
        refuse("data-invalid", f"{path} holds no question with an answer under dev/, val/ or test/",
               "give the folder or zip as it is published", path)  # fmt: skip
    return found


def _files(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        for file in sorted(path.rglob("*.csv")):
            yield file.relative_to(path).as_posix(), _decode(str(file), file.read_bytes())
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".csv"):
                    yield name, _decode(f"{path}:{name}", archive.read(name))
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        refuse("corrupt-file", f"{path} is no readable zip: {error}", "download it again", path)


def _decode(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        refuse("data-invalid", f"{name} is not UTF-8", "give it as it is published", name)


def _questions(name: str, text: str) -> Iterator[Question]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "question" in header:
        place = {cell: i for i, cell in enumerate(header)}
        rows = rows[1:]
    else:
        place = {cell: i for i, cell in enumerate(("question", "a", "b", "c", "d", "answer"))}
    if "answer" not in place:  # C-Eval keeps the answers of its test to itself
        return
    for number, row in enumerate(rows, 2 if "question" in header else 1):
        try:
            cells = {key: row[place[key]] for key in ("question", "a", "b", "c", "d", "answer")}
            answer = LETTERS.index(cells["answer"].strip())
        except (IndexError, KeyError, ValueError):
            refuse("data-invalid", f"{name}:{number}: not a question with choices A to D and an answer among them",
                   "mend or remove the row named", name)  # fmt: skip
        yield Question(cells["question"], (cells["a"], cells["b"], cells["c"], cells["d"]), answer)


def _rows(path: Path) -> Iterator[Question]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            choices = tuple(str(one) for one in row["choices"])
            answer = row["answer"]
            place = choices.index(answer) if isinstance(answer, str) else int(answer)
            yield Question(str(row["question"]), choices, range(len(choices))[place])
        except (ValueError, KeyError, TypeError, IndexError):
            refuse("data-invalid", f'{path}:{number}: not {{"question", "choices": […], "answer": one of them or its '
                   "number from 0}", "mend the row named", path)  # fmt: skip
