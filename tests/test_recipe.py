"""Recipes: what is read, what is refused, and that every refusal names the key by its path."""

from pathlib import Path

import pytest

from lingraft.problems import Refusal
from lingraft.quickstart.recipes import names
from lingraft.recipe import Recipe, parse
from lingraft.recipe_file import load
from lingraft.recipe_keys import check_keys

SMALL = {"name": "x", "base": "b", "out": "o", "pretrain": {"data": "d.txt"}}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def messages(error: pytest.ExceptionInfo[Refusal]) -> str:
    assert all(p.code == "recipe-invalid" for p in error.value.problems)
    return " | ".join(p.message for p in error.value.problems)


@pytest.mark.parametrize("name", names())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    recipe = load(Path(__file__).parent.parent / "recipes" / f"{name}.yaml")
    check_keys(recipe)
    assert recipe.name == name


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    file = write(tmp_path / "r.yaml", "name: x\nbase: b\nout: o\nsft: {data: d.json, trainer: {learning_rate: 2e-4}}")
    recipe = load(file)
    assert recipe.sft is not None
    assert recipe.sft.trainer["learning_rate"] == 0.0002


def test_an_unknown_key_is_refused_by_its_path_with_the_nearest_known_one() -> None:
    with pytest.raises(Refusal) as error:
        parse({**SMALL, "pretrain": {"data": "d", "lenght": 5}})
    assert "pretrain.lenght: unknown key; did you mean 'length'?" in messages(error)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(Refusal) as error:
        parse({**SMALL, "sede": 1, "merge": {"dtypo": "keep"}})
    assert "sede" in messages(error)
    assert "merge.dtypo" in messages(error)


def test_an_unknown_trainer_argument_is_refused_by_its_path() -> None:
    with pytest.raises(Refusal) as error:
        check_keys(parse({**SMALL, "pretrain": {"data": "d", "trainer": {"learnin_rate": 1e-4}}}))
    assert "pretrain.trainer.learnin_rate" in messages(error)
    assert "learning_rate" in messages(error)


def test_a_later_stage_with_an_unknown_cleaning_step_is_refused_before_any_stage_runs() -> None:
    with pytest.raises(Refusal) as error:
        check_keys(parse({**SMALL, "sft": {"data": "d", "clean": ["tidy"], "augment": ["shout"]}}))
    assert "sft.clean.0: 'tidy' is no step" in messages(error)
    assert "sft.augment.0" in messages(error)


def test_training_settings_outside_trainer_are_sent_there() -> None:
    with pytest.raises(Refusal) as error:
        parse({**SMALL, "pretrain": {"data": "d", "epochs": 3}})
    assert "stand under `trainer:`" in messages(error)


def test_an_unknown_technique_and_a_wrong_key_inside_one_are_refused() -> None:
    with pytest.raises(Refusal) as error:
        parse({**SMALL, "pretrain": {"data": "d", "techniques": [{"kind": "lorra"}]}})
    assert "did you mean 'lora'?" in messages(error)
    with pytest.raises(Refusal) as error:
        parse({**SMALL, "pretrain": {"data": "d", "techniques": [{"kind": "lora", "rank": 8}]}})
    assert "rank" in messages(error)


def test_early_stopping_without_validation_is_refused() -> None:
    recipe = parse({**SMALL, "pretrain": {"data": "d", "techniques": [{"kind": "lora"}, {"kind": "early_stopping"}]}})
    with pytest.raises(Refusal) as error:
        check_keys(recipe)
    assert "pretrain.validation" in messages(error)


def test_set_overrides_a_key_and_an_item_of_a_list(tmp_path: Path) -> None:
    text = "name: x\nbase: b\nout: o\npretrain: {data: d, techniques: [{kind: lora, r: 8}]}"
    recipe = load(write(tmp_path / "r.yaml", text), ("seed=7", "pretrain.techniques.0.r=32"))
    assert recipe.seed == 7
    assert recipe.pretrain is not None
    assert recipe.pretrain.techniques[0].r == 32


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as error:
        load(write(tmp_path / "r.yaml", "name: x\nname: y\nbase: b\nout: o\n"))
    assert "stands twice" in messages(error)


def test_a_recipe_round_trips_through_its_json(tmp_path: Path) -> None:
    recipe = load(Path(__file__).parent.parent / "recipes" / "llama2-7b-zh.yaml")
    again = parse(recipe.as_json())
    assert isinstance(again, Recipe)
    assert again == recipe


def test_a_stage_without_techniques_gets_a_checked_lora() -> None:
    recipe = parse(SMALL)
    assert recipe.pretrain is not None
    assert recipe.pretrain.techniques[0].kind == "lora"
    assert recipe.pretrain.techniques[0].targets == "all-linear"


def told(changes: dict[str, object]) -> str:
    with pytest.raises(Refusal) as error:
        check_keys(parse({**SMALL, **changes}))
    return messages(error)


def test_every_wrong_technique_is_told_by_its_number() -> None:
    wrong = told(
        {"sft": {"data": "d", "techniques": [{"kind": "lora", "rank": 4}, "lroa", None, {"kind": "os:system"}]}}
    )
    assert all(f"sft.techniques.{where}" in wrong for where in ("0.rank", "1", "2", "3"))


def test_an_empty_block_and_a_recipe_without_any_are_refused() -> None:
    assert "sft: this block is empty" in told({"sft": None})
    with pytest.raises(Refusal, match="nothing to do"):
        parse({"name": "x", "base": "b", "out": "o"})


def test_what_yaml_took_for_something_else_is_to_be_put_in_quotes() -> None:
    assert "name: YAML reads this as False" in told({"name": False})
    trainer = {"eval_strategy": False}
    assert "YAML reads this as False" in told({"sft": {"data": "d", "trainer": trainer}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "fast"),
        ("max_steps", "two"),
        ("per_device_train_batch_size", 0),
        ("lr_scheduler_type", "cosinus"),
        ("optim", "adamm"),
        ("warmup_ratio", 2),
        ("bf16", 3),
    ],
)
def test_a_value_that_transformers_would_not_take_is_refused_before_a_run(key: str, value: object) -> None:
    assert f"pretrain.trainer.{key}" in told({"pretrain": {"data": "d", "trainer": {key: value}}})


def test_values_as_people_write_them_are_taken() -> None:
    trainer = {"learning_rate": "1e-4", "lr_scheduler_type": "wsd", "eval_steps": None, "warmup_steps": 0.1}
    check_keys(parse({**SMALL, "pretrain": {"data": "d", "trainer": trainer}}))


def test_what_the_last_stages_would_refuse_is_refused_first() -> None:
    wrong = told({"merge": {"dtype": "float17", "shard_size": "5XB"}, "sft": {"data": "d", "validation": 1.5}})
    assert all(key in wrong for key in ("merge.dtype", "merge.shard_size", "sft.validation"))
    assert "'nonsense' is not a start" in told({"vocab": {"corpus": "c", "init": "nonsense"}})
    with pytest.raises(Refusal, match="nowhere does not exist"):
        check_keys(parse({**SMALL, "evaluate": {"tasks": ["ceval=/nowhere"]}}))


def test_set_drops_a_block_and_refuses_what_is_no_yaml(tmp_path: Path) -> None:
    file = write(tmp_path / "r.yaml", "name: x\nbase: b\nout: o\nsft: {data: d.json}\nevaluate: {text: t.txt}")
    assert load(file, ("evaluate=null",)).evaluate is None
    with pytest.raises(Refusal, match="not readable YAML"):
        load(file, ("sft.length=[",))
