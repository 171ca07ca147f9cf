"""Examinations in their published layouts, scored by the harness, against a loop of our own and by hand."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lingraft.evaluate.categories import TABLES, category
from lingraft.evaluate.exams import read_exam
from lingraft.evaluate.run import evaluate
from lingraft.evaluate.tasks import parse
from lingraft.problems import Findings, Refusal

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install lingraft[eval])")
LETTERS = "ABCD"


def table(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def question(number: int) -> list[Any]:
    return [f"第{number}题，哪一个对？", f"甲{number}", f"乙{number}", f"丙{number}", f"丁{number}"]


def ceval(subjects: dict[str, int]) -> dict[str, str]:
    """C-Eval's layout: dev with an explanation more, test without answers."""
    head = ["id", "question", "A", "B", "C", "D"]
    files = {}
    for name, count in subjects.items():
        files[f"dev/{name}_dev.csv"] = table(
            [[*head, "answer", "explanation"], *([i, *question(90 + i), "B", "因为"] for i in range(5))]
        )
        files[f"val/{name}_val.csv"] = table(
            [[*head, "answer"], *([i, *question(i), LETTERS[i % 4]] for i in range(count))]
        )
        files[f"test/{name}_test.csv"] = table([head, *([i, *question(50 + i)] for i in range(3))])
    return files


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8-sig")
    return folder


def score(model_dir: Path, task: str, limit: int | None = None) -> dict[str, float]:
    answer = evaluate([str(model_dir)], tasks=[task], limit=limit, findings=Findings())
    (metrics,) = answer["models"][0]["tasks"].values()
    return dict(metrics)


