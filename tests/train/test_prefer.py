"""Preference training through trl keeps our checkpoints, and its adapters load in plain peft."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lingraft.data.preferences import preferences
from lingraft.problems import Findings, Refusal
from lingraft.train import prefer

ROW = {"prompt": "你好", "chosen": "你好！有什么可以帮你？", "rejected": "no"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Eight preferences in the two common shapes."""
    other = {
        "conversations": [{"from": "human", "value": "谢谢"}],
        "chosen": {"from": "gpt", "value": "不客气。"},
        "rejected": {"from": "gpt", "value": "bad"},
    }
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in [ROW, other] * 4))
    return path


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo", "reward"])
def test_each_method_moves_the_adapter_and_ends_with_a_sealed_checkpoint(
    make_stage: Any, tiny_llama: Path, pairs: Path, method: str
) -> None:
    from lingraft.train.checkpoints import intact

    stage = make_stage(
        tiny_llama,
        [{"kind": "lora", "r": 4}],
        name="prefer",
        data=str(pairs),
        method=method,
        trainer={"max_steps": 2, "per_device_train_batch_size": 2},
    )
    result = prefer.run(stage)
    assert result["steps"] == 2 and intact(stage.work / "checkpoints" / "checkpoint-2")
    saved = load_file(stage.out / "adapter_model.safetensors")
    assert any(t.any() for name, t in saved.items() if "lora_B" in name)
    assert not any(".ref." in name for name in saved) and not (stage.out / "ref").exists()


def _prepared(make_stage: Any, base: Path, data: Path, allow: str = "", **block: Any) -> Any:
    from lingraft.models import load_tokenizer

    stage = make_stage(base, [{"kind": "lora", "r": 4}], name="prefer", data=str(data), **block)
    stage = replace(stage, findings=Findings(allow=frozenset(allow.split())))
    return prefer.prepare(stage, load_tokenizer(base))


def _of_trl(examples: Any, base: Path, tmp_path: Path, length: int) -> Any:
    """What trl's own trainer makes of the rows."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=trl.DPOConfig(output_dir=str(tmp_path / "trl"), max_length=length, report_to=[], use_cpu=True),
        train_dataset=Dataset.from_list(list(examples.train.rows)),
        processing_class=examples.tokenizer,
    )
    return trainer.train_dataset, trainer.data_collator


def test_the_report_counts_what_trl_trains_on(make_stage: Any, tiny_llama: Path, pairs: Path, tmp_path: Path) -> None:
    examples = _prepared(make_stage, tiny_llama, pairs, length=50)
    stats, (rows, collate) = examples.train.stats, _of_trl(examples, tiny_llama, tmp_path, 50)
    batch = collate(list(rows))
    assert stats["tokens"] == int(batch["attention_mask"].sum()) and stats["cut"] == 4
    assert stats["supervised_tokens"] == int(batch["completion_mask"].sum())
    assert sum(step["rows"] for step in stats["lengths"]) == len(batch["input_ids"]) == 2 * stats["rows_out"]
    assert "⟦你好！" in stats["examples"][0] and "✗ ⟦no" in stats["examples"][0]


def test_pairs_without_room_for_an_answer_are_refused_not_dropped(
    make_stage: Any, tiny_llama: Path, pairs: Path, tmp_path: Path
) -> None:
    with pairs.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({**ROW, "prompt": "很长的问题" * 20}, ensure_ascii=False))
    with pytest.raises(Refusal) as refused:
        _prepared(make_stage, tiny_llama, pairs, length=100)
    assert refused.value.problems[0].code == "nothing-supervised" and f"{pairs}:9" in refused.value.problems[0].message
    examples = _prepared(make_stage, tiny_llama, pairs, "nothing-supervised", length=100)
    assert examples.train.stats["left_out"] == 1
    assert len(_of_trl(examples, tiny_llama, tmp_path, 100)[0]) == examples.train.stats["rows_out"] == 8


def test_preferences_are_cleaned_and_held_out_ones_do_not_leak(
    make_stage: Any, tiny_llama: Path, pairs: Path, tmp_path: Path
) -> None:
    shown = {"text": "这一段话留作评测，训练里不应当再出现它。"}
    rows = [{"prompt": f"<b>第{i}个</b>问题", "chosen": f"{i}" * 3, "rejected": "no"} for i in range(8)]
    rows.append({**rows[0], "prompt": shown["text"]})
    pairs.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in [*rows, rows[0]]), encoding="utf-8")
    (tmp_path / "held.jsonl").write_text(json.dumps(shown, ensure_ascii=False), encoding="utf-8")
    clean = ["tags", "duplicates", {"step": "leakage", "against": str(tmp_path / "held.jsonl")}]
    examples = _prepared(make_stage, tiny_llama, pairs, clean=clean, validation=2 / 9)
    told = {one["step"]: (one["changed"], one["removed"]) for one in examples.train.stats["clean"]}
    assert told["tags"] == (9, 0) and told["duplicates"] == (0, 1) and told["leakage"][1] <= 1
    assert examples.train.stats["held_out"] == len(examples.validation) == 2
    assert not any("<b>" in row["prompt"][0]["content"] or "评测" in str(row) for row in examples.train.rows)


def variety(completions: list[Any], **_: Any) -> list[float]:
    """A reward of a user's own: how many different characters an answer has."""
    return [float(len(set(made[-1]["content"]))) for made in completions]


