"""Written answers, and what was seen in training: hand-computed values and the kept libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lingraft.evaluate.overlap import contamination
from lingraft.evaluate.run import evaluate
from lingraft.evaluate.written import Wanted, _wanted, f1, metrics, read_written, rouge_l
from lingraft.problems import Findings, Refusal

pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (pip install lingraft[eval])")


def test_rouge_l_of_chinese_is_by_character() -> None:
    # 长城很长 / 长城真的很长: the longest common subsequence is 长城很长, precision 4/4, recall 4/6
    assert rouge_l("长城很长", "长城真的很长") == pytest.approx(2 * 1 * (4 / 6) / (1 + 4 / 6))
    assert rouge_l("the wall is long", "The wall, long.") == pytest.approx(2 * (3 / 4) * 1 / (3 / 4 + 1))


def test_f1_counts_common_units_whatever_their_order() -> None:
    assert f1("长城", "城长") == 1.0
    assert f1("Paris it is", "Paris") == pytest.approx(0.5)
    assert f1("", "Paris") == 0.0


def test_the_best_reference_counts_and_chrf_is_sacrebleus() -> None:
    import sacrebleu

    found = metrics("长城很长", Wanted("q", ("别的", "长城很长。")))
    assert found["chrf"] == pytest.approx(sacrebleu.sentence_chrf("长城很长", ["长城很长。"]).score / 100)
    assert (found["rouge_l"], found["f1"], found["exact"]) == (1.0, 1.0, 0.0)


def test_naming_every_class_is_not_naming_the_right_one() -> None:
    wanted = Wanted("q", ("体育",), ("体育", "财经", "房产"))
    assert metrics("这是体育新闻", wanted)["classification"] == 1.0
    assert metrics("体育、财经或房产", wanted)["classification"] == pytest.approx(1 / 3)
    assert metrics("财经", wanted)["classification"] == 0.0


def test_longbench_rows_are_scored_through_evaluate(model_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"input": "城在哪里？", "context": "长城在北方。" * 30, "answers": ["北方"], "all_classes": None},
        {"input": "谁来了？", "context": "", "answers": ["春天"]},
    ]
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    answer = evaluate([str(model_dir)], tasks=[f"qa={tmp_path / 'qa.jsonl'}"], findings=Findings())
    found = answer["models"][0]["tasks"]["qa"]
    assert found["questions"] == 2 and "score" not in found
    assert 0 <= found["f1"] <= 1 and {"chrf", "rouge_l", "exact", "repetition"} <= set(found)


LONGBENCH = [
    (
        {"input": "城在哪里？", "context": "长城在北方。", "answers": ["北方"], "dataset": "multifieldqa_zh"},
        "qa_f1_zh_score",
        "在北方",
    ),
    (
        {"input": "Type:", "context": "Q", "answers": ["Date"], "all_classes": ["Date", "City"], "dataset": "trec"},
        "classification_score",
        "Date or City",
    ),
    ({"input": "", "context": "p", "answers": ["7"], "dataset": "passage_count"}, "count_score", "7 or 8"),
    (
        {"input": "q", "context": "p", "answers": ["段落3"], "dataset": "passage_retrieval_zh"},
        "retrieval_zh_score",
        "段落3",
    ),
    (
        {"input": "", "context": "report", "answers": ["the wall is long"], "dataset": "gov_report"},
        "rouge_score",
        "the wall",
    ),
]


@pytest.mark.parametrize(("row", "metric", "said"), LONGBENCH, ids=[row["dataset"] for row, _, _ in LONGBENCH])
def test_longbench_is_asked_and_scored_as_published(row: dict[str, Any], metric: str, said: str) -> None:
    theirs = pytest.importorskip("lm_eval.tasks.longbench.metrics", reason="pip install lingraft[eval]")
    wanted = _wanted(row)
    assert row["context"] in wanted.prompt and "{{" not in wanted.prompt
    assert metrics(said, wanted)["score"] == getattr(theirs, f"get_{metric}")(row, [said])[metric] > 0


def test_a_row_without_an_answer_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text('{"question": "a", "answers": ["b"]}\n{"question": "a", "answers": []}')
    with pytest.raises(Refusal, match=r"data-invalid: .*qa\.jsonl:2"):
        read_written(tmp_path / "qa.jsonl")


def test_contamination_is_the_share_of_common_ngrams() -> None:
    heldout, training = ["一二三四五六七八九十", "甲乙丙丁戊己庚"], ["前文一二三，四五六！后文", "无关"]
    found = contamination(heldout, training, n=5)
    # 6 + 3 five-grams are held out; 一二三四五 and 二三四五六 stand in the training text too
    assert (found["share"], found["ngrams"], found["documents"], found["first"]) == (pytest.approx(2 / 9), 9, 1, [0])


POEM = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", POEM),
        ("a.jsonl", json.dumps({"text": POEM})),
        ("b.jsonl", json.dumps({"conversation": [{"human": "背诗", "assistant": POEM}]})),
        ("a.json", json.dumps([{"instruction": "背诗", "output": POEM}])),
    ],
)
def test_text_that_was_trained_on_is_found_in_any_layout(
    model_dir: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "same.txt").write_text("春眠不觉晓 处处闻啼鸟 夜来风雨声 花落知多少")
    (tmp_path / "other.txt").write_text("白日依山尽，黄河入海流。欲穷千里目，更上一层楼。")
    told = evaluate(
        [str(model_dir)],
        text=tmp_path / "same.txt",
        english=tmp_path / "other.txt",
        train=[tmp_path / name],
        findings=Findings(),
    )["contamination"]
    assert (told["share"], told["text"]["share"], told["english"]["share"]) == (1.0, 1.0, 0.0)
    assert told["files"] == [str(tmp_path / name)]


def test_a_text_too_short_for_an_ngram_has_no_share() -> None:
    assert contamination(["三个字"], ["三个字"])["share"] is None
