"""What is wrong in a later stage is told before the first one runs."""

import json
from pathlib import Path

import pytest

from lingraft.check import check
from lingraft.pipeline import run
from lingraft.problems import Findings, Refusal
from lingraft.recipe import parse
from lingraft.recipe_file import load

RECIPE = """
name: tiny
base: {base}
out: {out}
pretrain: {{data: "lingraft:zh-heldout.jsonl", length: 64}}
sft: {{data: {rows}, length: 64}}
evaluate: {{text: {text}}}
"""
GOOD = {"instruction": "你好", "output": "你好！"}


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: Path) -> Path:
    rows, text, file = tmp_path / "rows.jsonl", tmp_path / "held.txt", tmp_path / "r.yaml"
    rows.write_text("\n".join(map(json.dumps, [GOOD, GOOD, {"instruction": "没有回答"}])), encoding="utf-8")
    text.write_text("长城", encoding="utf-8")
    file.write_text(RECIPE.format(base=tiny_llama, out=tmp_path / "run", rows=rows, text=text), encoding="utf-8")
    return file


def told(error: pytest.ExceptionInfo[Refusal]) -> list[tuple[str, str]]:
    return [(problem.code, problem.message) for problem in error.value.problems]


def test_check_reads_the_rows_of_every_stage(recipe: Path) -> None:
    with pytest.raises(Refusal) as error:
        check(recipe, (), False, Findings())
    assert [(code, "rows.jsonl:3" in message) for code, message in told(error)] == [("data-invalid", True)]
    assert "data" in check(recipe, (), False, Findings(allow=frozenset({"data-invalid"})))["checked"]


def test_check_reads_what_grpo_reads_and_leaves_the_hub_alone(recipe: Path) -> None:
    rows = recipe.parent / "rows.jsonl"
    rows.write_text(json.dumps(GOOD), encoding="utf-8")
    for data in (str(rows), "someone/prompts"):
        prefer = f"prefer={{method: grpo, rewards: [{{kind: han}}], data: {data}}}"
        assert "data" in check(recipe, (prefer,), False, Findings())["checked"]


def test_a_reward_that_does_not_exist_is_refused_before_anything_begins(recipe: Path) -> None:
    prefer = "prefer={method: grpo, rewards: [{kind: kindness}], data: someone/prompts}"
    with pytest.raises(Refusal) as error:
        check(recipe, (prefer,), False, Findings())
    assert [code for code, message in told(error) if "kindness is none of contains" in message] == ["recipe-invalid"]


def test_a_length_in_trls_own_words_is_refused_before_anything_begins(recipe: Path) -> None:
    with pytest.raises(Refusal, match=r"prefer\.length says how long"):
        check(recipe, ("prefer={data: someone/pairs, trainer: {max_length: 64}}",), False, Findings())


def test_a_run_refuses_a_file_that_a_later_stage_lacks(recipe: Path) -> None:
    (recipe.parent / "held.txt").unlink()
    with pytest.raises(Refusal) as error:
        run(load(recipe), Findings())
    assert told(error)[0][0] == "not-found" and "held.txt" in told(error)[0][1]
    assert not (recipe.parent / "run" / "pretrain").exists()


def test_a_run_refuses_targets_that_a_later_stage_does_not_find(recipe: Path) -> None:
    raw = load(recipe).model_dump(mode="json", exclude_none=True)
    raw["sft"]["techniques"] = [{"kind": "lora", "targets": ["no_such_layer"]}]
    with pytest.raises(Refusal) as error:
        run(parse(raw), Findings())
    assert "no_such_layer" in told(error)[0][1]
    assert not (recipe.parent / "run" / "pretrain").exists()


def test_a_template_and_a_run_folder_that_cannot_be_are_refused_at_once(recipe: Path) -> None:
    (recipe.parent / "rows.jsonl").write_text(json.dumps(GOOD), encoding="utf-8")
    with pytest.raises(Refusal) as error:
        check(recipe, ("sft.template=nosuch",), False, Findings())
    assert told(error) == [("recipe-invalid", "template: 'nosuch' is no template")]
    with pytest.raises(Refusal) as error:
        check(recipe, (f"out={recipe}/run",), False, Findings())
    assert told(error)[0][0] == "unreadable"


def test_what_a_recipe_goes_on_from_and_what_gguf_cannot_hold_are_told_before_training(
    recipe: Path, tmp_path: Path
) -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    (recipe.parent / "rows.jsonl").write_text(json.dumps(GOOD), encoding="utf-8")
    with pytest.raises(Refusal) as error:
        check(recipe, (f"sft.continue={tmp_path}/none",), False, Findings())
    assert told(error)[0][0] == "not-found"
    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    Olmo2ForCausalLM(Olmo2Config(num_attention_heads=2, num_key_value_heads=2, **small)).save_pretrained(tmp_path / "o")
    with pytest.raises(Refusal) as error:
        check(recipe, (f"base={tmp_path}/o", "export=[{to: gguf}]"), False, Findings())
    assert "olmo2" in told(error)[0][1]


def test_a_window_of_stages_that_holds_none_is_refused(recipe: Path) -> None:
    with pytest.raises(Refusal, match="sft comes before merge"):
        run(load(recipe), Findings(), first="merge", last="sft")


def test_a_classifiers_report_does_not_send_its_reader_to_chat() -> None:
    from lingraft.facts import next_commands
    from lingraft.pipeline import Run

    value = parse({"name": "c", "base": "b", "out": "o o", "classify": {"data": "d.tsv"}})
    assert next_commands(Run(value, Path("b"), Findings())) == ["lingraft inspect 'o o'"]
