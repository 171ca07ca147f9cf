"""With a recipe a plan weighs the recipe's own stages, and `check` refuses what cannot fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lingraft.plan.run import plan, require_fit
from lingraft.plan.tokens import Supervised, risk, warning
from lingraft.problems import Findings
from lingraft.recipe import Recipe, parse


def recipe(base: Path, text: Path, rows: int = 5000, **changes: Any) -> Recipe:
    lora = {"kind": "lora", "r": 4, "save": ["embed_tokens", "lm_head"]}
    block = {"data": str(text), "length": 64, "techniques": [lora], "trainer": {"num_train_epochs": 2}, **changes}
    return parse(
        {
            "name": "x",
            "base": str(base),
            "out": "runs/x",
            "vocab": {"corpus": str(text), "size": rows},
            "pretrain": block,
        }
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"The {n}th sentence of a small corpus."}) + "\n" for n in range(20)))
    return path


def test_the_recipes_own_techniques_and_text_are_weighed(tiny_untied: Path, text: Path) -> None:
    answer = plan("unused", recipe=recipe(tiny_untied, text), hardware="L4")
    (stage,) = answer["stages"]
    assert stage["parts"]["trained_embedding"] == 5400 * 32 * 16
    assert 100 < stage["supervised_tokens"] < 1000
    assert stage["overfitting"] == "high"
    assert "by heart" in stage["advice"]


def test_a_recipe_that_fits_is_let_pass(tiny_untied: Path, text: Path) -> None:
    findings = Findings()
    require_fit(recipe(tiny_untied, text), tiny_untied, findings, "L4")
    assert not findings.problems


def test_what_does_not_fit_is_refused_with_what_breaks_it_and_what_helps(llama2_7b: Path, text: Path) -> None:
    findings = Findings()
    thrifty = {"gradient_checkpointing": True, "per_device_train_batch_size": 1}
    require_fit(recipe(llama2_7b, text, rows=20000, trainer=thrifty), llama2_7b, findings, "RTX 4090", "21GB")
    (problem,) = findings.problems
    assert problem.code == "does-not-fit"
    assert "what breaks it is the trained embedding and head" in problem.message
    assert problem.remedy.startswith("rows: new instead of save: [embed_tokens, lm_head]")


@pytest.mark.parametrize(
    ("tokens", "trained", "level"), [(10_000, 5_000_000, "high"), (10**6, 5 * 10**6, "some"), (10**8, 5 * 10**6, "low")]
)
def test_few_tokens_against_many_parameters_threaten_to_overfit(tokens: int, trained: int, level: str) -> None:
    assert risk(tokens, 1, trained) == level
    assert f"{tokens:,} supervised tokens" in warning(risk(tokens, 1, trained), Supervised(tokens, True), 1, trained)


def test_seeing_every_text_often_raises_the_risk() -> None:
    assert risk(100_000, 1, 5_000_000) == "high" or risk(200_000, 20, 5_000_000) == "high"
    assert risk(200_000, 1, 5_000_000) == "some"