def test_grpo_samples_answers_and_learns_from_their_rewards(make_stage: Any, tiny_llama: Path, talks: Path) -> None:
    stage = make_stage(
        tiny_llama,
        [{"kind": "lora", "r": 4}],
        name="prefer",
        data=str(talks),
        method="grpo",
        length=8,
        rewards=[{"kind": "test_prefer:variety"}, {"kind": "han", "weight": 0.5}],
        out="grpo",
        trainer={"max_steps": 2, "per_device_train_batch_size": 4, "num_generations": 4, "temperature": 1.5},
    )
    assert prefer.run(stage)["steps"] == 2
    saved = load_file(stage.out / "adapter_model.safetensors")
    assert any(t.any() for name, t in saved.items() if "lora_B" in name)


def test_rewards_score_what_they_say() -> None:
    from lingraft.train.rewards import contains, han, number, short

    assert (contains("答案是 四 十二。", "四十二"), contains("no", "yes")) == (1, 0)
    assert (number("3 + 4 = 1,007", "so 1007"), number("about 7", "8"), number("none", "8")) == (1, 0, 0)
    assert (han("你好 ok", ""), han("", ""), short("a" * 300, "")) == (0.5, 0, 0.5)


def test_trls_own_settings_are_known_and_misspelt_ones_refused() -> None:
    from lingraft.recipe import Recipe
    from lingraft.recipe_keys import check_keys

    def recipe(key: str) -> Recipe:
        return Recipe.model_validate(
            {"name": "x", "base": "b", "out": "o", "prefer": {"data": "d", "trainer": {key: 0.1}}}
        )

    check_keys(recipe("beta"))
    with pytest.raises(Refusal, match="betta"):
        check_keys(recipe("betta"))


def test_both_shapes_are_read_and_equal_answers_refused_by_line(tmp_path: Path, pairs: Path) -> None:
    found = preferences([pairs], Findings())
    assert len(found) == 8 and found[1].chosen == "不客气。" and found[1].prompt[0].content == "谢谢"
    (tmp_path / "bad.jsonl").write_text(json.dumps({**ROW, "rejected": ROW["chosen"]}))
    with pytest.raises(Refusal) as refused:
        preferences([tmp_path / "bad.jsonl"], Findings())
    assert refused.value.problems[0].path == f"{tmp_path / 'bad.jsonl'}:1"


def test_the_published_set_is_read_whole(test_data: Path) -> None:
    findings = Findings(allow=frozenset({"data-invalid"}))
    assert len(preferences([test_data / "instructions" / "preference-zh-300.json"], findings)) > 290
