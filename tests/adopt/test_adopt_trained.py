"""An adopted model is a base like another: a whole recipe runs on it, and transformers alone loads what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from adopt_models import save
from tiny_models import make_tokenizer

from lingraft.adopt.run import adopt
from lingraft.problems import Findings

RECIPE = """
name: adopted
base: {base}
out: {out}
pretrain: {{data: {text}, length: 64, trainer: {{max_steps: 2, learning_rate: 1.0e-3}}}}
sft: {{data: {rows}, length: 256, trainer: {{max_steps: 2, learning_rate: 1.0e-3}}}}
"""


def trained(base: Path, folder: Path) -> dict[str, Any]:
    """Run pretrain, sft, merge and verify on a model as a user does, and return the answer."""
    folder.mkdir()
    (folder / "text.txt").write_text("Once upon a time there was a small house by the sea. 从前有一座小房子。\n" * 40)
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}, of course."} for n in ("one", "two", "six")]
    (folder / "rows.json").write_text(json.dumps(rows * 4))
    (folder / "r.yaml").write_text(
        RECIPE.format(base=base, out=folder / "run", text=folder / "text.txt", rows=folder / "rows.json")
    )
    done = warm.lingraft("run", folder / "r.yaml", "--json", LINGRAFT_DTYPE="float32")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    assert [Path(path).name for path in answer["adapters"]] == ["pretrain", "sft"]
    assert {"merge", "verify"} <= {stage["name"] for stage in answer["stages"]}
    return answer


def moved(base: Path, result: Path) -> float:
    """Return how far the logits moved, both models loaded by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(result)("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        one, other = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()(ids).logits
            for path in (base, result)
        )
    assert bool(torch.isfinite(other).all())
    return float((one - other).abs().max())


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_a_recipe_runs_on_weights_that_came_without_config(tmp_path: Path, kind: str) -> None:
    save(kind, tmp_path / "src")
    make_tokenizer(tmp_path / "tokenizer")
    settings = {} if kind == "qwen3" else {"head_dim": "16"}
    adopt(
        tmp_path / "src", tmp_path / "adopted", tokenizer=tmp_path / "tokenizer", settings=settings, findings=Findings()
    )
    answer = trained(tmp_path / "adopted", tmp_path / "work")
    assert moved(tmp_path / "adopted", Path(answer["model"])) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("container", ["gguf", "llama2c"])
def test_a_recipe_runs_on_a_published_container(test_data: Path, tmp_path: Path, container: str) -> None:
    from lingraft.weights.convert import convert

    source = test_data / "models" / "stories260K.bin"
    if container == "gguf":
        convert(source, tmp_path / "stories.gguf", to="gguf", findings=Findings())
        source = tmp_path / "stories.gguf"
    adopt(source, tmp_path / "adopted", findings=Findings())
    answer = trained(tmp_path / "adopted", tmp_path / "work")
    assert moved(tmp_path / "adopted", Path(answer["model"])) > 1e-5
