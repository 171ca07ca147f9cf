"""Read examinations from a local folder, zip or tar in their published layout, and multiple choice from a JSONL.

    C-Eval   dev/SUBJECT_dev.csv, val/…_val.csv, test/…_test.csv; dev has an `explanation` more, test no answer
    CMMLU    dev/SUBJECT.csv, test/SUBJECT.csv, with a nameless first column
    MMLU     dev/SUBJECT_dev.csv … without a header line: question, A, B, C, D, answer

An archive is read where it lies; nothing is unpacked. Scored is `test` where it has answers, else `val`; the examples
of a few-shot run are the first rows of `dev`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lingraft.problems import refuse

LETTERS = ("A", "B", "C", "D")
COLUMNS = ("question", "a", "b", "c", "d", "answer")
# Never a name that begins with a dot: archives made on a Mac hold a "._" twin of every file.
PLACE = re.compile(r"(?:^|/)(dev|val|test)/([^/.][^/]*?)(?:_(?:dev|val|test))?\.csv$")


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
    """Return the subjects of a folder, an archive or a .jsonl (rows of question, choices, answer), by name.

    Errors: `not-found`, `corrupt-file`, `data-invalid` with file and line.
    """
    if not path.exists():
        refuse("not-found", f"{path} does not exist", "give the folder or zip of the task", path)
    if path.suffix == ".jsonl":
        questions = tuple(_rows(path))
        if not questions:
            refuse("data-invalid", f"{path} holds no question", "give rows of question, choices and answer", path)
        return [Subject(path.stem, questions)]
    splits: dict[str, dict[str, tuple[Question, ...]]] = {}
    for name, raw in _files(path):
        place = PLACE.search(name)
        if place and "auxiliary_train" not in name:
            where = f"{path}:{name}" if path.is_file() else str(path / name)
            splits.setdefault(place[2], {})[place[1]] = tuple(_questions(where, _decode(where, raw)))
    subjects = [
        Subject(name, parts.get("test") or parts.get("val") or (), parts.get("dev", ()))
        for name, parts in sorted(splits.items())
    ]
    found = [one for one in subjects if one.questions]
    if not found:
        refuse(
            "data-invalid",
            f"{path} holds no question with an answer under dev/, val/ or test/",
            "give the folder or zip as it is published",
            path,
        )
    return found


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the .csv files in a folder or an archive."""
    if path.is_dir():
        for file in sorted(path.rglob("*.csv")):
            yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    try:
        if zipfile.is_zipfile(path) or path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith(".csv"):
                        yield name, archive.read(name)
            return
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and member.name.endswith(".csv") else None
                if content is not None:
                    yield member.name, content.read()
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        # RuntimeError: an encrypted member
        refuse("corrupt-file", f"{path} is no readable zip or tar: {error}", "download it again", path)


def _decode(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        refuse("data-invalid", f"{name} is not UTF-8", "give it as it is published", name)


def _questions(name: str, text: str) -> Iterator[Question]:
    place = {cell: i for i, cell in enumerate(COLUMNS)}
    table = _table(name, text)
    for first, (line, row) in enumerate(table):
        header = [cell.strip().lower() for cell in row]
        if first == 0 and {"question", "a", "b"} <= set(header):
            place = {cell: i for i, cell in enumerate(header)}
            if "answer" not in place:  # C-Eval keeps the answers of its test to itself
                return
            continue
        try:
            cells = {key: row[place[key]] for key in COLUMNS}
            answer = LETTERS.index(cells["answer"].strip())
        except (IndexError, KeyError, ValueError):
            refuse(
                "data-invalid",
                f"{name}:{line}: not a question with choices A to D and an answer among them",
                "mend or remove the row named",
                name,
            )
        yield Question(cells["question"], (cells["a"], cells["b"], cells["c"], cells["d"]), answer)


def _table(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the line that it ends on."""
    reader = csv.reader(io.StringIO(text))
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        refuse("data-invalid", f"{name}:{reader.line_num}: {error}", "give it as it is published", name)


def _rows(path: Path) -> Iterator[Question]:
    for number, line in enumerate(_decode(str(path), path.read_bytes()).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            choices = tuple(str(one) for one in row["choices"])
            answer = row["answer"]
            place = choices.index(answer) if isinstance(answer, str) else int(answer)
            yield Question(str(row["question"]), choices, range(len(choices))[place])
        except (ValueError, KeyError, TypeError, IndexError):
            refuse(
                "data-invalid",
                f'{path}:{number}: not {{"question", "choices": […], "answer": one of them or its number from 0}}',
                "mend the row named",
                path,
            )