def test_ceval_is_scored_as_a_plain_loop_scores_it(model_dir: Path, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    import torch

    path = write(tmp_path / "ceval", ceval({"logic": 8, "accountant": 4}))
    found = score(model_dir, f"ceval={path}")
    right = 0
    for i in range(8):
        text, *choices = question(i)
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
        prompt = f"以下是中国关于逻辑学的单项选择题，请选出其中的正确答案。\n\n{text}\n{listed}\n答案："
        ids = tokenizer(prompt + " ", return_tensors="pt")["input_ids"][:, -64:]  # the harness answers " A"
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        right += int(logits[[tokenizer(letter)["input_ids"][-1] for letter in LETTERS]].argmax()) == i % 4
    assert found["subject/logic"] == pytest.approx(right / 8)
    assert found["questions"] == 12


def test_micro_macro_and_categories_are_means_of_the_right_things(model_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "ceval", ceval({"logic": 8, "accountant": 4, "physician": 2}))
    found = score(model_dir, f"ceval={path}")
    logic, accountant, physician = (found[f"subject/{n}"] for n in ("logic", "accountant", "physician"))
    assert found["macro"] == pytest.approx((logic + accountant + physician) / 3)
    assert found["acc"] == found["micro"] == pytest.approx((8 * logic + 4 * accountant + 2 * physician) / 14)
    assert found["category/Other"] == pytest.approx((accountant + physician) / 2)
    assert found["category/Humanities"] == logic


def test_a_constant_answer_scores_a_quarter(make_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    import torch

    flat = make_model()
    torch.nn.init.zeros_(flat.lm_head.weight)
    flat.save_pretrained(tmp_path / "flat")
    tokenizer.save_pretrained(tmp_path / "flat")
    path = write(tmp_path / "ceval", ceval({"logic": 8, "law": 12}))
    assert score(tmp_path / "flat", f"ceval={path}")["acc"] == 0.25


def test_a_zip_scores_as_its_folder_and_limit_is_per_subject(model_dir: Path, tmp_path: Path) -> None:
    files = ceval({"logic": 8, "law": 8})
    with zipfile.ZipFile(tmp_path / "ceval-exam.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    folder = write(tmp_path / "ceval", files)
    assert score(model_dir, f"ceval={tmp_path / 'ceval-exam.zip'}", 3) == score(model_dir, f"ceval={folder}", 3)
    assert score(model_dir, f"ceval={folder}", 3)["questions"] == 6


def test_worked_examples_change_the_prompt(tmp_path: Path) -> None:
    from lingraft.evaluate.harness import Exam, config

    path = write(tmp_path / "ceval", ceval({"logic": 8}))
    asked = config(Exam("ceval", 2, None, True), read_exam(path)[0])
    assert (asked["fewshot_split"], asked["num_fewshot"]) == ("dev", 2)
    assert asked["custom_dataset"]()["dev"][0]["answer"] == 1


def test_few_shot_runs_and_is_named_so(model_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "ceval", ceval({"logic": 4}))
    answer = evaluate([str(model_dir)], tasks=[f"ceval@2={path}"], findings=Findings())
    assert set(answer["models"][0]["tasks"]) == {"ceval@2"}
    assert (
        evaluate([str(model_dir)], tasks=[f"ceval={path}"], shots=2, findings=Findings())["models"][0]["tasks"]
        == answer["models"][0]["tasks"]
    )


def test_cmmlu_and_mmlu_are_read_in_their_own_layouts(tmp_path: Path) -> None:
    cmmlu = write(
        tmp_path / "c",
        {
            "test/anatomy.csv": table(
                [["", "Question", "A", "B", "C", "D", "Answer"], *([i, *question(i), "C"] for i in range(3))]
            )
        },
    )
    mmlu = write(
        tmp_path / "m",
        {
            "data/test/anatomy_test.csv": table([[*question(i), "D"] for i in range(3)]),
            "data/dev/anatomy_dev.csv": table([[*question(9), "A"]]),
        },
    )
    (a,), (b,) = read_exam(cmmlu), read_exam(mmlu)
    assert (a.name, a.questions[0].answer, len(a.questions)) == ("anatomy", 2, 3)
    assert (b.name, b.questions[0].answer, b.examples[0].answer) == ("anatomy", 3, 0)
    assert a.questions[0].choices == b.questions[0].choices


def test_an_archive_from_a_mac_and_mmlus_tar_are_read(tmp_path: Path) -> None:
    import tarfile

    row = table([["", "Question", "A", "B", "C", "D", "Answer"], [0, *question(1), "C"]])
    with zipfile.ZipFile(tmp_path / "cmmlu_v1_0_1.zip", "w") as archive:
        archive.writestr("test/anatomy.csv", row)
        archive.writestr("__MACOSX/test/._anatomy.csv", b"\x00\x05\x16\x07\xff")
    folder = write(tmp_path / "data", {"test/anatomy_test.csv": table([[*question(1), "D"]])})
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(folder, "data")
    assert [len(one.questions) for one in read_exam(tmp_path / "cmmlu_v1_0_1.zip")] == [1]
    assert read_exam(tmp_path / "data.tar")[0].questions[0].answer == 3


def test_a_path_may_hold_commas_and_equals_signs(tmp_path: Path) -> None:
    from lingraft.evaluate.tasks import split

    path = write(tmp_path / "a,b=c, d", ceval({"logic": 4}))
    assert split(f"x,ceval@2={path},y=./none,z") == ["x", f"ceval@2={path}", "y=./none", "z"]
    assert parse(f"ceval@2={path}", None).path == path


def test_a_difference_of_answers_carries_its_interval(model_dir: Path, other_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "ceval", ceval({"logic": 20, "law": 20}))
    answer = evaluate([str(model_dir), str(other_dir)], tasks=[f"ceval={path}"], findings=Findings())
    a, b = (row["tasks"]["ceval"]["acc"] for row in answer["models"])
    (found,) = answer["differences"]
    assert (found["measure"], found["unit"], found["units"]) == ("ceval/acc", "question", 40)
    assert found["difference"] == pytest.approx(b - a) and found["low"] <= b - a <= found["high"]


def test_an_interrupted_examination_goes_on(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lingraft.evaluate import harness

    path = write(tmp_path / "ceval", ceval({"law": 4, "logic": 4}))
    asked: list[str] = []
    real = harness._subject

    def until_logic(exam: Any, subject: Any, lm: Any) -> Any:
        asked.append(subject.name)
        if asked == ["law", "logic"]:
            raise KeyboardInterrupt
        return real(exam, subject, lm)

    monkeypatch.setattr(harness, "_subject", until_logic)
    with pytest.raises(KeyboardInterrupt):
        score(model_dir, f"ceval={path}")
    assert score(model_dir, f"ceval={path}")["questions"] == 8
    assert asked == ["law", "logic", "logic"]


def test_a_classification_set_is_read_from_rows(model_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"question": "股市大涨。类别：", "choices": ["体育", "财经"], "answer": "财经"},
        {"question": "球队夺冠。类别：", "choices": ["体育", "财经"], "answer": 0},
    ]
    (tmp_path / "tnews.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    assert score(model_dir, f"tnews={tmp_path / 'tnews.jsonl'}")["acc"] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (table([["question", "A", "B", "C", "D", "answer"], ["q", 1, 2, 3, 4, "E"]]), "x_val.csv:2"),
        (table([["question", "A", "B", "answer"], ["q", 1, 2, "A"]]), "x_val.csv:2"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(Refusal, match=f"data-invalid: .*{said}"):
        read_exam(write(tmp_path, {"val/x_val.csv": content}))


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "ceval", ceval({"logic": 4}))
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    for text, said in [
        (f"ceval@9={path}", "data-invalid"),
        ("ceval@x=y", "data-invalid"),
        ("ceval=./no", "not-found"),
        (f"ceval={tmp_path / 'bad.zip'}", "corrupt-file"),
        (f"ceval={path / 'dev'}", "data-invalid"),
    ]:
        with pytest.raises(Refusal, match=said):
            parse(text, None)


def test_the_tables_hold_every_published_subject_once() -> None:
    counts = {exam: [s for subjects in table.values() for s in subjects.split()] for exam, table in TABLES.items()}
    assert {exam: len(names) for exam, names in counts.items()} == {"ceval": 52, "cmmlu": 67, "mmlu": 57}
    assert all(len(set(names)) == len(names) for names in counts.values())
    assert category("ceval", "law") == "Humanities" and category("ceval", "cooking") is None
