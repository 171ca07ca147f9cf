"""Every technique of docs/training.md trains, saves and reopens on a tiny model, in both languages' spelling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lingraft.recipe import Recipe
from lingraft.train import pretrain
from lingraft.train.techniques import TABLE

DOCS = Path(__file__).parents[2] / "docs"


def snippets(name: str) -> list[dict[str, Any]]:
    """The YAML blocks of a page."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]


ALONE = [block for block in snippets("training.md") if list(block) == ["techniques"]]


@pytest.mark.parametrize("block", ALONE, ids=lambda b: "+".join(t["kind"] for t in b["techniques"]))
def test_a_documented_technique_trains_and_saves(make_stage: Any, tiny_untied: Path, block: dict[str, Any]) -> None:
    stage = make_stage(tiny_untied, block["techniques"], trainer={"max_steps": 3, "save_steps": 3})
    assert pretrain.run(stage)["steps"] == 3
    name = "model.safetensors" if stage.block.leaves == "model" else "adapter_model.safetensors"
    saved = load_file(stage.out / name)
    assert saved and all(torch.isfinite(t).all() for t in saved.values())


def test_every_technique_is_documented_in_both_languages() -> None:
    for page in ("training.md", "training_zh.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert [kind for kind in TABLE if f"`{kind}`" not in text and f"kind: {kind}" not in text] == []


def test_both_languages_show_the_same_recipes() -> None:
    assert snippets("training.md") == snippets("training_zh.md")


@pytest.mark.parametrize("block", [b for b in snippets("training.md") if "techniques" not in b], ids=str)
def test_a_documented_block_is_a_valid_recipe(block: dict[str, Any]) -> None:
    assert Recipe.model_validate({"name": "x", "base": "b", "out": "o", **block})
