"""From a recipe's block to packed tokens: cached by content, held out, kept clean, mixed, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lingraft.data import make as making
from lingraft.data.make import Order
from lingraft.data.prepare import Ready, prepare
from lingraft.data.templates import resolve
from lingraft.problems import Findings, Refusal
from lingraft.recipe import Pretrain, Sft

PLACES = ["河边", "山顶", "村口", "桥上", "院子里", "田野中", "海滩", "市集", "码头", "庙前"]


def _text(number: int) -> str:
    guests, ship = number * 37 % 101, number * number
    return f"第{number}天清晨，{PLACES[number % 10]}来了{guests}位客人，他们谈论着第{ship}号船和远方的天气。"


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return _write(tmp_path / "corpus.jsonl", [{"text": _text(i)} for i in range(50)])


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    return _write(tmp_path / "talks.jsonl", [{"instruction": f"问题{i}？", "output": _text(i)} for i in range(40)])


def _prepare(
    data: Path, tokenizer: Any, findings: Findings | None = None, protected: tuple[str, ...] = (), **block: Any
) -> Ready:
    found = findings or Findings()
    if data.name == "talks.jsonl":
        order = Order(Sft(data=str(data), **block), "conversations", 1, resolve("auto", tokenizer), "all", protected)
    else:
        order = Order(Pretrain(data=str(data), **block), "documents", 1, protected=protected)
    return prepare(order, tokenizer, found)


def _texts(packed: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(packed.segments.ids(i).tolist()) for i in range(len(packed.segments))]


def test_a_second_run_reads_nothing_and_gets_the_same(
    corpus: Path, tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _prepare(corpus, tokenizer, validation=0.1)
    assert sorted(p.suffix for p in next((cache / "tokens").glob("[0-9a-f]*")).iterdir()) == [
        ".arrow",
        ".arrow",
        ".json",
        ".npz",
        ".npz",
    ]
    monkeypatch.setattr(making.text, "stream", None)
    second = _prepare(corpus, tokenizer, validation=0.1)
    assert [first.train[i] for i in range(len(first.train))] == [second.train[i] for i in range(len(second.train))]
    assert first.train.stats == second.train.stats and second.validation is not None


def test_other_content_tokenizer_or_settings_are_another_entry(corpus: Path, tokenizer: Any, cache: Path) -> None:
    import copy

    _prepare(corpus, tokenizer)
    _write(corpus, [{"text": _text(i)} for i in range(51)])
    assert _prepare(corpus, tokenizer).train.stats["rows_in"] == 51
    _prepare(corpus, tokenizer, clean=["tags"])
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["春天"])
    _prepare(corpus, other)
    assert len(list((cache / "tokens").glob("*/report.json"))) == 4


def test_arrow_read_by_datasets_holds_the_tokens(corpus: Path, tokenizer: Any, cache: Path) -> None:
    import pyarrow as pa

    packed = _prepare(corpus, tokenizer).train
    table = pa.ipc.open_file(next(cache.glob("tokens/*/train.arrow"))).read_all()
    assert table.column("ids").to_pylist() == [packed.segments.ids(i).tolist() for i in range(50)]


def test_a_warning_is_told_again_from_the_cache(talks: Path, tokenizer: Any) -> None:
    first, second = (Findings(allow=frozenset({"nothing-supervised"})) for _ in range(2))
    for findings in (first, second):
        _prepare(talks, tokenizer, findings, length=64)
    assert first.warnings and first.warnings == second.warnings and first.allowed == second.allowed


def test_bad_rows_left_out_knowingly_are_reported(corpus: Path, tokenizer: Any) -> None:
    with corpus.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(Refusal) as refused:
        _prepare(corpus, tokenizer)
    assert refused.value.problems[0].path == f"{corpus}:51"
    findings = Findings(allow=frozenset({"data-invalid"}))
    assert _prepare(corpus, tokenizer, findings).train.stats["rows_in"] == 50
    assert findings.allowed[0].message.startswith("1 of 51 rows")


def test_held_out_rows_are_in_neither_more_nor_less_than_one_side(corpus: Path, tokenizer: Any) -> None:
    found = _prepare(corpus, tokenizer, validation=0.1)
    assert found.validation is not None and found.train.stats["rows_in"] == 45
    assert found.validation.stats["rows_in"] == 5
    both = _texts(found.train, tokenizer) + _texts(found.validation, tokenizer)
    assert len(set(both)) == 50


def test_a_share_that_leaves_nothing_is_refused(corpus: Path, tokenizer: Any) -> None:
    _write(corpus, [{"text": _text(0)}])
    with pytest.raises(Refusal) as refused:
        _prepare(corpus, tokenizer, validation=0.5)
    assert refused.value.problems[0].code == "data-invalid"


def test_leakage_cuts_the_lines_that_stand_in_held_out_text(tmp_path: Path, tokenizer: Any) -> None:
    held = tmp_path / "held.txt"
    held.write_text(_text(3) + _text(4), encoding="utf-8")
    book = tmp_path / "book.txt"
    book.write_text("\n".join(_text(i) for i in range(10)), encoding="utf-8")
    found = _prepare(book, tokenizer, clean=["leakage"], protected=(str(held),), length=4096)
    text = "".join(_texts(found.train, tokenizer))
    assert _text(3) not in text and _text(4) not in text and all(_text(i) in text for i in (0, 1, 2, 5, 9))
    (told,) = found.train.stats["clean"]
    assert told["changed"] == 1 and told["removed"] == 0 and _text(3)[:20] in told["examples"][0]


def test_leakage_drops_conversations_that_answer_what_is_held_out(talks: Path, tokenizer: Any) -> None:
    rows = [json.loads(line) for line in talks.read_text(encoding="utf-8").splitlines()]
    _write(talks, [*rows, *rows])  # every row twice: whatever is held out may stand on the other side, too
    found = _prepare(talks, tokenizer, validation=0.1, clean=["leakage"])
    assert found.validation is not None
    assert not set(_texts(found.train, tokenizer)) & set(_texts(found.validation, tokenizer))
    assert found.train.stats["clean"][0]["removed"] > 0


def test_leakage_without_anything_held_out_is_refused(corpus: Path, tokenizer: Any) -> None:
    with pytest.raises(Refusal) as refused:
        _prepare(corpus, tokenizer, clean=["leakage"])
    assert refused.value.problems[0].code == "recipe-invalid"


def test_paraphrases_touch_only_the_training_split_and_are_counted(talks: Path, tokenizer: Any) -> None:
    plain = _prepare(talks, tokenizer, validation=0.2)
    found = _prepare(talks, tokenizer, validation=0.2, augment=[{"kind": "paraphrase", "copies": 2, "share": 0.5}])
    assert plain.validation is not None and found.validation is not None
    assert _texts(found.validation, tokenizer) == _texts(plain.validation, tokenizer)
    (told,) = found.train.stats["augment"]
    assert told["rows_in"] == 32 and told["added"] % 2 == 0 and 10 < told["added"] < 54
    assert found.train.stats["rows_out"] == 32 + told["added"] and len(told["examples"]) == 3
    assert all("问题" in text for text in _texts(found.train, tokenizer))


@pytest.mark.parametrize(
    "item", ["rewrite", {"kind": "paraphrase", "times": 2}, {"kind": "paraphrase", "frames": ["x"]}]
)
def test_unknown_augmentations_are_refused_by_path(talks: Path, tokenizer: Any, item: Any) -> None:
    with pytest.raises(Refusal) as refused:
        _prepare(talks, tokenizer, augment=[item])
    assert refused.value.problems[0].message.startswith("augment.0")


def test_replay_is_mixed_in_by_weight_and_counted(corpus: Path, tmp_path: Path, tokenizer: Any) -> None:
    english = _write(tmp_path / "en.jsonl", [{"text": f"The river number {i} is wide and slow."} for i in range(9)])
    mix = [{"path": str(corpus), "weight": 3}, {"path": str(english), "weight": 1}]
    order = Order(Pretrain.model_validate({"mix": mix}), "documents", 1)
    stats = prepare(order, tokenizer, Findings()).train.stats
    assert [m["source"] for m in stats["mix"]] == [str(corpus), str(english)]
    assert stats["mix"][1]["share"] == pytest.approx(0.25, abs=0.02) and stats["mix"][1]["epochs"] > 1
    assert stats["tokens"] == sum(m["drawn"] for m in stats["mix"])


def test_what_cleaning_removes_is_told_with_three_examples(corpus: Path, tokenizer: Any) -> None:
    pytest.importorskip("rensa")
    rows = [_text(i) for i in range(50)] + [_text(i) for i in range(5)] + [_text(i) + "！" for i in range(5)]
    _write(corpus, [{"text": text} for text in rows])
    steps = ["duplicates", {"step": "near_duplicates", "threshold": 0.9}, {"step": "length", "min": 5}]
    found = _prepare(corpus, tokenizer, clean=steps).train.stats
    assert [t["removed"] for t in found["clean"]] == [5, 5, 0] and len(found["clean"][0]["examples"]) == 3
    assert found["rows_in"] == 60 and found["rows_out"] == 50


def test_a_report_says_everything(talks: Path, tokenizer: Any) -> None:
    stats = _prepare(talks, tokenizer, length=512).train.stats
    assert stats["rows_in"] == stats["rows_out"] == 40 and 0 < stats["supervised_tokens"] < stats["tokens"]
    assert sum(b["rows"] for b in stats["lengths"]) == 40 and 0 <= stats["padding_share"] < 0.2
    assert len(stats["examples"]) == 5 and all("⟦" in e and e.index("问题") < e.index("⟦") for e in stats["examples"])
    assert stats["cut"] == stats["left_out"] == 0 and stats["contradictions"]["inputs"] == 0


def test_a_cache_that_cannot_be_written_is_done_without(corpus: Path, tokenizer: Any, monkeypatch: Any) -> None:
    from lingraft.data import cache

    monkeypatch.setattr(cache, "FileLock", lambda path: (_ for _ in ()).throw(PermissionError("read-only")))
    assert _prepare(corpus, tokenizer).train.stats["rows_in"] == 50


@pytest.mark.parametrize("block", [{"mix": []}, {"data": []}, {"mix": [{"path": "x", "weight": float("inf")}]}])
def test_a_mixture_of_nothing_or_of_endless_weight_is_no_recipe(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data|finite"):
        Pretrain.model_validate(block)
