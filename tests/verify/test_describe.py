"""What `verify` and `compare` say in a terminal: a verdict and a table by kind, in words and in Chinese."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from verify_models import Merge

from lingraft.language.summary import summary
from lingraft.problems import Findings
from lingraft.verify.compare import compare
from lingraft.verify.describe import describe, describe_comparison
from lingraft.verify.merged import verify_merged
from lingraft.verify.update import verify_adapter


def test_a_proof_of_update_counts_what_moved_by_kind(merge: Merge) -> None:
    told = describe(verify_adapter(merge.adapters[0], merge.base, Findings())).splitlines()
    assert told[0] == f"{merge.adapters[0]}, held against {merge.base}"
    kinds = [line.split()[:4] for line in told if line.startswith("  self_attn.q_proj")]
    assert kinds == [["self_attn.q_proj", "3", "of", "3"]]


def test_a_damaged_merge_names_how_many_tensors_and_the_layer(merge: Merge, copy: Callable[[], Path]) -> None:
    model = copy()
    file = next(f for f in model.glob("*.safetensors") if "model.layers.1.mlp.up_proj.weight" in load_file(f))
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3] = 0
    save_file(tensors, file, metadata={"format": "pt"})
    found = describe(verify_merged(model, merge.base, merge.adapters, Findings()))
    assert "1 of 30 differ" in found and "first layer     model.layers.1" in found
    assert f"mlp.up_proj{'':<5}1 of 1" in found
    assert "1 of 30 tensors differ" in describe_comparison("a", "b", compare(merge.model, model, Findings()))


def test_equal_models_are_said_to_be_equal_in_both_languages(merge: Merge) -> None:
    told = describe_comparison("one", "two", compare(merge.model, merge.model, Findings()))
    assert told == "one and two: equal, all 30 tensors"
    assert summary(told) == "one 与 two：相同，共 30 个张量"
