"""Encoders and decoders learn to classify; what they save loads in plain peft and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from lingraft.data.labelled import labelled
from lingraft.problems import Findings, Refusal
from lingraft.train import classify
from lingraft.train.classified import balanced, metrics


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Sixty short texts of two classes, told apart by their letters."""
    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"{'aaaa bbb' if i % 3 else 'xyz zzz'} {i}\t{int(i % 3 == 0)}\n" for i in range(60)))
    return path


@pytest.fixture
def bert(tmp_path: Path, tiny_llama: Path) -> Path:
    """A tiny BERT with the tiny tokenizer."""
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            pad_token_id=2,
        )
    ).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("which", ["bert", "tiny_llama"])
def test_encoders_and_decoders_learn_and_reload_in_plain_peft(
    make_stage: Any, rows: Path, which: str, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(which)
    stage = make_stage(
        base,
        [{"kind": "lora", "r": 8}],
        name="classify",
        data=str(rows),
        validation=0.2,
        class_weights="balanced",
        trainer={"max_steps": 25, "save_steps": 25, "per_device_train_batch_size": 16},
    )
    result = classify.run(stage)
    assert result["validation"]["accuracy"] > 0.9 and result["validation"]["macro_f1"] > 0.9
    config = AutoConfig.from_pretrained(base, num_labels=2)
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    model = PeftModel.from_pretrained(model, stage.out).eval()
    tokenizer = AutoTokenizer.from_pretrained(stage.out)
    guess = [int(model(**tokenizer(t, return_tensors="pt")).logits.argmax()) for t in ("aaaa bbb 7", "xyz zzz 9")]
    assert guess == [0, 1]


def test_targets_that_a_bert_has_not_are_refused_with_those_it_has(make_stage: Any, rows: Path, bert: Path) -> None:
    stage = make_stage(bert, [{"kind": "lora", "targets": ["q_proj"]}], name="classify", data=str(rows))
    with pytest.raises(Refusal) as refused:
        classify.run(stage)
    assert refused.value.problems[0].code == "recipe-invalid" and "query" in refused.value.problems[0].message


def test_the_report_shows_what_the_classifier_reads(make_stage: Any, tmp_path: Path, tiny_llama: Path) -> None:
    texts = [f"<i>第{i}条</i>新闻标题" for i in range(20)] + ["很长的标题" * 30, "<i>第0条</i>新闻标题"]
    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)), encoding="utf-8")
    stage = make_stage(
        tiny_llama, [{"kind": "lora"}], name="classify", data=str(path), clean=["tags", "duplicates"], length=64
    )
    stats = classify.prepare(stage, AutoTokenizer.from_pretrained(tiny_llama)).train.stats
    assert (stats["rows_in"], stats["rows_out"], stats["cut"], stats["held_out"]) == (22, 21, 1, 0)
    assert [(one["changed"], one["removed"]) for one in stats["clean"]] == [(21, 0), (0, 1)]
    assert stats["lengths"][-1] == {"from": 57, "to": 64, "rows": 1} and sum(b["rows"] for b in stats["lengths"]) == 21
    assert stats["examples"][0] == "第0条新闻标题 ⟦0⟧" and len(stats["examples"]) == 5


def test_accuracy_and_f1_are_counted_by_hand() -> None:
    class Told:
        label_ids = (0, 0, 1, 2)
        predictions = ((9, 0, 0), (0, 9, 0), (0, 9, 0), (9, 0, 0))

    assert metrics(Told) == pytest.approx({"accuracy": 0.5, "macro_f1": (1 / 2 + 2 / 3 + 0) / 3})


def test_balanced_weights_make_classes_count_alike() -> None:
    weights = balanced([0, 0, 0, 1], 2)
    assert float(3 * weights[0]) == pytest.approx(float(weights[1]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.csv", 'label,text\nA,"one, two"\nB,three\n'),
        ("n.tsv", "one, two\tA\nthree\tB\n"),
        ("j.jsonl", '{"text": "one, two", "label": "A"}\n{"text": "three", "label": "B"}\n'),
    ],
)
def test_labelled_texts_are_read_from_every_container(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [(i.text, i.label) for i in labelled([tmp_path / name], Findings())] == [("one, two", "A"), ("three", "B")]


def test_a_row_without_a_class_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("one\tA\ntwo\n")
    with pytest.raises(Refusal) as refused:
        labelled([tmp_path / "x.tsv"], Findings())
    assert refused.value.problems[0].path == f"{tmp_path / 'x.tsv'}:2"
