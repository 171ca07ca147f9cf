"""Two checkpoints, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_llama
from transformers import AutoModelForCausalLM

from lingraft.problems import Findings
from lingraft.verify.compare import compare


def held(a: Path, b: Path) -> tuple[dict[str, Any], list[str]]:
    findings = Findings()
    return compare(a, b, findings), [problem.code for problem in findings.problems]


def edited(base: Path, out: Path, **changes: torch.Tensor | None) -> Path:
    """Copy a model's weights with some tensors replaced (None: left out)."""
    tensors = load_file(base / "model.safetensors") | {k.replace("__", "."): v for k, v in changes.items()}
    out.mkdir()
    save_file({k: v for k, v in tensors.items() if v is not None}, out / "model.safetensors")
    (out / "config.json").write_bytes((base / "config.json").read_bytes())
    return out


def test_a_model_equals_itself_however_it_is_sharded(tiny_untied: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_untied).save_pretrained(tmp_path / "cut", max_shard_size="30KB")
    answer, codes = held(tiny_untied, tmp_path / "cut")
    assert (answer["equal"], answer["max_abs"], codes) == (True, 0.0, [])


def test_a_changed_value_is_named_with_its_distance(tiny_untied: Path, tmp_path: Path) -> None:
    norm = load_file(tiny_untied / "model.safetensors")["model.norm.weight"]
    norm[3] += 0.25
    answer, codes = held(tiny_untied, edited(tiny_untied, tmp_path / "b", model__norm__weight=norm))
    assert answer["different"][0] | {"rel": None} == {
        "name": "model.norm.weight",
        "max_abs": 0.25,
        "rel": None,
        "first_row": 3,
        "rows": 1,
    }
    assert not answer["equal"] and codes == ["merged-differs"]


def test_nan_is_found_and_never_hides_a_difference(tiny_untied: Path, tmp_path: Path) -> None:
    norm = load_file(tiny_untied / "model.safetensors")["model.norm.weight"]
    norm[3], norm[5] = float("nan"), 7.0
    answer, codes = held(tiny_untied, edited(tiny_untied, tmp_path / "b", model__norm__weight=norm))
    assert answer["max_abs"] is None and answer["different"][0]["rows"] == 2
    assert codes == ["non-finite", "merged-differs"]


def test_tensors_on_one_side_alone_are_listed(tiny_untied: Path, tmp_path: Path) -> None:
    other = edited(tiny_untied, tmp_path / "b", lm_head__weight=None, extra__weight=torch.ones(2))
    answer, _ = held(tiny_untied, other)
    assert (answer["only_in_a"], answer["only_in_b"]) == (["lm_head.weight"], ["extra.weight"])


def test_a_head_that_is_stored_although_tied_is_no_difference(tiny_llama: Path, tmp_path: Path) -> None:
    embedding = load_file(tiny_llama / "model.safetensors")["model.embed_tokens.weight"]
    answer, _ = held(tiny_llama, edited(tiny_llama, tmp_path / "b", lm_head__weight=embedding.clone()))
    assert answer["equal"]


def test_another_shape_is_told(tmp_path: Path) -> None:
    small, large = make_llama(tmp_path / "a", tied=True, rows=300), make_llama(tmp_path / "b", tied=True, rows=400)
    answer, _ = held(small, large)
    assert answer["different"][0]["shapes"] == {"a": [300, 32], "b": [400, 32]}
    assert answer["max_abs"] is None


def test_another_dtype_is_told_and_its_rounding_measured(tiny_untied: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_untied).bfloat16().save_pretrained(tmp_path / "half")
    answer, _ = held(tiny_untied, tmp_path / "half")
    assert {"name": "lm_head.weight", "a": "F32", "b": "BF16"} in answer["dtypes"]
    assert 0 < answer["max_abs"] < 1e-3
